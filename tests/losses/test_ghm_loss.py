import copy
import math
import shutil

import numpy as np
import pytest
import torch

from ghmdet.losses import GHMC, GHMR, FocalLoss, gradient_density
from tests import golden
from tests.losses.literal import Literal

CASES = {  # loss, rows, steps
    'ghmc': (GHMC(bins=30, momentum=0.75), 200, 4),
    'ghmc_nomom': (GHMC(bins=10, momentum=0, loss_weight=2.0), 200, 2),
    'ghmc_none': (GHMC(bins=30, momentum=0.75, reduction='none'), 50, 1),
    'ghmc_allignored': (GHMC(bins=30, momentum=0.75), 50, 1),
    'ghmr': (GHMR(mu=0.02, bins=10, momentum=0.7, loss_weight=10.0), 500, 4),
    'ghmr_nomom': (GHMR(mu=0.05, bins=7, momentum=0), 500, 1),
    'ghmr_allignored': (GHMR(mu=0.02, bins=10, momentum=0.7, loss_weight=10.0), 50, 1),
}


def draw_golden(case, num, step):
    """Predictions, targets and weights of a step, as MMDetection got them."""

    def draw(kind, name, *shape):
        values = kind(f'{case}.{name}{step}', shape, golden.SEED)
        return torch.from_numpy(np.ascontiguousarray(values))

    if case.startswith('ghmc'):
        pred, weight = draw(golden.normal, 'pred', num, 20) * 2 - 2, draw(golden.uniform, 'w', num)
        labels = (draw(golden.uniform, 'lab', num) * 3 * 20).long().clamp(max=20)
        return pred, labels, (weight > 0.1).float()
    pred, target = (draw(golden.normal, name, num, 4) * np.float32(0.3) for name in ('pred', 'tgt'))
    return pred, target, (draw(golden.uniform, 'w', num, 1) > 0.7).float().repeat(1, 4)


@pytest.mark.parametrize('case', CASES)
def test_golden(case):
    figures = golden.load('losses')
    loss_fn, num, steps = CASES[case]
    for step in range(steps):
        pred, target, weight = draw_golden(case, num, step)
        weight *= not case.endswith('allignored')
        loss = loss_fn(pred.requires_grad_(), target, weight, avg_factor=123)
        loss.sum().backward()
        name = f'{case}.{step}'
        np.testing.assert_allclose(loss.detach(), figures[f'{name}.loss'], rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(pred.grad, figures[f'{name}.grad'], rtol=2e-5, atol=1e-8)
        if f'{name}.acc_sum' in figures:
            np.testing.assert_allclose(loss_fn.acc_sum, figures[f'{name}.acc_sum'], rtol=1e-6)


def test_four_logits_worked_by_hand():
    # g = .5, .5, .25, .75; two bins: [0, .5) holds one entry, [.5, 1] three.
    logit = np.log(3)
    pred = torch.tensor([[0.0], [0.0], [-logit], [logit]])
    target = torch.zeros(4, 1)
    loss = GHMC(bins=2, reduction='none')(pred, target, torch.ones(4, 1))
    per_entry = -np.log([0.5, 0.5, 0.75, 0.25])
    weights = np.array([4 / 3, 4 / 3, 4 / 1, 4 / 3]) / 2
    assert loss.flatten().tolist() == pytest.approx((per_entry * weights).tolist())


def test_running_counts_worked_by_hand():
    loss_fn = GHMC(bins=2, momentum=0.75)
    easy, hard = torch.full((8, 1), -3.0), torch.full((4, 1), 3.0)
    background = torch.ones(8, dtype=torch.int64)
    loss_fn(easy, background, torch.ones(8))
    assert loss_fn.acc_sum.tolist() == [2.0, 0.0]
    loss_fn(hard, background[:4], torch.ones(4))
    # The empty bin keeps its count.
    assert loss_fn.acc_sum.tolist() == [2.0, 1.0]


@pytest.mark.parametrize('loss_fn', [GHMC(momentum=0.75), GHMC(), GHMR(momentum=0.7), GHMR()])
def test_nothing_valid_is_zero_and_moves_nothing(loss_fn):
    before = {name: value.clone() for name, value in loss_fn.state_dict().items()}
    for num in (6, 0):
        pred = torch.randn(num, 4, requires_grad=True)
        loss = loss_fn(pred, torch.zeros(num, 4), torch.zeros(num, 4))
        loss.backward()
        assert loss.item() == 0
        assert pred.grad.abs().sum() == 0
    assert all(torch.equal(before[k], v) for k, v in loss_fn.state_dict().items())


def draw_in_bins(num, num_classes, bins, generator):
    """Logits (n, C) and labels (n,) whose g lies well within its bin, and these bins (n, C)."""
    inds = torch.randint(0, bins, (num, num_classes), generator=generator)
    g = (inds + 0.2 + 0.6 * torch.rand(num, num_classes, generator=generator).double()) / bins
    labels = torch.randint(0, 2 * num_classes, (num,), generator=generator)
    one_hot = labels[:, None] == torch.arange(num_classes)
    pred = torch.logit(torch.where(one_hot, 1 - g, g))
    return pred.float(), labels.clamp(max=num_classes), one_hot.double()


@pytest.mark.parametrize(
    ('num', 'num_classes', 'bins'),
    [
        *((n, c, b) for n, c in [(1, 1), (1, 80), (3, 1), (1639, 80)] for b in (10, 11, 30)),
        (12_500, 80, 11),
        pytest.param(1_000_003, 1, 30, marks=pytest.mark.long),
        pytest.param(125_000, 80, 30, marks=pytest.mark.long),
    ],
)
def test_ghmc_is_exact_at_all_sizes(num, num_classes, bins):
    pred, labels, one_hot = draw_in_bins(
        num, num_classes, bins, torch.Generator().manual_seed(num + bins)
    )
    label_weight = (torch.arange(num) % 7 != 3).float()
    loss_fn = GHMC(bins, momentum=0.75)
    loss = loss_fn(pred.requires_grad_(), labels, label_weight)
    (gradient,) = torch.autograd.grad(loss, pred)
    literal = Literal(bins, 0.75, 1 + 1e-6)
    expected, expected_gradient = literal.ghmc(
        pred.detach().double(), one_hot, label_weight[:, None].expand(num, num_classes)
    )
    assert loss.item() == pytest.approx(expected.item(), rel=2e-6)
    assert loss_fn.acc_sum.tolist() == pytest.approx(literal.acc_sum, rel=1e-6)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=2e-5, atol=0)


