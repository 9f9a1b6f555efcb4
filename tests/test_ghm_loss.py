import numpy as np
import pytest
import torch

from ghmdet.losses import GHMC, GHMR

from . import golden

GHMC_CASES = {
    'ghmc': (200, 20, dict(bins=30, momentum=0.75), 4),
    'ghmc_nomom': (200, 20, dict(bins=10, momentum=0, loss_weight=2.0), 2),
    'ghmc_none': (50, 20, dict(bins=30, momentum=0.75, reduction='none'), 1),
    'ghmc_allignored': (50, 20, dict(bins=30, momentum=0.75), 1),
}
GHMR_CASES = {
    'ghmr': (500, dict(mu=0.02, bins=10, momentum=0.7, loss_weight=10.0), 4),
    'ghmr_nomom': (500, dict(mu=0.05, bins=7, momentum=0), 1),
    'ghmr_allignored': (50, dict(mu=0.02, bins=10, momentum=0.7, loss_weight=10.0), 1),
}


def tensor(values):
    return torch.from_numpy(np.ascontiguousarray(values))


def check_step(loss_fn, pred, target, weight, figures, name):
    pred.requires_grad_()
    loss = loss_fn(pred, target, weight, avg_factor=123)
    loss.sum().backward()
    np.testing.assert_allclose(loss.detach(), figures[f'{name}.loss'], rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(pred.grad, figures[f'{name}.grad'], rtol=2e-5, atol=1e-8)
    if f'{name}.acc_sum' in figures:
        np.testing.assert_allclose(loss_fn.acc_sum, figures[f'{name}.acc_sum'], rtol=1e-6)


@pytest.mark.parametrize('case', GHMC_CASES)
def test_ghmc_is_golden(case):
    figures = golden.load('losses')
    num, num_classes, kwargs, steps = GHMC_CASES[case]
    loss_fn = GHMC(**kwargs)
    for step in range(steps):
        shape = (num, num_classes)
        pred = tensor(golden.normal(f'{case}.pred{step}', shape, golden.SEED) * 2 - 2)
        label = golden.uniform(f'{case}.lab{step}', (num,), golden.SEED) * 3 * num_classes
        label = tensor(label.astype(np.int64)).clamp(max=num_classes)
        weight = tensor(golden.uniform(f'{case}.w{step}', (num,), golden.SEED) > 0.1).float()
        if case == 'ghmc_allignored':
            weight.zero_()
        check_step(loss_fn, pred, label, weight, figures, f'{case}.{step}')


@pytest.mark.parametrize('case', GHMR_CASES)
def test_ghmr_is_golden(case):
    figures = golden.load('losses')
    num, kwargs, steps = GHMR_CASES[case]
    loss_fn = GHMR(**kwargs)
    for step in range(steps):
        pred = tensor(golden.normal(f'{case}.pred{step}', (num, 4), golden.SEED) * np.float32(0.3))
        target = tensor(golden.normal(f'{case}.tgt{step}', (num, 4), golden.SEED) * np.float32(0.3))
        weight = tensor(golden.uniform(f'{case}.w{step}', (num, 1), golden.SEED) > 0.7).float()
        weight = weight.repeat(1, 4)
        if case == 'ghmr_allignored':
            weight.zero_()
        check_step(loss_fn, pred, target, weight, figures, f'{case}.{step}')


class Literal:
    """The paper's formulas entry by entry and bin by bin, in float64; deliberately slow."""

    def __init__(self, bins, momentum, last_edge):
        self.edges = [i / bins for i in range(bins)] + [last_edge]
        self.momentum = momentum
        self.acc_sum = [0.0] * bins

    def weights(self, g, valid, total):
        weights = torch.zeros_like(g)
        num_filled = 0
        for i in range(len(self.acc_sum)):
            inside = (g >= self.edges[i]) & (g < self.edges[i + 1]) & valid
            count = inside.sum().item()
            if count == 0:
                continue
            num_filled += 1
            self.acc_sum[i] = self.momentum * self.acc_sum[i] + (1 - self.momentum) * count
            weights[inside] = total / self.acc_sum[i]
        return weights / max(num_filled, 1)

    def ghmc(self, pred, target, weight):
        p = pred.sigmoid()
        total = max((weight > 0).sum().item(), 1)
        weights = self.weights((p - target).abs(), weight > 0, total)
        entropy = -(target * p.log() + (1 - target) * (1 - p).log())
        return (entropy * weights).sum() / total, (p - target) * weights / total

    def ghmr(self, pred, target, weight, mu):
        d = pred - target
        root = (d**2 + mu**2).sqrt()
        total = max(weight.sum().item(), 1)
        weights = self.weights((d / root).abs(), weight > 0, total)
        return ((root - mu) * weights).sum() / total, d / root * weights / total


@pytest.mark.parametrize(('bins', 'momentum'), [(1, 0), (10, 0), (30, 0.75), (7, 0.9)])
def test_ghmc_equals_the_literal_formulas_over_many_steps(bins, momentum):
    generator = torch.Generator().manual_seed(3)
    loss_fn, literal = GHMC(bins, momentum), Literal(bins, momentum, 1 + 1e-6)
    for step in range(12):
        num = [40, 1, 300][step % 3]
        pred = torch.randn(num, 6, generator=generator) * 3
        one_hot = (torch.rand(num, 6, generator=generator) > 0.8).float()
        weight = (torch.rand(num, 6, generator=generator) > 0.3).float() * 0.5
        expected, gradient = literal.ghmc(pred.double(), one_hot.double(), weight)
        pred.requires_grad_()
        loss = loss_fn(pred, one_hot, weight)
        loss.backward()
        torch.testing.assert_close(loss.item(), expected.item(), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(pred.grad.double(), gradient, rtol=2e-5, atol=1e-8)
        if momentum:
            torch.testing.assert_close(loss_fn.acc_sum.tolist(), literal.acc_sum, rtol=1e-6, atol=0)


@pytest.mark.parametrize(('bins', 'momentum'), [(1, 0), (10, 0.7)])
def test_ghmr_equals_the_literal_formulas_over_many_steps(bins, momentum):
    generator = torch.Generator().manual_seed(4)
    loss_fn = GHMR(mu=0.1, bins=bins, momentum=momentum)
    literal = Literal(bins, momentum, 1e3)
    for _ in range(8):
        pred, target = torch.randn(2, 50, 4, generator=generator) * 0.2
        weight = (torch.rand(50, 4, generator=generator) > 0.5) * 0.5
        expected, gradient = literal.ghmr(pred.double(), target.double(), weight, 0.1)
        pred.requires_grad_()
        loss = loss_fn(pred, target, weight)
        loss.backward()
        torch.testing.assert_close(loss.item(), expected.item(), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(pred.grad.double(), gradient, rtol=2e-5, atol=1e-8)


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


def test_without_momentum_the_weights_of_valid_entries_average_to_one():
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(100, 5, generator=generator, requires_grad=True)
    weight = (torch.rand(100, generator=generator) > 0.2).float()
    labels = torch.randint(0, 6, (100,), generator=generator)
    loss = GHMC(bins=10, reduction='none')(pred, labels, weight)
    entropy = GHMC(bins=1, reduction='none')(pred, labels, weight)
    kept = entropy > 0
    assert (loss[kept] / entropy[kept]).mean().item() == pytest.approx(1, rel=1e-5)


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


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('logit', [-100.0, 0.0, 100.0])
@pytest.mark.parametrize('label', [0, 1])
def test_extreme_logits_are_finite_and_counted_once(dtype, logit, label):
    loss_fn = GHMC(bins=30, momentum=0.5)
    pred = torch.full((3, 1), logit, dtype=dtype, requires_grad=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = loss_fn(pred, torch.full((3,), label), torch.ones(3))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert pred.grad.isfinite().all()
    assert loss_fn.acc_sum.sum().item() == 1.5


def test_sum_is_mean_times_total():
    pred = torch.tensor([[0.3, -1.0], [2.0, 0.1]])
    args = (pred, torch.tensor([0, 2]), torch.ones(2))
    mean, total = GHMC()(*args), GHMC()(*args, reduction_override='sum')
    assert total.item() == pytest.approx(4 * mean.item(), rel=1e-5)


@pytest.mark.parametrize(
    ('loss_class', 'kwargs', 'message'),
    [
        (GHMC, dict(bins=0), 'GHMC.bins must be an integer in 1 to 254, got 0'),
        (GHMR, dict(bins=2.5), 'GHMR.bins'),
        (GHMC, dict(momentum=1), r'GHMC.momentum must lie in \[0, 1\), got 1'),
        (GHMR, dict(momentum=-0.1), 'GHMR.momentum'),
        (GHMR, dict(mu=0), 'GHMR.mu must be finite and positive, got 0'),
        (GHMC, dict(use_sigmoid=False), 'GHMC.use_sigmoid'),
        (GHMC, dict(loss_weight=-1), 'GHMC.loss_weight'),
        (GHMC, dict(reduction='median'), "GHMC.reduction must be one of .*got 'median'"),
    ],
)
def test_hyper_parameters_out_of_range(loss_class, kwargs, message):
    with pytest.raises(ValueError, match=message):
        loss_class(**kwargs)
