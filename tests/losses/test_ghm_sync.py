"""Losses of a batch that two processes share, against one process that has it whole."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ghmdet.losses import GHMC, GHMR, gradient_density
from ghmdet.models import DetDataPreprocessor
from ghmdet.registry import MODELS
from ghmdet.structures import DetDataSample, InstanceData
from tests.detectors import detector_cfg, randomize
from tests.two_processes import run_processes

STEPS = 3
BOXES = {
    'a': [[8, 8, 40, 40]],
    'b': [[0, 16, 32, 60], [30, 4, 62, 30]],
    'c': [[20, 20, 44, 50]],
    'empty': [],
    'padding': [[8, 8, 40, 40]],
}


class Backbone(nn.Module):
    """Few convolutions and a frozen batch norm; strides 4 to 32."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8))
        self.stages = nn.ModuleList(nn.Conv2d(8, 8, 3, stride=2, padding=1) for _ in range(3))

    def train(self, mode=True):
        super().train(mode)
        self.stem[1].eval()
        return self

    def forward(self, images):
        maps = [self.stem(images).relu()]
        for stage in self.stages:
            maps.append(stage(maps[-1]).relu())
        return maps


def ghm(sync=True, **options):
    return dict(
        loss_cls=dict(type='GHMC', bins=30, sync=sync, **options),
        loss_bbox=dict(type='GHMR', bins=10, loss_weight=10.0, sync=sync, **options),
    )


FOCAL = dict(loss_cls=dict(type='FocalLoss'), loss_bbox=dict(type='L1Loss'), sync_avg_factor=True)
# What the head has, and the images of each process in a step.
CASES = {
    'three and one': (ghm(momentum=0.75), ['a', 'b', 'empty'], ['c']),
    'all options': (
        ghm(momentum=0.5, bias_correct=True, max_weight=3.0),
        ['a'],
        ['b', 'c', 'empty'],
    ),
    'one without objects': (ghm(momentum=0.75), ['empty'], ['a', 'c']),
    'padding': (ghm(momentum=0.75), ['a', 'b'], ['padding']),
    'padding, no momentum': (ghm(momentum=0), ['padding'], ['b']),
    'without sync': (ghm(sync=False, momentum=0.75), ['a', 'b'], ['empty']),
    'focal': (FOCAL, ['a', 'b', 'empty'], ['c']),
    'focal, padding': (FOCAL, ['padding'], ['a']),
}


def make_batch(names, step):
    """The images and samples of these names."""
    images, samples = [], []
    for name in names:
        generator = torch.Generator().manual_seed(10 * step + list(BOXES).index(name))
        images.append(torch.randn(3, 64, 64, generator=generator, dtype=torch.float64))
        # Image c is padded: many of its anchors are on padding.
        shape = (64, 32) if name == 'c' else (64, 64)
        sample = DetDataSample(metainfo=dict(img_shape=shape, pad_shape=shape))
        bboxes = torch.tensor(BOXES[name]).float().reshape(-1, 4)
        labels = torch.arange(len(bboxes)) + step % 2
        sample.gt_instances = InstanceData(bboxes=bboxes, labels=labels)
        if name == 'padding':
            sample.set_metainfo(dict(is_padding=True))
        samples.append(sample)
    return torch.stack(images), samples


def build(case):
    """A detector that computes in float64, and in float32 in its losses, as always.

    So an entry is in the same bin whether its image is alone in a batch or not.
    """
    cfg = detector_cfg(losses=CASES[case][0])
    cfg['backbone'] = dict(type=Backbone)
    cfg['neck']['in_channels'] = [8] * 4
    model = MODELS.build(cfg).train()
    randomize(model)
    model.double()
    model.bbox_head.loss_cls.float()
    model.bbox_head.loss_bbox.float()
    return model


def train(case, share):
    """Make some steps on a share of the images: losses of each step, and the network's state."""
    model = build(case)
    wrapped = model
    if distributed.is_initialized():
        wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=3e-4, momentum=0.9)
    history = []
    for step in range(STEPS):
        images, samples = make_batch(share, step)
        losses = wrapped(images, samples, mode='loss')
        optimizer.zero_grad()
        sum(sum(values) for values in losses.values()).backward()
        optimizer.step()
        history.append(torch.stack([*losses['loss_cls'], *losses['loss_bbox']]).detach())
    return torch.stack(history), model.state_dict()


# --- four logits on two processes ---------------------------------------------------------------

LOGIT = math.log(3)
# g = .5, .5, .25 and, on the second process, .75 and an entry that does not take part.
SHARES = [([0.0, 0.0, -LOGIT], [1, 1, 1]), ([LOGIT, 9.0], [1, 0])]


