from __future__ import annotations

import cv2
import mmcv.transforms
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose, pseudo_collate
from torch.utils.data import DataLoader

from ghmdet.datasets import LoadAnnotations, LoadImageFromFile, PackDetInputs
from ghmdet.datasets.image_file import ImageError
from ghmdet.registry import TRANSFORMS

INSTANCES = [
    {'bbox': [1.0, 2.0, 3.0, 4.0], 'bbox_label': 5, 'ignore_flag': 0},
    {'bbox': [0.5, 0.0, 9.0, 6.0], 'bbox_label': 2, 'ignore_flag': 1},
    {'bbox': [2.0, 2.0, 4.0, 3.0], 'bbox_label': 0, 'ignore_flag': 0},
]


@pytest.fixture
def photo(tmp_path):
    """Six pixels, 3 wide and 2 high."""
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    cv2.imwrite(str(tmp_path / 'a.png'), pixels)
    return str(tmp_path / 'a.png')


def test_load_image_adds_what_mmcv_adds(photo):
    expected = mmcv.transforms.LoadImageFromFile()({'img_path': photo})
    disk = {'backend': 'disk'}
    for setting in ({}, dict(imdecode_backend='pillow'), dict(file_client_args=disk)):
        results = LoadImageFromFile(**setting)({'img_path': photo})
        np.testing.assert_array_equal(results.pop('img'), expected['img'])
        assert results == {'img_path': photo, 'img_shape': (2, 3), 'ori_shape': (2, 3)}
    floats = LoadImageFromFile(to_float32=True)({'img_path': photo})['img']
    assert (floats.dtype, floats.tolist()) == (np.float32, expected['img'].tolist())
    assert LoadImageFromFile(color_type='grayscale')({'img_path': photo})['img'].shape == (2, 3)


def test_load_image_compares_the_size_and_names_path_and_id(photo):
    sized = {'img_path': photo, 'img_id': 'k7', 'width': 3, 'height': 2}
    assert LoadImageFromFile()(dict(sized))['img'].shape == (2, 3, 3)
    with pytest.raises(ImageError) as caught:
        LoadImageFromFile()(sized | {'height': 4})
    assert str(caught.value) == (
        f"image {photo} (id 'k7') is 3x2 (width x height) but the annotation file says 3x4"
    )
    assert LoadImageFromFile(ignore_empty=True)(sized | {'height': 4}) is None
    with pytest.raises(ImageError, match=r'image nowhere.jpg does not exist$'):
        LoadImageFromFile()({'img_path': 'nowhere.jpg', 'img_id': 0})


@pytest.mark.parametrize(
    ('setting', 'words'),
    [
        (dict(color_type='rgb'), "color_type must be one of .'color', .* got 'rgb'"),
        (dict(imdecode_backend='tifffile'), "imdecode_backend must be 'cv2' .* got 'tifffile'"),
        (dict(max_pixels=0), 'max_pixels must be an integer of at least 1, got 0'),
        (dict(max_pixels='9'), "max_pixels must be an integer of at least 1, got '9'"),
        (dict(file_client_args={}, backend_args={}), 'set backend_args, not file_client_args too'),
    ],
)
def test_load_image_refuses(setting, words):
    with pytest.raises(ValueError, match=f'^LoadImageFromFile(: |[.]){words}'):
        LoadImageFromFile(**setting)


