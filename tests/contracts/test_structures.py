import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
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


def test_a_worker_sends_boxes_as_bytes_and_images_as_file_descriptors(monkeypatch):
    sent = []
    share = ForkingPickler._extra_reducers[torch.UntypedStorage]
    monkeypatch.setitem(
        ForkingPickler._extra_reducers,
        torch.UntypedStorage,
        lambda storage: sent.append(storage.nbytes()) or share(storage),
    )
    sample = DetDataSample(metainfo=dict(img_id=3))
    sample.gt_instances = InstanceData(
        metainfo=dict(source='a'),
        bboxes=torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]),
        labels=torch.tensor([2, 0]),
        areas=np.array([4.0, 4.0]),
        names=['cat', 'dog'],
        features=torch.tensor([0.5, 2.0], dtype=torch.bfloat16),
    )
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    inputs = torch.arange(12, dtype=torch.uint8).view(2, 2, 3).permute(2, 0, 1)
    received = pickle.loads(ForkingPickler.dumps(dict(inputs=inputs, data_samples=sample)))
    assert sorted(sent) == [4, 12]  # the features, which numpy has no type for, and the image
    assert received['inputs'].equal(inputs)
    found, expected = received['data_samples'], sample
    assert found.metainfo == dict(img_id=3)
    assert found.gt_instances.metainfo == dict(source='a')
    assert set(found.gt_instances.keys()) == set(expected.gt_instances.keys())
    for name in ('bboxes', 'labels', 'features'):
        value = found.gt_instances[name]
        assert value.dtype == expected.gt_instances[name].dtype
        assert value.equal(expected.gt_instances[name])
    assert found.gt_instances.areas.tolist() == [4.0, 4.0]
    assert isinstance(found.gt_instances.areas, np.ndarray)
    assert found.gt_instances.names == ['cat', 'dog']
    assert found.ignored_instances.bboxes.shape == (0, 4)
    found.gt_instances.bboxes += 1  # it is writable