def call(loss_fn, rank, reduction='mean'):
    """Loss and gradient of a process's share."""
    logits, valid = SHARES[rank]
    pred = torch.tensor(logits).reshape(-1, 1).requires_grad_()
    loss = loss_fn(
        pred,
        torch.zeros_like(pred),
        torch.tensor(valid).reshape(-1, 1),
        reduction_override=reduction,
    )
    (gradient,) = torch.autograd.grad(loss.sum(), pred)
    return loss.flatten().tolist(), gradient.flatten().tolist()


def run_literal(rank):
    """What one process finds with its share of the four logits."""
    found = {}
    found['unsynced'] = call(GHMC(2), rank)
    for name, fused in (('plain', False), ('fused', True)):
        gradient_density._can_fuse = lambda *_, answer=fused: answer
        gradient_density._compiled = lambda function: function
        found[name] = {r: call(GHMC(2, sync=True), rank, r) for r in ('mean', 'sum', 'none')}
    gradient_density._can_fuse = lambda *_: False
    counting = GHMC(2, momentum=0.75, sync=True)
    counting.bin_records = []
    reduce, calls = gradient_density.all_reduce, []
    gradient_density.all_reduce = lambda tensor: (calls.append(tensor.numel()), reduce(tensor))
    call(counting, rank)
    counting.eval()
    for _ in range(rank):  # one process has a further image to validate
        call(counting, rank)
    counting.train()
    found['reduced numbers'] = list(calls)
    found['counts'] = [counts.tolist() for counts, _ in counting.bin_records]
    found['acc_sum'] = counting.acc_sum.tolist()
    alone = GHMC(2, momentum=0.75)
    call(alone, rank)
    found['acc_sum of each'] = alone.acc_sum.tolist()
    # g = 0 and sqrt(.75) on one process, 0 on the other; label weights .5.
    pred = torch.tensor([[[0.0, 3**0.5]], [[0.0]]][rank]).requires_grad_()
    weight = torch.full_like(pred, 0.5)
    loss = GHMR(mu=1.0, bins=2, sync=True)(pred, torch.zeros_like(pred), weight)
    found['boxes'] = loss.item(), torch.autograd.grad(loss, pred)[0].tolist()
    nothing = torch.zeros(0, 4, requires_grad=True) if rank else torch.ones(1, 4)
    loss = GHMR(sync=True)(nothing, torch.zeros_like(nothing))
    found['nothing'] = loss.item(), loss.requires_grad
    found['shapes'] = [
        pad_batch(rank, sync_batch_shape=True),
        pad_batch(rank, sync_batch_shape=True, is_padding=rank == 1),
        pad_batch(rank, sync_batch_shape=False),
    ]
    return found


def pad_batch(rank, sync_batch_shape, is_padding=False):
    """Size of a process's batch in training and in validation, and of the padded image."""
    shapes = []
    for training in (True, False):
        sample = DetDataSample(metainfo=dict(is_padding=is_padding))
        image = torch.zeros(3, *[(40, 20), (30, 90)][rank])
        preprocessor = DetDataPreprocessor(pad_size_divisor=32, sync_batch_shape=sync_batch_shape)
        batch = preprocessor(dict(inputs=[image], data_samples=[sample]), training)
        shapes.append(tuple(batch['inputs'].shape[-2:]))
    return [*shapes, batch['data_samples'][0].pad_shape]


SCRIPT = """
import sys
from datetime import timedelta
import torch
from torch import distributed
from tests.losses.test_ghm_sync import CASES, run_literal, train

distributed.init_process_group('gloo', timeout=timedelta(seconds=100))
rank = distributed.get_rank()
found = {case: train(case, shares[rank]) for case, (_, *shares) in CASES.items()}
torch.save((run_literal(rank), found), f'{sys.argv[1]}/{rank}.pt')
distributed.destroy_process_group()
"""


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    """What each of the two processes found."""
    folder = tmp_path_factory.mktemp('ghm_sync')
    run_processes(SCRIPT, folder, folder)
    return [torch.load(folder / f'{rank}.pt') for rank in (0, 1)]


def joined(case):
    first, second = CASES[case][1:]
    return train(case, [name for name in first + second if name != 'padding'])


def is_count(name):
    return name.endswith(('acc_sum', 'acc_share'))


@pytest.mark.parametrize('case', [case for case in CASES if 'without sync' not in case])
def test_two_processes_train_as_one_with_the_joined_batch(both, case):
    (losses0, state0), (losses1, state1) = (found[case] for _, found in both)
    losses, state = joined(case)
    torch.testing.assert_close((losses0 + losses1) / 2, losses, rtol=1e-5, atol=1e-7)
    for name, value in state.items():
        torch.testing.assert_close(state0[name], value, rtol=1e-5, atol=1e-8, msg=name)
        assert state1[name].equal(state0[name]), name
        if is_count(name):
            assert value.count_nonzero() > 1
            assert state0[name].equal(value), name


