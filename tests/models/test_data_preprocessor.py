"""The preprocessor against mmengine's own, which gives the same values."""

import pytest
import torch
from mmengine.model import ImgDataPreprocessor

from ghmdet.models import DetDataPreprocessor

IMAGENET = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375]}


def images(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for shape in shapes
    ]


@pytest.mark.parametrize(
    'settings',
    [
        {},
        {'pad_size_divisor': 4, 'pad_value': 7.5},
        {**IMAGENET, 'bgr_to_rgb': True, 'pad_size_divisor': 32},
        {**IMAGENET, 'rgb_to_bgr': True, 'pad_value': 114},
        {'mean': [5.0], 'std': [3.0], 'pad_size_divisor': 3},
    ],
    ids=['plain', 'pad', 'rgb', 'bgr', 'one mean'],
)
@pytest.mark.parametrize('inputs', [images((3, 5, 9), (3, 8, 3)), torch.stack(images((3, 5, 6)))])
@pytest.mark.parametrize('last', [True, False])
def test_values_are_those_of_mmengine(settings, inputs, last):
    expected = ImgDataPreprocessor(**settings)({'inputs': inputs})['inputs']
    if last:
        inputs = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in inputs]
    before = [image.clone() for image in inputs]
    found = DetDataPreprocessor(**settings)({'inputs': inputs})['inputs']
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert all(map(torch.equal, inputs, before))


@pytest.mark.parametrize(
    ('shape', 'memory_format'),
    [((3, 511, 512), torch.contiguous_format), ((3, 512, 512), torch.channels_last)],
)
def test_large_batches_are_channels_last(shape, memory_format):
    found = DetDataPreprocessor(**IMAGENET)({'inputs': images(shape)})['inputs']
    assert found.is_contiguous(memory_format=memory_format)


def test_grey_images():
    data = {'inputs': images((1, 2, 3))}
    expected = ImgDataPreprocessor([1.0], [2.0])(data)['inputs']
    assert torch.equal(DetDataPreprocessor([1.0], [2.0])(data)['inputs'], expected)


@pytest.mark.parametrize(
    ('shapes', 'words'),
    [
        ([(1, 4, 4)], r'got \(1, 4, 4\) among 1, mean has 3'),
        ([(4, 4)], r'got \(4, 4\)'),
        ([(3, 4, 4), (1, 4, 4)], r'got \(1, 4, 4\) among 2'),
    ],
)
def test_images_that_are_not_one_batch_are_refused(shapes, words):
    with pytest.raises(ValueError, match=words):
        DetDataPreprocessor(**IMAGENET)({'inputs': images(*shapes)})


def test_sync_batch_shape_is_a_bool_or_none():
    with pytest.raises(ValueError, match="sync_batch_shape must be True, False or None, got 'yes'"):
        DetDataPreprocessor(sync_batch_shape='yes')
