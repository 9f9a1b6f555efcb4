"""Images that cannot be used: an error by default, left out and reported with on_error='skip'."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import RepeatDataset, pseudo_collate
from PIL import Image
from torch.utils.data import DataLoader

from ghmdet.datasets import CocoDataset, coco
from ghmdet.datasets.image_file import ImageError
from ghmdet.engine.hooks.skipped_images import SkippedImagesHook

STEPS = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
]


@pytest.fixture
def root(tmp_path) -> Path:
    """Six images of 32x24 with a box each; 1 is missing, 3 is cut off, 4 has another size."""
    images, annotations = [], []
    for number in range(6):
        images.append(dict(id=number, file_name=f'{number}.jpg', width=32, height=24))
        annotations.append(
            dict(id=number, image_id=number, category_id=1, bbox=[2, 2, 9, 9], area=81, iscrowd=0)
        )
        Image.new('RGB', (24, 32) if number == 4 else (32, 24)).save(tmp_path / f'{number}.jpg')
    (tmp_path / '1.jpg').unlink()
    cut = (tmp_path / '3.jpg').read_bytes()[:-20]
    (tmp_path / '3.jpg').write_bytes(cut)
    coco = dict(images=images, annotations=annotations, categories=[dict(id=1, name='cat')])
    (tmp_path / 'train.json').write_text(json.dumps(coco))
    return tmp_path


def build(root: Path, **settings) -> CocoDataset:
    return CocoDataset(
        'train.json',
        data_root=str(root),
        metainfo=dict(classes=('cat',)),
        pipeline=settings.pop('pipeline', STEPS),
        **settings,
    )


BAD = {
    1: 'does not exist',
    3: 'is truncated: its end marker is missing',
    4: (
        'is 24x32 (width x height) but the annotation file says 32x24, which is width and height '
        'swapped'
    ),
}


@pytest.mark.parametrize('test_mode', [False, True])
def test_by_default_they_are_errors(root, test_mode):
    dataset = build(root, test_mode=test_mode)
    for number, fault in BAD.items():
        with pytest.raises(ImageError) as caught:
            dataset[number]
        assert str(caught.value) == f'image {root}/{number}.jpg (id {number}) {fault}'
    with pytest.raises(ValueError, match='3 of 6 checked image files are bad') as caught:
        dataset.check_image_files()
    for number, fault in BAD.items():
        assert f'{root}/{number}.jpg (id {number}) {fault}' in str(caught.value)


def report(dataset):
    """Return what the hook logs after an epoch."""
    lines = []
    runner = SimpleNamespace(
        train_dataloader=SimpleNamespace(dataset=dataset),
        logger=SimpleNamespace(warning=lines.append),
    )
    SkippedImagesHook().after_train_epoch(runner)
    return lines


@pytest.mark.parametrize('context', ['fork', pytest.param('spawn', marks=pytest.mark.long)])
def test_skipped_ones_are_counted_over_the_workers(root, context):
    dataset = RepeatDataset(build(root, on_error='skip'), 2)
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=2,
        collate_fn=pseudo_collate,
        multiprocessing_context=context,
    )
    seen = [s.img_id for batch in loader for s in batch['data_samples']]
    assert len(seen) == 12
    assert set(seen) <= {0, 2, 5}
    faults = '; '.join(f'{root}/{number}.jpg (id {number}) {BAD[number]}' for number in BAD)
    assert report(dataset) == [
        f'3 of 6 images of {root}/train.json were skipped so far and replaced by others '
        f"(on_error='skip'): {faults}"
    ]


def test_nothing_is_logged_without_skipped_images(root):
    dataset = build(root, on_error='skip', indices=1)
    assert dataset[0]['inputs'].shape == (3, 24, 32)
    assert report(dataset) == report([1, 2]) == []


def test_more_than_five_are_counted(root):
    for number in range(6):
        (root / f'{number}.jpg').unlink(missing_ok=True)
    dataset = build(root, on_error='skip', max_refetch=50)
    with pytest.raises(Exception, match='Cannot find valid image after 50'):
        dataset[0]
    dataset.skipped.fill_(1)
    (line,) = report(dataset)
    assert line.startswith('6 of 6 images of ')
    assert line.endswith('4.jpg (id 4) does not exist; and 1 more')
    with pytest.raises(ValueError, match='6 of 6 checked image files are bad'):
        dataset.check_image_files()


def test_the_check_at_the_start_only_warns(root, monkeypatch):
    dataset, lines = build(root, on_error='skip'), []
    monkeypatch.setattr(coco, 'print_log', lambda text, **_: lines.append(text))
    dataset.check_image_files()
    (out,) = lines
    assert '3 of 6 checked image files are bad: ' in out
    assert "With on_error='skip' they are left out of the training" in out


def test_ignore_empty_of_mmcv_skips_too(root):
    pipeline = [dict(type='LoadImageFromFile', ignore_empty=True), *STEPS[1:]]
    dataset = build(root, pipeline=pipeline)
    torch.manual_seed(0)
    assert dataset[1]['data_samples'].img_id in (0, 2, 5)
    assert dataset.skipped[1] == 1


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(on_error='ignore'), "on_error must be 'raise' or 'skip', got 'ignore'"),
        (dict(on_error='skip', test_mode=True), "on_error='skip' is for training: with test_mode"),
    ],
)
def test_invalid_settings(root, settings, message):
    with pytest.raises(ValueError, match=message):
        build(root, **settings)


def test_boxes_on_the_image_as_stored(root):
    """The check at the start and the decoding follow the same setting."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(6):
        Image.new('RGB', (32, 24)).save(root / f'{number}.jpg', exif=exif)
    with pytest.raises(ValueError, match='6 of 6 .* Its EXIF orientation rotates it by 90 degrees'):
        build(root).check_image_files()
    loader = dict(type='LoadImageFromFile', color_type='color_ignore_orientation', max_pixels=768)
    dataset = build(root, pipeline=[loader, *STEPS[1:]])
    dataset.check_image_files()
    assert dataset[0]['inputs'].shape == (3, 24, 32)
    loader['max_pixels'] = 767
    with pytest.raises(ValueError, match='0.jpg .id 0. has more than 767 pixels .32x24.'):
        build(root, pipeline=[loader, *STEPS[1:]]).check_image_files()
