"""Pictures of images whose boxes and pipelines are known, looked at by pixel."""

import json

import cv2
import numpy as np
import pytest

STRIP, GAP = 24, 8
RESIZE = "dict(type='Resize', scale=(128, 96), keep_ratio=True)"
BOXES = "dict(type='LoadAnnotations', with_bbox=True)"
CROP = "dict(type='RandomCrop', crop_size=(16, 16), allow_negative_crop=False)"
CONFIG = """
dataset = dict(
    type='CocoDataset', ann_file='a.json', data_prefix=dict(img='images'), test_mode={test},
    metainfo=dict(classes=('cat', 'dog')),
    pipeline=[dict(type='LoadImageFromFile'), {steps}])
model = dict(bbox_head=dict(num_classes=2))
{split}_dataloader = dict(dataset={dataset})
"""


@pytest.fixture
def browse(run_tool, tmp_path):
    """Images of 64 x 48: a cat and an ignored dog; a dog; no object; one that is damaged."""
    (tmp_path / 'images').mkdir()
    names = ['猫.png', 'dog.png', 'empty.png', 'bad.png']
    for name in names[:3]:
        image = cv2.imencode('.png', np.full((48, 64, 3), 100, np.uint8))[1]
        (tmp_path / 'images' / name).write_bytes(image.tobytes())
    (tmp_path / 'images' / 'bad.png').write_bytes(b'no image')
    boxes = [(1, 1, 0, [8, 8, 32, 32]), (1, 2, 1, [44, 4, 16, 40]), (2, 2, 0, [4, 4, 8, 8])]
    content = dict(
        images=[dict(id=i, file_name=n, width=64, height=48) for i, n in enumerate(names, 1)],
        categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
        annotations=[
            dict(id=i, image_id=image, category_id=label, iscrowd=crowd, bbox=box, area=99)
            for i, (image, label, crowd, box) in enumerate(boxes, 1)
        ],
    )
    (tmp_path / 'a.json').write_text(json.dumps(content))

    def run(*args, steps=(BOXES, RESIZE), split='train', dataset='dataset', pack=True):
        steps = [*steps, "dict(type='PackDetInputs')"] if pack else steps
        values = dict(test=split != 'train', steps=', '.join(steps), split=split, dataset=dataset)
        (tmp_path / 'c.py').write_text(CONFIG.format(**values))
        return run_tool('analysis_tools/browse_dataset.py', 'c.py', '--split', split, *args)

    return run


def pictures(folder):
    files = sorted(folder.glob('*.jpg'))
    read = {f.name: cv2.imdecode(np.fromfile(f, np.uint8), cv2.IMREAD_COLOR) for f in files}
    return {name: picture.astype(int) for name, picture in read.items()}


def is_grey(pixel, value, tolerance=12):
    return abs(pixel - value).max() <= tolerance


@pytest.mark.parametrize(
    ('split', 'steps'),
    [('train', (BOXES, RESIZE)), ('val', (RESIZE, BOXES)), ('test', (RESIZE, BOXES))],
)
def test_boxes_are_on_the_file_and_on_the_result(browse, tmp_path, split, steps):
    """The result has 128 x 96 pixels, drawn in 320 x 240; the file is drawn in 160 x 120."""
    args = '--images', '猫.png', '--draws', '1'
    code, out, err = browse(*args, split=split, steps=steps)
    assert (code, 'written to work_dirs' in out) == (0, True), err
    ((name, picture),) = pictures(tmp_path / 'work_dirs' / 'c' / f'browse_{split}').items()
    assert name == '001_猫.jpg'
    assert len(picture) == STRIP + 240
    right = picture.shape[1] - GAP - 320
    for left, factor in ((0, 2.5), (right, 2.5 * 2)):
        cat, ignored, inside = (
            picture[STRIP + round(y * factor), left + round(x * factor)]
            for x, y in ((8, 30), (44, 24), (30, 30))
        )
        assert np.ptp(cat) > 60, 'an edge of the cat has a colour'
        assert is_grey(ignored, 128)
        assert is_grey(inside, 100)


