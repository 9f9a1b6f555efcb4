"""The GHM losses: their options, refused settings, and extreme inputs."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ghmdet.losses import GHMC, GHMR, FocalLoss, gradient_density
from tests.losses.literal import Literal

# --- bias_correct and max_weight --------------------------------------------------------------


OPTIONS = [
    dict(bins=1, momentum=0),
    dict(bins=30),
    dict(bins=7, momentum=0.9),
    dict(bias_correct=True),
    dict(max_weight=1.5),
    dict(bias_correct=True, max_weight=0.7),
    dict(bias_correct=True, momentum=0),
]


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('options', OPTIONS, ids=str)
@pytest.mark.parametrize('kind', [GHMC, GHMR])
def test_options_equal_the_literal_formulas(kind, options, fused, monkeypatch):
    monkeypatch.setattr(gradient_density, '_can_fuse', lambda *_: fused)
    monkeypatch.setattr(gradient_density, '_compiled', lambda function: function)
    monkeypatch.setitem(gradient_density._CHUNK, 'cpu', 64)  # several chunks
    options = {'bins': 10, 'momentum': 0.75, **options}
    loss_fn = kind(**options)
    literal = Literal(last_edge=1 + 1e-6 if kind is GHMC else 1e3, **options)
    generator = torch.Generator().manual_seed(7)
    for step in range(10):
        num = [50, 3, 200][step % 3]  # with 3 rows most bins stay empty
        scale = 1.0 if kind is GHMC else 0.1
        pred = torch.randn(num, 4, generator=generator) * scale
        target = (torch.rand(num, 4, generator=generator) > 0.8) * scale
        valid = (torch.rand(num, 4, generator=generator) > 0.3) * 0.5
        formula = literal.ghmc if kind is GHMC else partial(literal.ghmr, mu=0.02)
        expected, gradient = formula(pred.double(), target.double(), valid)
        loss = loss_fn(pred.requires_grad_(), target, valid)
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(pred.grad.double(), gradient, rtol=2e-5, atol=1e-8)
    if options['momentum'] > 0:
        assert loss_fn.acc_sum.tolist() == pytest.approx(literal.acc_sum, rel=1e-6)


def test_bias_correct_worked_by_hand():
    easy, labels = torch.full((8, 1), -3.0), torch.ones(8, dtype=torch.int64)
    entropy = math.log1p(math.exp(-3.0))
    plain, corrected = GHMC(bins=2, momentum=0.75), GHMC(bins=2, momentum=0.75, bias_correct=True)
    # One bin holds all: weight 1. The running count after one call is 2 rather than 8.
    assert plain(easy, labels).item() == pytest.approx(4 * entropy)
    assert corrected(easy, labels).item() == pytest.approx(entropy)
    assert corrected(easy, labels).item() == pytest.approx(entropy)
    assert corrected.acc_sum.tolist() == [3.5, 0.0]
    assert corrected.acc_share.tolist() == [0.4375, 0.0]  # 1 - .75**2, and no call yet


def test_max_weight_and_records_worked_by_hand():
    # g = .25 once and .75 three times: weights 4 / 1 / 2 and 4 / 3 / 2.
    logit, labels = math.log(3), torch.ones(4, dtype=torch.int64)
    pred = torch.tensor([[-logit], [logit], [logit], [logit]])
    loss_fn = GHMC(bins=2, max_weight=1.5, loss_weight=5.0, reduction='none')
    loss = loss_fn(pred, labels)
    easy, hard = -math.log(0.75), -math.log(0.25)
    assert loss.flatten().tolist() == pytest.approx([5 * easy * 1.5, *[5 * hard * 2 / 3] * 3])
    assert loss_fn.bin_records is None
    loss_fn.bin_records = []
    loss_fn(pred, labels)
    ((counts, weights),) = loss_fn.bin_records
    assert counts.tolist() == [1, 3]
    assert weights.tolist() == pytest.approx([1.5, 2 / 3])


def test_options_leave_the_state_dict_alone_and_load_each_others():
    plain, corrected = GHMC(momentum=0.5), GHMC(momentum=0.5, bias_correct=True, max_weight=9)
    assert list(plain.state_dict()) == ['edges', 'acc_sum']
    assert list(GHMC(bias_correct=True).state_dict()) == ['edges']
    pred, labels = torch.full((8, 1), -3.0), torch.ones(8, dtype=torch.int64)
    for _ in range(2):
        plain(pred, labels)
        corrected(pred, labels)
    other = GHMC(momentum=0.5)
    other.load_state_dict(corrected.state_dict())
    assert other.acc_sum[0].item() == 6.0  # 8 * (1 - .5**2)
    # Counts that come without shares are taken for counts of long ago: 0.5 * 6 + 0.5 * 8 entries.
    other = GHMC(momentum=0.5, bias_correct=True)
    other.load_state_dict(plain.state_dict())
    loss = other(pred, labels)
    assert loss.item() == pytest.approx(8 / 7 * math.log1p(math.exp(-3.0)))
    assert other.acc_share.tolist() == [1.0] + [0.0] * 9
    # With its shares a loss continues as if it had not been stored.
    other = GHMC(momentum=0.5, bias_correct=True, max_weight=9)
    other.load_state_dict(corrected.state_dict())
    assert other(pred, labels).equal(corrected(pred, labels))


# --- extreme inputs ---------------------------------------------------------------------------


def count_calls(loss_fn, *arguments):
    """Loss, gradient, and the entries that were found in some bin."""
    loss_fn.bin_records = []
    pred = arguments[0].clone().requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = loss_fn(pred, *arguments[1:])
    loss.sum().backward()
    assert loss.dtype == torch.float32
    return loss, pred.grad, sum(int(counts.sum()) for counts, _ in loss_fn.bin_records)


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
EDGES = [0.0, -0.0, 100.0, -100.0, 1e4, -1e4, 65504.0, 1e-8, 88.73, -103.9]


@settings(max_examples=40, deadline=None)
@given(
    logits=st.lists(
        st.one_of(st.sampled_from(EDGES), st.floats(-1e4, 1e4, width=16)), min_size=0, max_size=12
    ),
    data=st.data(),
    dtype=st.sampled_from(DTYPES),
    bins=st.integers(1, 255),
    momentum=st.sampled_from([0, 0.75, 0.999]),
    bias_correct=st.booleans(),
)
def test_each_valid_entry_is_in_one_bin_and_all_is_finite(
    logits, data, dtype, bins, momentum, bias_correct
):
    num = len(logits) // 2
    pred = torch.tensor(logits[: 2 * num], dtype=dtype).reshape(num, 2)
    labels = data.draw(st.lists(st.integers(0, 2), min_size=num, max_size=num))
    valid = data.draw(st.lists(st.booleans(), min_size=num, max_size=num))
    weight = torch.tensor(valid).float()
    loss_fn = GHMC(bins, momentum, bias_correct=bias_correct)
    loss, gradient, counted = count_calls(loss_fn, pred, torch.tensor(labels).long(), weight)
    assert counted == 2 * sum(valid)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient.dtype == dtype
    loss_fn = GHMR(bins=bins, momentum=momentum, bias_correct=bias_correct)
    loss, gradient, counted = count_calls(loss_fn, pred, torch.zeros(num, 2), weight)
    assert counted == 2 * sum(valid)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize('label', [0, 3], ids=['all positive', 'all negative'])
@pytest.mark.parametrize('logit', [-1e4, -100.0, 0.0, 100.0, 1e4])
@pytest.mark.parametrize('dtype', DTYPES)
def test_all_of_one_kind(dtype, logit, label):
    pred = torch.full((5, 3), logit, dtype=dtype)
    loss, gradient, counted = count_calls(GHMC(30, 0.75), pred, torch.full((5,), label))
    assert counted == 15
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('bins', [11, 30])
@pytest.mark.parametrize('fused', [False, True])
def test_logits_that_are_no_numbers_make_the_loss_none(fused, bins, bad, monkeypatch):
    monkeypatch.setattr(gradient_density, '_can_fuse', lambda *_: fused)
    monkeypatch.setattr(gradient_density, '_compiled', lambda function: function)
    for label in (0, 1):  # positive, background
        pred, labels = torch.tensor([[bad], [0.0]]), torch.tensor([label, 1])
        assert not GHMC(bins, 0.75)(pred, labels).isfinite()
    pred = torch.tensor([[bad, 0.0, 0.0, 0.0]])
    assert not GHMR(bins=bins, momentum=0.7)(pred, torch.zeros(1, 4)).isfinite()


# --- as any other loss ------------------------------------------------------------------------


def test_without_weights_all_entries_count():
    pred, labels = torch.tensor([[0.3, -1.0], [2.0, 0.1]]), torch.tensor([0, 2])
    one_hot = torch.tensor([[1, 0], [0, 0]])
    expected = GHMC()(pred, labels, torch.ones(2))
    for arguments in (
        (pred, labels),
        (pred, labels.int()),
        (pred, labels, torch.ones(2, 2)),
        (pred, one_hot),
        (pred, one_hot, torch.ones(2)),
        (pred, one_hot.bool(), torch.ones(2, 2, dtype=torch.bool)),
        (pred.T.reshape(1, 2, 2), one_hot.T.reshape(1, 2, 2)),
    ):
        assert GHMC()(*arguments, avg_factor=7).item() == pytest.approx(expected.item(), rel=1e-6)
    assert GHMC()(pred[:, 0], torch.tensor([1, 0])).equal(GHMC()(pred[:, :1], torch.tensor([0, 1])))
    target = torch.zeros(2, 2)
    expected = GHMR()(pred, target, torch.ones(2, 2))
    assert GHMR()(pred, target).equal(expected)
    assert GHMR()(pred, target, torch.ones(2)).equal(expected)
    half = GHMR()(pred, target, torch.tensor([1.0, 0.0]))
    assert half.equal(GHMR()(pred, target, torch.tensor([[1.0, 1.0], [0.0, 0.0]])))


@pytest.mark.parametrize('loss_fn', [GHMC(), FocalLoss()], ids=['ghm', 'focal'])
def test_same_call_as_the_other_losses(loss_fn):
    pred, labels = torch.zeros(4, 2), torch.tensor([0, 1, 2, 2])
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0])
    entries = loss_fn(pred, labels, weight, avg_factor=None, reduction_override='none')
    assert entries.shape == (4, 2)
    assert entries[3].tolist() == [0, 0]
    total = loss_fn(pred, labels, weight, reduction_override='sum')
    assert total.item() == pytest.approx(entries.sum().item())
    assert loss_fn(pred, labels, weight, avg_factor=3.0).shape == ()


@pytest.mark.parametrize(
    ('target', 'weight', 'message'),
    [
        (torch.zeros(3).long(), None, r'of pred, \(2, 4\), or integer labels.*got \(3,\)'),
        (torch.zeros(2, 3), None, r'got \(2, 3\)'),
        (torch.zeros(2), None, 'GHMC: expected labels of type int64, got torch.float32'),
        (torch.zeros(2).long(), torch.ones(4), r'label_weight of shape \(2, 4\) or \(2,\), got'),
    ],
)
def test_shapes_that_do_not_fit(target, weight, message):
    with pytest.raises(ValueError, match=message):
        GHMC()(torch.zeros(2, 4), target, weight)
    with pytest.raises(ValueError, match=r'GHMR: expected a target of .* \(2, 4\); got \(2,\)'):
        GHMR()(torch.zeros(2, 4), torch.zeros(2).long())  # boxes have no labels


@pytest.mark.parametrize('kind', [GHMC, FocalLoss])
@pytest.mark.parametrize(('labels', 'found'), [((0, 3), 3), ((-1, 1), -1), ((255, -1), 255)])
@pytest.mark.parametrize('dtype', [torch.int64, torch.int32])
def test_labels_outside_the_classes(kind, labels, found, dtype):
    """Of 2 classes, 2 is background. Three ways to correct it, as the message says."""
    pred, labels = torch.tensor([[0.5, -1.0], [2.0, 0.0]]), torch.tensor(labels, dtype=dtype)
    wrong = (labels < 0) | (labels > 2)
    message = (
        rf'{kind.__name__}: expected labels from 0 to 2 for pred \(n, 2\), got {found} '
        rf'\({int(wrong.sum())} of 2 labels are outside\). Background is 2; pred needs a column '
        'for each class; give entries to ignore a weight of 0'
    )
    for weight in (None, torch.ones(2), torch.ones(2, 2)):
        with pytest.raises(ValueError, match=message):
            kind()(pred, labels, weight)
    background = kind()(pred, labels.masked_fill(wrong, 2))
    assert background.isfinite()
    ignored = kind()(pred, labels, (~wrong).float(), reduction_override='sum')
    kept = kind()(pred[~wrong], labels[~wrong], reduction_override='sum')
    assert ignored.item() == pytest.approx(kept.item())
    if found > 0 and labels.min() >= 0:
        assert kind()(torch.zeros(2, found + 1), labels).isfinite()


@pytest.mark.parametrize('kind', [GHMC, FocalLoss])
def test_labels_of_a_type_that_is_no_integer(kind):
    pred, labels = torch.zeros(2, 2), torch.tensor([0.0, 2.0])
    with pytest.raises(ValueError, match=r'expected labels of type int64, got .*labels\.long\(\)'):
        kind()(pred, labels)
    assert kind()(pred, labels.long()).equal(kind()(pred, torch.tensor([[1, 0], [0, 0]])))


@pytest.mark.parametrize('kind', [GHMC, FocalLoss])
def test_a_compiled_graph_has_no_check_of_labels(kind):
    pred, labels = torch.tensor([[0.5, -1.0], [2.0, 0.0]]), torch.tensor([0, 2])
    torch._dynamo.reset()
    compiled = torch.compile(kind(), backend='eager', fullgraph=kind is FocalLoss)
    assert compiled(pred, labels).item() == pytest.approx(kind()(pred, labels).item())
    assert compiled(pred, labels + 1).item() == pytest.approx(
        kind()(pred, (labels + 1).clamp(max=2)).item()
    )


# --- hyper-parameters -------------------------------------------------------------------------

NO_MOMENTUM = [1, 1.5, -0.1, True, '0.75', None, math.nan, math.inf, [0.5]]
NO_FACTOR = [-1, True, '1', None, math.nan, math.inf]
REFUSED = {
    'bins': ('an integer in 1 to 255', [0, 256, -3, True, '30', 2.5, 30.0, None, math.nan]),
    'momentum': (r'a number in \[0, 1\)', NO_MOMENTUM),
    'loss_weight': ('a number, finite and not negative', NO_FACTOR),
    'reduction': (r"one of \('none', 'mean', 'sum'\)", ['median', None, 1, ['mean']]),
    'bias_correct': ('True or False', [1, 'True', None]),
    'sync': ('True or False', [1, 'True', None]),
    'max_weight': ('a number, finite and positive, or None', [0, -1, math.inf, math.nan, True]),
    'mu': ('a number, finite and positive', [0, '0.02', math.nan]),
    'use_sigmoid': ('True', [False, 1]),
}


@pytest.mark.parametrize(
    ('kind', 'setting'),
    [(GHMC, setting) for setting in REFUSED if setting != 'mu']
    + [(GHMR, setting) for setting in REFUSED if setting != 'use_sigmoid'],
)
def test_refused_settings(kind, setting):
    expected, values = REFUSED[setting]
    for value in values:
        with pytest.raises(ValueError, match=f'^{kind.__name__}.{setting} must be {expected}, '):
            kind(**{setting: value})


def test_numbers_of_numpy_are_numbers():
    loss_fn = GHMC(bins=np.int64(30), momentum=np.float32(0.75), max_weight=np.float64(3))
    assert copy.deepcopy(loss_fn)(torch.zeros(1, 1), torch.tensor([1])).item() > 0
