"""as_torchvision: torchvision's calls give the detections of the model."""

import copy

import cv2
import numpy as np
import pytest
import torch

import ghmdet
from ghmdet import as_torchvision


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


@pytest.mark.follows('this module only detects: call eval()')
def test_training_mode(model, images):
    wrapped = as_torchvision(copy.deepcopy(model)).train()
    with pytest.raises(RuntimeError, match=r'call eval\(\)'):
        wrapped(images[1][:1])
    assert len(wrapped.eval()(images[1][:1], targets=[{}])) == 1