def test_one_seed_gives_one_picture(browse, tmp_path):
    steps = BOXES, "dict(type='PhotoMetricDistortion')"
    found = []
    for seed in (0, 0, 1):
        browse('--seed', seed, '--images', 'dog.png', '--output-dir', 'out', steps=steps)
        found += pictures(tmp_path / 'out').values()
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()
    # The three results differ from each other and from the file.
    row = found[0][STRIP + 150]
    assert len({tuple(row[x] // 8) for x in range(300, len(row), 100)}) > 2


def test_a_damaged_image_is_named_and_the_rest_goes_on(browse, tmp_path):
    code, out, _ = browse(
        '--output-dir', 'out', dataset="dict(type='RepeatDataset', times=3, dataset=dataset)"
    )
    assert code == 0
    assert [*pictures(tmp_path / 'out')] == ['001_猫.jpg', '002_dog.jpg', '003_empty.jpg']
    assert 'written to out: 3 pictures\n1 of 4 images cannot be drawn: image ' in out
    assert 'bad.png' in out.splitlines()[-1]
    code, _, err = browse('--images', 'bad.png')
    assert (code, '1 of 1 images cannot be drawn' in err) == (1, True)


def test_a_result_that_is_none_is_grey(browse, tmp_path):
    """RandomCrop finds no object in an image without any."""
    browse('--images', 'empty.png', '--output-dir', 'out', '--draws', '1', steps=(BOXES, CROP))
    (picture,) = pictures(tmp_path / 'out').values()
    assert is_grey(picture[STRIP + 100, 100], 100)
    assert is_grey(picture[STRIP + 100, 320 + GAP + 100], 128)


def test_normalised_images_are_seen(browse, tmp_path):
    """A dark object, 0, and its light background, 1, become 0 and 255."""
    steps = (BOXES, "dict(type='Normalize', mean=[100] * 3, std=[50] * 3, to_rgb=False)")
    code, _, err = browse('--images', 'dog.png', '--output-dir', 'out', '--draws', '1', steps=steps)
    assert code == 0, err
    (picture,) = pictures(tmp_path / 'out').values()
    assert is_grey(picture[STRIP + 200, 320 + GAP + 200], 0)


def test_classes_choose_images_and_boxes(browse, tmp_path):
    browse('--classes', 'dog', '--output-dir', 'out', '--draws', '1', steps=(BOXES,))
    found = pictures(tmp_path / 'out')
    assert [*found] == ['001_猫.jpg', '002_dog.jpg']
    assert is_grey(found['001_猫.jpg'][STRIP + 30 * 5, 8 * 5], 100), 'the cat is not drawn'
    assert np.ptp(found['002_dog.jpg'][STRIP + 8 * 5, 4 * 5]) > 60


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (
            ('--classes', 'dogg'),
            "--classes: no class 'dogg'; there are cat, dog; did you mean dog?",
        ),
        (('--images', 'dgo.png'), '--images: not in the dataset: dgo.png; did you mean dog.png?'),
        (
            ('--images', 'empty.png', '--classes', 'cat'),
            'none of these images has an object of cat',
        ),
    ],
)
def test_what_is_not_found_is_named(browse, args, message):
    code, _, err = browse(*args)
    assert (code, message in err) == (1, True), err


@pytest.mark.follows(
    'has images of the dataset; name another',
    'choose another --split',
    'PackDetInputs is missing at the end',
)
def test_the_advice_is_right(browse, tmp_path):
    code, _, err = browse('--output-dir', 'images')
    assert (code, '--output-dir images has images of the dataset' in err) == (1, True)
    code, _, err = browse('--images', 'dog.png', pack=False)
    assert (code, 'PackDetInputs is missing at the end of the pipeline, which gives' in err) == (
        1,
        True,
    )
    assert browse('--images', 'dog.png', '--output-dir', 'out')[0] == 0
    assert [*pictures(tmp_path / 'out')] == ['001_dog.jpg']
    assert '--draws: expected at least 1, got 0' in browse('--draws', '0')[2]
    code, _, err = browse('--split', 'train', split='val')
    assert (code, 'the config has no train_dataloader; choose another --split' in err) == (1, True)
    assert browse('--not-show', '--num', '1', split='val')[0] == 0
