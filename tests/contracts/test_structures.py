import pytest
import torch

from ghmdet.structures import DetDataSample, InstanceData


@pytest.mark.parametrize('field', ['gt_instances', 'ignored_instances', 'pred_instances'])
def test_fields_are_instances_that_move_and_go(field):
    sample = DetDataSample(metainfo=dict(img_id=3))
    instances = InstanceData(bboxes=torch.ones(2, 4), labels=torch.tensor([1, 0]))
    setattr(sample, field, instances)
    assert torch.equal(getattr(sample.to(torch.float64), field).labels, torch.tensor([1, 0]))
    assert sample.to_dict()[field]['bboxes'].sum().item() == 8
    delattr(sample, field)
    assert field not in sample


def test_unequal_lengths_are_refused():
    instances = InstanceData(bboxes=torch.ones(2, 4))
    with pytest.raises(AssertionError, match='3'):
        instances.labels = torch.ones(3)