@pytest.mark.parametrize('bins', [1, 2, 7, 10, 11, 30, 49, 254])
def test_every_edge_belongs_to_the_bin_above_it(bins):
    loss_fn = GHMC(bins)
    inner = loss_fn.edges[1:-1]
    below = torch.nextafter(inner, torch.zeros(()))
    for norm, inds in ((inner, range(1, bins)), (below, range(bins - 1))):
        found = loss_fn._find_bins(norm[None], torch.zeros(1, 1, dtype=torch.bool))
        assert found.tolist() == [list(inds)]
    ends = loss_fn._find_bins(torch.tensor([[0.0, -1.0, 1.0]]), torch.tensor([[False]]))
    assert ends.tolist() == [[0, bins - 1, bins - 1]]
    assert loss_fn._finds_bin_by_product or bins not in (10, 30)
    everywhere = torch.arange(2**20) / 2**20  # exact in float32
    found = loss_fn._find_bins(everywhere[None], torch.zeros(1, 1, dtype=torch.bool))
    edges = torch.arange(bins) / bins
    assert found[0].long().equal(torch.bucketize(everywhere, edges, right=True) - 1)


@pytest.mark.parametrize('logit', [-3e4, -100.0, -17.0, -1e-3, 0.0, 1e-3, 5.0, 90.0, 3e4])
@pytest.mark.parametrize('target', [0.0, 0.25, 1.0])
def test_entropy_of_any_logit(logit, target):
    expected = max(logit, 0) - logit * target + math.log1p(math.exp(-abs(logit)))
    pred = torch.tensor([[logit]])
    for given in ([[target]], [1 - int(target)]) if target != 0.25 else ([[target]],):
        loss = GHMC(bins=1)(pred, torch.tensor(given))  # one entry of weight 1
        assert loss.item() == pytest.approx(expected, rel=2e-7, abs=1e-7)


def calls_to_compare():
    generator = torch.Generator().manual_seed(5)
    pred = torch.randn(200, 6, generator=generator) * 2
    labels = torch.randint(0, 9, (200,), generator=generator).clamp(max=6)
    row_weight = (torch.rand(200, generator=generator) > 0.2).float()
    target = (torch.rand(200, 6, generator=generator) > 0.8).float()
    weight = (torch.rand(200, 6, generator=generator) > 0.2).float()
    return {
        'labels': (GHMC(30, 0.75), (pred, labels, row_weight)),
        'targets': (GHMC(11), (pred, target, weight)),
        'none': (GHMC(10, 0.5, reduction='none'), (pred, labels, row_weight)),
        'boxes': (GHMR(momentum=0.7), (pred, target, weight)),
        'nothing': (GHMC(10, 0.75), (pred[:0], labels[:0], row_weight[:0])),
    }


