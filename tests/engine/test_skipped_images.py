"""Images that cannot be used: an error by default, left out and reported with on_error='skip'."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import RepeatDataset, pseudo_collate
from PIL import Image
from torch.utils.data import DataLoader

from ghmdet.checks.decode_images import decode_images
from ghmdet.config.cli import describe
from ghmdet.datasets import CocoDataset, coco
from ghmdet.datasets.image_file import ImageError
from ghmdet.datasets.transforms import PipelineError
from ghmdet.engine.hooks.skipped_images import SkippedImagesHook
from ghmdet.registry import TRANSFORMS

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


def build(root: Path, kind=CocoDataset, **settings) -> CocoDataset:
    return kind(
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
    with pytest.raises(ImageError) as caught:
        dataset[0]
    assert str(caught.value).startswith(
        f'{root}/train.json: 51 images drawn at random were all skipped, the last since image '
    )
    assert str(caught.value).endswith('does not exist. tools/check_dataset.py --pipeline lists all')
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


def test_a_test_names_the_image_that_a_step_skips(root):
    pipeline = [dict(type='LoadImageFromFile', ignore_empty=True), *STEPS[1:]]
    dataset = build(root, pipeline=pipeline, test_mode=True)
    assert dataset[0]['data_samples'].img_id == 0
    with pytest.raises(ImageError) as caught:
        dataset[1]
    assert str(caught.value) == (
        f'image {root}/1.jpg (id 1) is skipped: step 0 (LoadImageFromFile) of the pipeline returns '
        'None, which only training allows'
    )


# Images that are too thin, and steps that fail

RESIZE = dict(type='Resize', scale=(32, 32), keep_ratio=True)
RESIZED = [STEPS[0], STEPS[1], RESIZE, STEPS[2]]
TO_ONE = dict(type='RandomChoice', transforms=[[RESIZE]])


class AsDicts(CocoDataset):
    """Its images are a list of dicts."""

    def filter_data(self):
        return list(super().filter_data())


class Broken(BaseTransform):
    """Fails for image 2 as a step of a user may."""

    def __init__(self, error=KeyError):
        self.error = error

    def transform(self, results):
        if results['img_id'] == 2:
            raise self.error('gt_masks')
        return results


@pytest.fixture
def thin(root) -> Path:
    """Six images without a fault, but the fourth is 3000 wide and 1 high."""
    coco = json.loads((root / 'train.json').read_text())
    for number in range(6):
        wh = (3000, 1) if number == 3 else (32, 24)
        coco['images'][number] |= dict(width=wh[0], height=wh[1])
        Image.new('RGB', wh).save(root / f'{number}.jpg')
    coco['annotations'][3]['bbox'] = [0, 0, 9, 1]
    (root / 'train.json').write_text(json.dumps(coco))
    return root


@pytest.mark.parametrize('kind', [CocoDataset, AsDicts])
@pytest.mark.parametrize(
    ('pipeline', 'place'),
    [
        (RESIZED, 'step 2 (Resize)'),
        ([*STEPS[:2], TO_ONE, STEPS[2]], 'step 2 (RandomChoice)'),
        (
            [
                *STEPS[:2],
                dict(type='TestTimeAug', transforms=[[RESIZE], [TRANSFORMS.build(STEPS[2])]]),
            ],
            'step 2 (TestTimeAug)',
        ),
    ],
)
def test_an_image_that_is_too_thin_is_named(thin, kind, pipeline, place):
    message = (
        f'image {thin}/3.jpg (id 3) is 3000x1 (width x height), of which {place} of the pipeline '
        'leaves no pixel: it is too thin. Remove it, or set on_error='
        "'skip' of the training dataset (OpenCV: (-215:Assertion failed) inv_scale_x > 0"
    )
    for settings in (dict(test_mode=True), {}):
        dataset = build(thin, kind, pipeline=pipeline, **settings)
        assert dataset[2]['data_samples'] is not None
        with pytest.raises(ImageError) as caught:
            dataset[3]
        assert str(caught.value).startswith(message)
    dataset = build(thin, kind, pipeline=pipeline, on_error='skip')
    samples = [dataset[index]['data_samples'] for index in range(6)]
    assert len(samples) == 6
    assert dataset.skipped.tolist() == [0, 0, 0, 1, 0, 0]
    (line,) = report(dataset)
    assert line.endswith(
        f'{thin}/3.jpg (id 3) cannot be decoded or processed (tools/check_dataset.py CONFIG '
        '--pipeline says why)'
    )
    # As it does:
    info = dataset.get_data_info(3)
    ((_, result),) = decode_images(dataset.pipeline.transforms, {3: info}, workers=0)
    assert result.error.startswith(message)


def test_a_crop_of_nothing_is_named(thin):
    crop = lambda results: results | dict(img=results['img'][2:])  # noqa: E731
    dataset = build(thin, pipeline=[STEPS[0], crop, STEPS[2]])
    with pytest.raises(ImageError, match=r'3.jpg .id 3. is 3000x1 .*which step 1 .function. of'):
        dataset[3]


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('on_error', ['raise', 'skip'])
@pytest.mark.parametrize(
    ('step', 'fails'),
    [
        (Broken(), "(Broken) of the pipeline fails with KeyError: 'gt_masks'"),
        (
            dict(type='RandomChoice', transforms=[[Broken(IndexError)]]),
            '(RandomChoice) of the pipeline fails in Broken with IndexError: gt_masks',
        ),
        # The setting is wrong, not the image.
        (
            dict(RESIZE, scale=(0, 0)),
            '(Resize) of the pipeline fails with OpenCV: (-215:Assertion failed)',
        ),
    ],
)
def test_another_error_is_never_skipped_and_names_image_and_step(
    thin, workers, on_error, step, fails
):
    dataset = build(thin, pipeline=[*STEPS[:2], step, STEPS[2]], on_error=on_error)
    loader = DataLoader(dataset, sampler=[2], num_workers=workers, collate_fn=pseudo_collate)
    with pytest.raises(PipelineError) as caught:
        list(loader)
    assert describe(caught.value).startswith(f'image {thin}/2.jpg (id 2): step 2 {fails}')
    assert '\n' not in describe(caught.value)
    assert dataset.skipped.sum() == 0


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