def test_load_annotations_gives_boxes_labels_and_flags():
    results = LoadAnnotations()({'instances': INSTANCES})
    assert results['gt_bboxes'].tolist() == [[1, 2, 3, 4], [0.5, 0, 9, 6], [2, 2, 4, 3]]
    assert results['gt_bboxes_labels'].tolist() == [5, 2, 0]
    assert results['gt_ignore_flags'].tolist() == [False, True, False]
    dtypes = [results[key].dtype for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags')]
    assert dtypes == [np.float32, np.int64, bool]


def test_load_annotations_in_parts():
    only_labels = LoadAnnotations(with_bbox=False)({'instances': INSTANCES})
    assert set(only_labels) == {'instances', 'gt_bboxes_labels'}
    only_boxes = LoadAnnotations(with_label=False, box_type=None)({'instances': INSTANCES})
    assert set(only_boxes) == {'instances', 'gt_bboxes', 'gt_ignore_flags'}
    for key, value in (('with_mask', True), ('with_seg', True), ('box_type', 'rbox')):
        with pytest.raises(ValueError, match=f'LoadAnnotations: {key} must be .*, got {value!r}'):
            LoadAnnotations(**{key: value})


def test_pack_separates_objects_and_crowds():
    results = LoadAnnotations()({'instances': INSTANCES})
    # As mmcv's Resize leaves them.
    results['gt_bboxes'] = results['gt_bboxes'].astype(np.float64)
    sample = PackDetInputs()(results)['data_samples']
    assert sample.gt_instances.bboxes.tolist() == [[1, 2, 3, 4], [2, 2, 4, 3]]
    assert sample.gt_instances.labels.tolist() == [5, 0]
    assert sample.ignored_instances.bboxes.tolist() == [[0.5, 0, 9, 6]]
    assert sample.ignored_instances.labels.tolist() == [2]
    for instances in (sample.gt_instances, sample.ignored_instances):
        assert (instances.bboxes.dtype, instances.labels.dtype) == (torch.float32, torch.int64)


def test_pack_without_flags_objects_or_annotations():
    results = LoadAnnotations()({'instances': INSTANCES})
    del results['gt_ignore_flags']
    sample = PackDetInputs()(results)['data_samples']
    assert (len(sample.gt_instances), len(sample.ignored_instances)) == (3, 0)
    assert sample.ignored_instances.bboxes.shape == (0, 4)
    for results in ({'instances': []}, {}):
        sample = PackDetInputs()(LoadAnnotations()(results))['data_samples']
        for instances in (sample.gt_instances, sample.ignored_instances):
            assert instances.bboxes.shape == (0, 4)
            assert instances.labels.shape == (0,)
    sample = PackDetInputs()({'img_id': 3})['data_samples']
    assert sample.gt_instances.keys() == sample.ignored_instances.keys() == []


@pytest.mark.parametrize(
    'part',
    [np.s_[:], np.s_[:, ::-1], np.s_[::-1], np.s_[::-1, ::-1], np.s_[1:3, 1:3]],
    ids=['whole', 'horizontal', 'vertical', 'diagonal', 'crop'],
)
@pytest.mark.parametrize('shape', [(4, 5, 3), (4, 5, 1), (4, 5)])
def test_pack_keeps_the_pixels_and_no_more(shape, part):
    """Channels last in memory, as cv2 makes images; of a crop only its own bytes go to workers."""
    img = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)[part]
    inputs = PackDetInputs()({'img': img})['inputs']
    expected = img if img.ndim == 3 else img[..., None]
    np.testing.assert_array_equal(inputs.permute(1, 2, 0).numpy(), expected)
    assert inputs.permute(1, 2, 0).is_contiguous()
    assert inputs.dtype == torch.uint8
    assert inputs.untyped_storage().nbytes() == img.size


def test_channels_stay_last_in_memory_on_the_way_from_a_worker():
    images = [{'img': np.arange(24 * (i + 1), dtype=np.uint8).reshape(2, -1, 3)} for i in range(2)]
    packed = [PackDetInputs()(image) for image in images]
    batches = DataLoader(packed, batch_size=2, num_workers=1, collate_fn=pseudo_collate)
    for image, inputs in zip(images, next(iter(batches))['inputs'], strict=True):
        assert inputs.stride() == (1, 3 * inputs.shape[2], 3)
        np.testing.assert_array_equal(np.moveaxis(inputs.numpy(), 0, 2), image['img'])