def check_fused(loss_fn, pred, target, weight, monkeypatch):
    fused = copy.deepcopy(loss_fn)
    for _ in range(3):
        gradients, values = [], []
        for module, can_fuse in ((loss_fn, False), (fused, True)):
            monkeypatch.setattr(gradient_density, '_can_fuse', lambda *_, answer=can_fuse: answer)
            logits = pred.clone().requires_grad_()
            values.append(module(logits, target, weight))
            gradients.append(torch.autograd.grad(values[-1].sum(), logits)[0])
        torch.testing.assert_close(values[1], values[0], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-10)
        if loss_fn.momentum > 0:
            assert fused.acc_sum.equal(loss_fn.acc_sum)


@pytest.mark.parametrize('case', calls_to_compare())
def test_fused_passes_equal_the_plain_ones(case, monkeypatch):
    monkeypatch.setattr(gradient_density, '_compiled', lambda function: function)
    loss_fn, arguments = calls_to_compare()[case]
    check_fused(loss_fn, *arguments, monkeypatch)


@pytest.mark.long  # compiles for half a minute
@pytest.mark.skipif(shutil.which('g++') is None, reason='torch.compile needs a C++ compiler')
def test_compiled_passes_equal_the_plain_ones(monkeypatch):
    loss_fn, arguments = calls_to_compare()['labels']
    check_fused(loss_fn, *arguments, monkeypatch)


@pytest.mark.parametrize('failing', [None, '_count_pass', '_weigh_pass'])
def test_a_pass_that_cannot_be_compiled_leaves_the_plain_ones(failing, monkeypatch, recwarn):
    def compiled(function):
        if function.__name__ == failing:
            raise RuntimeError('no Triton')
        return function

    # A device that says it is CUDA and is the CPU.
    monkeypatch.setattr(gradient_density, '_compiled', compiled)
    device = torch.device('cpu')
    fake = type('Fake', (), {'type': 'cuda'})()
    monkeypatch.setattr(GHMC, 'to', lambda self, _: self)
    zeros = torch.zeros
    monkeypatch.setattr(torch, 'zeros', lambda *a, **k: zeros(*a, **{**k, 'device': device}))
    assert gradient_density._can_fuse.__wrapped__(fake, GHMC) == (failing is None)
    messages = [str(warning.message) for warning in recwarn]
    assert [('no Triton' in message) for message in messages] == ([True] if failing else [])


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('case', calls_to_compare())
def test_cuda_equals_the_cpu_without_waiting_for_the_device(case):
    loss_fn, arguments = calls_to_compare()[case]
    on_cuda = copy.deepcopy(loss_fn).cuda()
    pred, target, weight = arguments
    expected = torch.autograd.grad(loss_fn(pred.requires_grad_(), target, weight).sum(), pred)[0]
    pred, target, weight = (value.detach().cuda() for value in arguments)
    on_cuda(pred, target, weight)  # compiles
    on_cuda.load_state_dict(type(loss_fn)(loss_fn.bins, loss_fn.momentum).state_dict())
    torch.cuda.set_sync_debug_mode('error')
    try:
        loss = on_cuda(pred.requires_grad_(), target, weight)
        gradient = torch.autograd.grad(loss.sum(), pred)[0]
    finally:
        torch.cuda.set_sync_debug_mode('default')
    torch.testing.assert_close(gradient.cpu(), expected, rtol=1e-4, atol=1e-8)


def test_backward_twice_gives_the_same_gradient():
    pred = torch.tensor([[0.5, -2.0]], requires_grad=True)
    loss = GHMC()(pred, torch.tensor([0]), torch.ones(1))
    first = torch.autograd.grad(3 * loss, pred, retain_graph=True)[0]
    assert torch.autograd.grad(3 * loss, pred)[0].equal(first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('kind', [GHMC, FocalLoss])
def test_other_labels_are_background_on_cuda(kind):
    """The CPU refuses them, which would wait for the device."""
    pred = torch.zeros(4, 2, device='cuda')
    others, background = (torch.tensor(n, device='cuda') for n in ([0, 3, -1, 255], [0, 2, 2, 2]))
    assert kind()(pred, others).item() == pytest.approx(kind()(pred, background).item(), rel=1e-6)