def test_without_sync_each_process_counts_for_itself(both):
    (losses0, state0), (losses1, state1) = (found['without sync'] for _, found in both)
    losses, state = joined('without sync')
    counts = [name for name in state if is_count(name)]
    assert counts == ['bbox_head.loss_cls.acc_sum', 'bbox_head.loss_bbox.acc_sum']
    for name in counts:
        assert not state0[name].isclose(state1[name], rtol=0.1).all()
    # One process may have no objects at all.
    assert state0[counts[1]].sum() > 0
    assert state1[counts[1]].sum() == 0
    assert not ((losses0 + losses1) / 2).isclose(losses, rtol=0.1).all()
    for weight in ('bbox_head.retina_cls.weight', 'bbox_head.retina_reg.weight'):
        assert state0[weight].equal(state1[weight])
        assert not state0[weight].isclose(state[weight], rtol=1e-3).all()


@pytest.mark.parametrize('passes', ['plain', 'fused'])
def test_four_logits_on_two_processes_worked_by_hand(both, passes):
    (found0, _), (found1, _) = both
    # All four together: one entry in the bin [0, .5), three in [.5, 1].
    easy, hard = 4 / 1 / 2, 4 / 3 / 2
    half, quarter, three_quarters = (-math.log(1 - g) for g in (0.5, 0.25, 0.75))
    entries0, entries1 = [half * hard, half * hard, quarter * easy], [three_quarters * hard, 0]
    gradients0, gradients1 = [0.5 * hard, 0.5 * hard, 0.25 * easy], [0.75 * hard, 0]
    by_hand = ((found0, entries0, gradients0), (found1, entries1, gradients1))
    for found, entries, gradients in by_hand:
        for reduction, factor in (('mean', 2 / 4), ('sum', 2)):
            loss, gradient = found[passes][reduction]
            assert loss == [pytest.approx(factor * sum(entries))]
            assert gradient == pytest.approx([factor * gradient for gradient in gradients])
        assert found[passes]['none'] == (pytest.approx(entries), pytest.approx(gradients))
    # Each for itself: weights 3 / 1 / 2 and 3 / 2 / 2, and 1 / 1 / 1.
    assert found0['unsynced'][0] == [pytest.approx((2 * half * 3 / 4 + quarter * 3 / 2) / 3)]
    assert found1['unsynced'][0] == [pytest.approx(three_quarters)]


def test_counts_of_two_processes_worked_by_hand(both):
    (found0, _), (found1, _) = both
    # A quarter of 1 and 3 entries on both, the evaluation that follows moves none.
    assert found0['acc_sum'] == found1['acc_sum'] == [0.25, 0.75]
    assert found0['acc_sum of each'] == [0.25, 0.5]
    assert found1['acc_sum of each'] == [0.0, 0.25]
    assert found0['counts'] == [[1, 3]]
    assert found1['counts'] == [[1, 3], [0, 1]]
    # One collective, of 2 counts and N, by the one call in training mode.
    assert found0['reduced numbers'] == found1['reduced numbers'] == [3]


def test_boxes_and_a_process_without_entries(both):
    (found0, _), (found1, _) = both
    # N is 1.5, the weight of the hard entry 1.5 / 1 / 2, its loss sqrt(3 + 1) - 1; times 2 / N.
    loss, gradient = found0['boxes']
    assert loss == pytest.approx(1.0)
    assert gradient[0] == pytest.approx([0, 0.75**0.5])
    assert found1['boxes'] == (0, [[0]])
    # The first process's 4 entries lie in one bin, of weight 1; the loss is doubled.
    assert found0['nothing'] == (pytest.approx(2 * (math.hypot(1, 0.02) - 0.02)), False)
    assert found1['nothing'] == (0, True)


def test_batches_are_padded_to_a_common_size(both):
    (found0, _), (found1, _) = both
    own0, own1, common = (64, 32), (32, 96), (64, 96)
    # Synced; synced, but the second one is padding and does not count; not synced.
    assert found0['shapes'] == [[common, own0, own0], [own0] * 3, [own0] * 3]
    assert found1['shapes'] == [[common, own1, own1], [common, own1, own1], [own1] * 3]


# --- one process ----------------------------------------------------------------------------------


@pytest.mark.parametrize('joins', [False, True], ids=['no group', 'a group of one'])
@pytest.mark.parametrize(
    'loss_fn', [GHMC(30, 0.75), GHMC(), GHMR(momentum=0.7), GHMR(bias_correct=True, momentum=0.5)]
)
def test_one_process_gets_the_same_bits(loss_fn, joins, tmp_path):
    synced = copy.deepcopy(loss_fn)
    synced.sync = True
    target = torch.zeros(50, 4)
    if joins:
        distributed.init_process_group(
            'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
        )
    try:
        for seed in range(3):
            pred = torch.randn(50, 4, generator=torch.Generator().manual_seed(seed))
            assert synced(pred, target).equal(loss_fn(pred, target))
    finally:
        if joins:
            distributed.destroy_process_group()
    for name, value in loss_fn.state_dict().items():
        assert synced.state_dict()[name].equal(value)
