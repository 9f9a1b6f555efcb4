import numpy as np
import pytest
import torch

from ghmdet.boxes import MaxIoUAssigner, max_iou_assigner
from ghmdet.boxes.max_iou_assigner import bbox_overlaps
from tests import golden

RETINA = dict(pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1)
SETTINGS = dict(
    retina=RETINA,
    ignore={**RETINA, 'ignore_iof_thr': 0.5},
    minpos=dict(pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3),
    nolow={**RETINA, 'match_low_quality': False},
    negrange={**RETINA, 'neg_iou_thr': (0.1, 0.4)},
)


@pytest.mark.parametrize('gts', ['some', 'none'])
@pytest.mark.parametrize('setting', SETTINGS)
def test_golden(setting, gts):
    figures, anchors = golden.load('assigner'), golden.load('anchors')
    priors = torch.cat([torch.from_numpy(anchors[f'grid{i}']) for i in range(5)])
    gt_bboxes = golden.boxes('gt', 6 if gts == 'some' else 0, 150, 201)
    ignored = golden.boxes('ign', 3, 150, 201)
    np.testing.assert_allclose(ignored, figures['ignore'])
    result = MaxIoUAssigner(**SETTINGS[setting]).assign(priors, gt_bboxes, ignored)
    np.testing.assert_array_equal(result.gt_inds, figures[f'{setting}_{gts}_gt_inds'])
    np.testing.assert_array_equal(result.max_overlaps, figures[f'{setting}_{gts}_max_overlaps'])


def rows(*sides):
    """Boxes (0, 0, width, 10), one per side: the IoU of two is the ratio of their widths."""
    return torch.tensor([[0.0, 0.0, side, 10.0] for side in sides])


def test_thresholds_worked_by_hand():
    assigner = MaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.4, match_low_quality=False)
    # IoU with the gt of width 100: 1, .5, .45, .4, .39
    result = assigner.assign(rows(100, 50, 45, 40, 39), rows(100))
    assert result.gt_inds.tolist() == [1, 1, -1, -1, 0]
    assert result.max_overlaps.tolist() == pytest.approx([1, 0.5, 0.45, 0.4, 0.39])


def test_later_gt_wins_a_tie_and_a_low_quality_match():
    assigner = MaxIoUAssigner(pos_iou_thr=0.9, neg_iou_thr=0.1, min_pos_iou=0.2)
    # The first prior is the best of both gts, far below pos_iou_thr.
    result = assigner.assign(rows(40, 39), rows(100, 100))
    assert result.gt_inds.tolist() == [2, -1]


def test_gt_takes_all_tying_priors_or_only_the_first():
    kwargs = dict(pos_iou_thr=0.9, neg_iou_thr=0.1)
    priors, gts = rows(40, 40), rows(100)
    assert MaxIoUAssigner(**kwargs).assign(priors, gts).gt_inds.tolist() == [1, 1]
    first = MaxIoUAssigner(**kwargs, gt_max_assign_all=False)
    assert first.assign(priors, gts).gt_inds.tolist() == [1, -1]


def test_min_pos_iou_bounds_low_quality_matches():
    assigner = MaxIoUAssigner(pos_iou_thr=0.9, neg_iou_thr=0.3, min_pos_iou=0.45)
    assert assigner.assign(rows(40, 20), rows(100)).gt_inds.tolist() == [-1, 0]


def test_prior_inside_an_ignored_region_is_ignored():
    assigner = MaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.4, ignore_iof_thr=0.5)
    priors = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [56, 50, 66, 60]])
    ignored = torch.tensor([[50.0, 50, 60, 60]])
    # 60 % of the last prior lies outside the region, so it stays background.
    result = assigner.assign(priors, priors[:1], ignored)
    assert result.gt_inds.tolist() == [1, -1, 0]
    assert result.max_overlaps.tolist() == [1, -1, 0]


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(pos_iou_thr=0.4, neg_iou_thr=0.5),
        dict(pos_iou_thr=1.5, neg_iou_thr=0.5),
        dict(pos_iou_thr=0.5, neg_iou_thr=(0.4, 0.1)),
        dict(pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=-1),
        dict(pos_iou_thr='0.5', neg_iou_thr=0.4),
        dict(pos_iou_thr=0.5, neg_iou_thr=[0.1, 0.2, 0.4]),
        dict(pos_iou_thr=0.5, neg_iou_thr=float('nan')),
        dict(pos_iou_thr=True, neg_iou_thr=0.4),
    ],
)
def test_thresholds_out_of_range(kwargs):
    with pytest.raises(ValueError, match=r'train_cfg\.assigner: expected 0 <= neg_iou_thr'):
        MaxIoUAssigner(**kwargs)


@pytest.mark.parametrize('value', ['0.5', 1.5, None, True, float('nan')])
def test_share_of_ignored_regions_out_of_range(value):
    with pytest.raises(ValueError, match=r'ignore_iof_thr must be a number in \[0, 1\], or -1'):
        MaxIoUAssigner(0.5, 0.4, ignore_iof_thr=value)


def test_ignored_regions_are_found_without_gts(monkeypatch):
    priors = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [56, 50, 66, 60]])
    ignored = torch.tensor([[50.0, 50, 60, 60], [0, 0, 4, 4]])
    assigner = MaxIoUAssigner(0.5, 0.4, ignore_iof_thr=0.5)
    assert assigner.find_ignored(priors, ignored).tolist() == [False, True, False]
    monkeypatch.setattr(max_iou_assigner, '_MAX_PAIRS', 2)  # one prior per part
    assert assigner.find_ignored(priors, ignored).tolist() == [False, True, False]
    assert assigner.find_ignored(priors, ignored[:0]).tolist() == [False] * 3
    off = MaxIoUAssigner(0.5, 0.4)
    assert off.find_ignored(priors, ignored).tolist() == [False] * 3


def test_overlaps_worked_by_hand():
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 0, 0]])
    b = torch.tensor([[5.0, 5, 15, 15], [20, 20, 30, 30], [3, 3, 3, 3]])
    assert bbox_overlaps(a, b)[0].tolist() == pytest.approx([25 / 175, 0, 0])
    assert bbox_overlaps(a, b)[1].tolist() == [0, 0, 0]
    assert bbox_overlaps(a, b, mode='iof')[0].tolist() == pytest.approx([0.25, 0, 0])


@pytest.mark.parametrize('setting', [*SETTINGS, 'first'])
def test_parts_change_nothing(setting, monkeypatch):
    settings = {**RETINA, 'gt_max_assign_all': False} if setting == 'first' else SETTINGS[setting]
    assigner = MaxIoUAssigner(**settings)
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.randint(0, 40, (2, 3000, 2), generator=generator).float()
    priors = torch.cat([corner, corner + size], dim=1)  # whole numbers: many ties
    gts, ignored = priors[:50], priors[50:53]
    assert len(assigner.assign(priors[:0], gts).gt_inds) == 0
    whole = assigner.assign(priors, gts, ignored)
    monkeypatch.setattr(max_iou_assigner, '_MAX_PAIRS', 53 * 70)  # 43 parts
    parts = assigner.assign(priors, gts, ignored)
    assert parts.gt_inds.equal(whole.gt_inds)
    assert parts.max_overlaps.equal(whole.max_overlaps)