def test_pack_takes_the_meta_keys_there_are():
    results = {'img_id': 1, 'flip': True, 'height': 7, 'scale_factor': (0.5, 0.25)}
    expected = {'img_id': 1, 'flip': True, 'scale_factor': (0.5, 0.25)}
    assert PackDetInputs()(results)['data_samples'].metainfo == expected
    assert PackDetInputs(('height',))(results)['data_samples'].metainfo == {'height': 7}
    assert repr(PackDetInputs(('img_id',))) == "PackDetInputs(meta_keys=('img_id',))"


def test_pack_refuses_lists_of_unequal_length():
    results = LoadAnnotations()({'instances': INSTANCES, 'img_path': 'a/b.jpg'})
    results['gt_bboxes'] = results['gt_bboxes'][:2]
    words = r"'bboxes': 2, 'labels': 3, 'ignore flags': 3.*dropped some.*a/b.jpg"
    with pytest.raises(ValueError, match=words):
        PackDetInputs()(results)


def test_a_pipeline_of_mmdetection(tmp_path):
    """60x40 to 120x80 within (1333, 80), then mirrored: x becomes 120 - 2 x, y becomes 2 y."""
    img = np.zeros((40, 60, 3), np.uint8)
    img[:, :30] = 200
    cv2.imwrite(str(tmp_path / 'a.png'), img)
    steps = [
        {'type': 'LoadImageFromFile', 'backend_args': None},
        {'type': 'LoadAnnotations', 'with_bbox': True},
        {'type': 'Resize', 'scale': (1333, 80), 'keep_ratio': True},
        {'type': 'RandomFlip', 'prob': 1.0},
        {'type': 'PackDetInputs'},
    ]
    pipeline = Compose([TRANSFORMS.build(step) for step in steps])
    instances = [
        {'bbox': [1, 2, 11, 12], 'bbox_label': 0, 'ignore_flag': 0},
        {'bbox': [50, 30, 70, 50], 'bbox_label': 1, 'ignore_flag': 1},
    ]
    packed = pipeline({'img_path': str(tmp_path / 'a.png'), 'img_id': 4, 'instances': instances})
    sample = packed['data_samples']
    assert packed['inputs'].shape == (3, 80, 120)
    assert packed['inputs'][0, 0, [0, 119]].tolist() == [0, 200]
    assert sample.gt_instances.bboxes.tolist() == [[98, 4, 118, 24]]
    # Resize clips to the image, which this crowd region overhangs.
    assert sample.ignored_instances.bboxes.tolist() == [[0, 60, 20, 80]]
    assert sample.metainfo == {
        'img_id': 4,
        'img_path': str(tmp_path / 'a.png'),
        'ori_shape': (40, 60),
        'img_shape': (80, 120),
        'scale_factor': (2.0, 2.0),
        'flip': True,
        'flip_direction': 'horizontal',
    }


@pytest.mark.parametrize(
    'step',
    [
        {'type': 'Resize', 'scale': (30, 20)},
        {'type': 'RandomResize', 'scale': (30, 20), 'ratio_range': (0.5, 2.0)},
        {'type': 'RandomChoiceResize', 'scales': [(30, 20)]},
        {'type': 'RandomFlip', 'prob': 1.0, 'direction': 'diagonal'},
        {'type': 'Pad', 'size_divisor': 32},
        {'type': 'CenterCrop', 'crop_size': 4},
        {'type': 'RandomGrayscale', 'prob': 1.0},
    ],
    ids=lambda step: step['type'],
)
def test_no_transform_of_mmcv_drops_a_box(step):
    """They know nothing of the ignore flags, which must stay aligned with the boxes."""
    results = LoadAnnotations()({'instances': INSTANCES})
    results |= {'img': np.zeros((10, 12, 3), np.uint8), 'img_shape': (10, 12)}
    sample = PackDetInputs()(TRANSFORMS.build(step)(results))['data_samples']
    assert sample.gt_instances.labels.tolist() == [5, 0]
    assert sample.gt_instances.bboxes.shape == (2, 4)
