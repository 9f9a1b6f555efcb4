"""as_torchvision: torchvision's calls give the detections and losses of the model."""

import copy

import cv2
import numpy as np
import pytest
import torch

import ghmdet
from ghmdet import as_torchvision
from ghmdet.structures import DetDataSample, InstanceData


@pytest.fixture(scope='module')
def model(shapes):
    return ghmdet.get_model(shapes / 'config.py', shapes / 'model.pth')


@pytest.fixture(scope='module')
def images(shapes):
    """Images of several sizes, in BGR, and what torchvision's models take."""
    arrays = [cv2.imread(str(path)) for path in sorted(shapes.glob('photos/*/*.png'))[:3]]
    return arrays, [torch.tensor(each[..., ::-1].copy()).permute(2, 0, 1) / 255 for each in arrays]


def test_detections_are_those_of_the_detector(detector, images):
    arrays, tensors = images
    wrapped = as_torchvision(detector)
    assert not wrapped.training
    assert wrapped.classes == ('circle', 'square', 'triangle')
    for given in (tensors, iter(tensors), [each.double() for each in tensors]):
        found = wrapped(given)
        for each, expected in zip(found, detector(arrays), strict=True):
            assert [*each] == ['boxes', 'labels', 'scores']
            assert np.array_equal(each['boxes'], expected.boxes)
            assert np.array_equal(each['labels'], expected.labels)
            assert np.array_equal(each['scores'], expected.scores)
            assert each['labels'].dtype == torch.int64
    assert {label for each in found for label in each['labels'].tolist()} == {0, 1, 2}
    assert wrapped([]) == []


def test_a_model_of_another_device_or_copy(model, images):
    """mmengine's models put batches where their own `to` was told to."""
    wrapped = as_torchvision(copy.deepcopy(model))
    expected = wrapped(images[1][:1])[0]['boxes']
    wrapped.to('meta')
    assert wrapped.model.data_preprocessor.device == torch.device('meta')
    again = copy.deepcopy(as_torchvision(model))
    assert torch.equal(again(images[1][:1])[0]['boxes'], expected)


@pytest.mark.follows('expected a list of float tensors')
@pytest.mark.parametrize(
    ('change', 'got'),
    [
        (lambda x: (x * 255).to(torch.uint8), r'got one of torch.uint8 \(3, 120, 160\)'),
        (lambda x: x * 255, r'values \(10.0, 25.*divide 8-bit pixels by 255'),
        (lambda x: (x - 0.5) / 0.2, 'values .-2.*do not normalise'),
        (lambda x: x * torch.nan, 'values .nan, nan'),
        (lambda x: x[None], r'float32 \(1, 3, 120, 160\), values'),
        (lambda x: x[:1], r'\(1, 120, 160\)'),
        (lambda x: x.permute(1, 2, 0), r'\(120, 160, 3\)'),
        (lambda x: x.permute(1, 2, 0).numpy(), 'got one of ndarray'),
    ],
)
def test_wrong_images(detector, images, change, got):
    wrapped = as_torchvision(detector)
    with pytest.raises(ValueError, match=got):
        wrapped([change(images[1][0])])
    assert len(wrapped([(images[1][0] * 255).to(torch.uint8) / 255])[0]['boxes'])


def test_losses_are_those_of_the_model(model, images):
    """The images and boxes as the pipeline scales them: its Resize fits them into 160x160."""
    model = copy.deepcopy(model)
    arrays, tensors = images
    targets = [
        dict(boxes=torch.tensor([[10.0, 20, 60, 80]]), labels=torch.tensor([2])),
        dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64)),
        dict(boxes=torch.tensor([[0.0, 0, 30, 30], [5, 5, 90, 70]]), labels=torch.tensor([0, 1])),
    ]
    samples, inputs = [], []
    for array, target in zip(arrays, targets):
        scale = 160 / max(array.shape)
        size = tuple(round(side * scale) for side in array.shape[1::-1])
        inputs.append(torch.tensor(cv2.resize(array, size)).permute(2, 0, 1))
        factor = [size[0] / array.shape[1], size[1] / array.shape[0]] * 2
        sample = DetDataSample(metainfo=dict(img_shape=size[::-1]))
        boxes = target['boxes'] * torch.tensor(factor)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=target['labels'])
        samples.append(sample)
    data = model.data_preprocessor(dict(inputs=inputs, data_samples=samples), training=True)
    expected = copy.deepcopy(model).train()(**data, mode='loss')
    wrapped = as_torchvision(model).train()
    assert model.training
    losses = wrapped(tensors, targets)
    assert [*losses] == ['loss_cls', 'loss_bbox']
    for name, value in losses.items():
        torch.testing.assert_close(value, sum(expected[name]), rtol=1e-4, atol=1e-5)
    sum(losses.values()).backward()
    assert model.bbox_head.retina_cls.weight.grad.abs().sum() > 0
    assert len(wrapped.eval()(tensors, targets)) == 3  # as in torchvision, targets are not used


@pytest.mark.follows('in training mode give targets', 'subtract 1')
def test_wrong_targets(model, images):
    wrapped, tensors = as_torchvision(copy.deepcopy(model)).train(), images[1][:1]
    for targets in (None, []):
        with pytest.raises(ValueError, match='1 images and 0 targets.*Call eval'):
            wrapped(tensors, targets)
    boxes = torch.tensor([[10.0, 20, 60, 80]] * 2)
    labels = torch.tensor([1, 3])
    with pytest.raises(ValueError, match=r'must be 0 to 2, got \[1, 3\].*subtract 1'):
        wrapped(tensors, [dict(boxes=boxes, labels=labels)])
    assert wrapped(tensors, [dict(boxes=boxes, labels=labels - 1)])['loss_cls'] > 0
    assert len(wrapped.eval()(tensors)) == 1
