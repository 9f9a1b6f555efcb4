import pytest
import torch

from ghmdet.boxes import AnchorGenerator
from ghmdet.boxes.anchor_fit import fit_anchors
from ghmdet.boxes.max_iou_assigner import bbox_overlaps


@pytest.mark.parametrize('center_offset', [0.0, 0.5])
def test_equals_the_comparison_with_all_anchors(center_offset):
    generator = AnchorGenerator(
        strides=[8, (16, 32), 64],
        ratios=[0.5, 1.0, 2.0],
        octave_base_scale=4,
        scales_per_octave=3,
        center_offset=center_offset,
    )
    height, width = 160, 224
    grid = generator.grid_priors([(20, 28), (5, 14), (3, 4)])
    levels = torch.cat([torch.full((len(priors),), i) for i, priors in enumerate(grid)])
    drawn = torch.Generator().manual_seed(0)
    corner = torch.rand(400, 2, generator=drawn) * torch.tensor([width, height])
    size = 1 + torch.rand(400, 2, generator=drawn) ** 3 * 200
    boxes = torch.cat([corner, (corner + size).minimum(torch.tensor([width, height]))], 1)
    # Some end at the border, some lie beyond it, where the nearest centre is the last one.
    boxes[:20] += 150
    expected, best = bbox_overlaps(boxes, torch.cat(grid)).max(1)
    found = fit_anchors(
        boxes, torch.tensor([[width, height]]), generator.base_anchors, generator.strides
    )
    torch.testing.assert_close(found.ious, expected, rtol=1e-5, atol=1e-6)
    # Equal overlaps on two levels may go to either.
    clear = found.levels == levels[best]
    assert clear.float().mean() > 0.97


def test_worked_by_hand():
    anchors = [torch.tensor([[-8.0, -8, 8, 8]]), torch.tensor([[-32.0, -32, 32, 32]])]
    boxes = torch.tensor([[8.0, 8, 24, 24], [0, 0, 64, 64], [20, 20, 28, 28], [40, 0, 48, 16]])
    size = torch.tensor([[32.0, 32.0]]).expand(4, 2)
    found = fit_anchors(boxes, size, anchors, [(16, 16), (64, 64)])
    # Centred on (16, 16); 32 of 64 pixels each way of the anchor at the origin; an 8 x 8 box that
    # reaches 4 pixels beyond the anchor centred on (16, 16); outside of the last column's anchor.
    assert found.ious.tolist() == pytest.approx([1.0, 1 / 7, 16 / (256 + 64 - 16), 0.0])
    assert found.levels.tolist() == [0, 1, 0, 0]
    none = fit_anchors(boxes[:0], size[:0], anchors, [(16, 16), (64, 64)])
    assert none.ious.shape == (0,)
