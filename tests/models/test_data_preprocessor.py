"""The preprocessor against mmengine's own, which gives the same values."""

import pytest
import torch
from mmengine.model import ImgDataPreprocessor

from ghmdet.models import BatchFixedSizePad, DetDataPreprocessor
from ghmdet.structures import DetDataSample

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
    data = DetDataPreprocessor(**settings)({'inputs': inputs})
    found = data['inputs']
    assert data['data_samples'] is None
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


def test_shapes_of_the_samples_and_grey_images():
    preprocessor = DetDataPreprocessor([1.0], [2.0], pad_size_divisor=32)
    data = {
        'inputs': images((1, 10, 40), (1, 33, 20)),
        'data_samples': [DetDataSample() for _ in 'ab'],
    }
    expected = ImgDataPreprocessor([1.0], [2.0], pad_size_divisor=32)(data)['inputs']
    found = preprocessor(data, training=True)
    assert torch.equal(found['inputs'], expected)
    first, second = found['data_samples']
    assert (first.pad_shape, second.pad_shape) == ((32, 64), (64, 32))
    assert first.batch_input_shape == second.batch_input_shape == (64, 64)


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
    with pytest.raises(ValueError, match="sync_batch_shape must be True, False or None, got 'yes'"):
        DetDataPreprocessor(sync_batch_shape='yes')


@pytest.mark.parametrize(
    ('size', 'batch_hw', 'padded'),
    [
        ((20, 30), (20, 30), True),
        ((8, 12), (8, 12), False),  # no larger than the batch: nothing changes
        ((4, 30), (8, 30), True),  # MMDetection's samples say (4, 30)
    ],
)
def test_batches_of_a_fixed_size(size, batch_hw, padded):
    augments = [dict(type='BatchFixedSizePad', size=size, img_pad_value=7)]
    plain = DetDataPreprocessor(**IMAGENET, pad_size_divisor=4)
    preprocessor = DetDataPreprocessor(**IMAGENET, pad_size_divisor=4, batch_augments=augments)
    assert preprocessor.state_dict().keys() == plain.state_dict().keys()
    samples = [DetDataSample(), DetDataSample()]
    data = dict(inputs=images((3, 5, 9), (3, 8, 3)), data_samples=samples)
    expected = plain(data)['inputs']
    found = preprocessor(data, training=True)
    assert found['inputs'].shape == (2, 3, *batch_hw)
    assert torch.equal(found['inputs'][..., :8, :12], expected)
    assert (found['inputs'][..., 8:, :] == 7).all()
    assert (found['inputs'][..., 12:] == 7).all()
    pad_hws = [batch_hw] * 2 if padded else [(8, 12), (8, 4)]
    for sample, pad_hw in zip(found['data_samples'], pad_hws, strict=True):
        assert (sample.batch_input_shape, sample.pad_shape) == (batch_hw, pad_hw)
    tested = preprocessor(data)
    assert torch.equal(tested['inputs'], expected)
    assert [sample.pad_shape for sample in tested['data_samples']] == [(8, 12), (8, 4)]


def test_a_padded_batch_is_channels_last_where_it_is_large():
    augments = [dict(type='BatchFixedSizePad', size=(512, 512))]
    preprocessor = DetDataPreprocessor(batch_augments=augments)
    found = preprocessor({'inputs': images((3, 8, 8))}, training=True)['inputs']
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        (dict(size=640), r'size must be \(height, width\), got 640'),
        (dict(size=(640, 0)), 'size must be an integer of at least 1, got 0'),
        (dict(size=(8, 8), pad_mask=True), 'pad_mask must be False, got True'),
        (dict(size=(8, 8), img_pad_value=None), 'img_pad_value must be a number, got None'),
    ],
)
def test_batch_fixed_size_pad_refuses(settings, words):
    with pytest.raises(ValueError, match=f'^BatchFixedSizePad.{words}$'):
        BatchFixedSizePad(**settings)
