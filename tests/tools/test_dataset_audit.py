"""The audit of a dataset: every entry and image, whatever is wrong with the others."""

import base64
import json
import os
import re
import runpy
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_audit.audit import Picture, check_dataset
from dataset_audit.report import draw_picture, list_findings, write_report
from PIL import Image

from ghmdet.checks import decode_images
from ghmdet.datasets import CocoDataset
from ghmdet.datasets.transforms import LoadImageFromFile
from tests.checks.conftest import TOOLS

find_leaks = runpy.run_path(str(TOOLS / 'check_dataset.py'))['find_leaks']


@pytest.fixture
def coco(tmp_path) -> dict:
    """Four images of 100 x 80 pixels, one box each and a second one on the last."""
    (tmp_path / 'images').mkdir()
    for number in range(4):
        image = np.full((80, 100, 3), 40 * number, np.uint8)
        cv2.imwrite(str(tmp_path / 'images' / f'{number}.png'), image)
    boxes = [[10, 20, 30, 40], [0, 0, 100, 80], [1, 1, 16, 4], [5, 5, 10, 10], [5, 5, 70, 70]]
    return {
        'images': [make_image(n, f'{n}.png') for n in range(4)],
        'annotations': [make_box(n, min(n, 3), box, 1 + n % 2) for n, box in enumerate(boxes)],
        'categories': [{'id': 2, 'name': 'dog'}, {'id': 1, 'name': 'c<a>t'}],
    }


def make_image(id_, file_name, width=100):
    return {'id': id_, 'file_name': file_name, 'width': width, 'height': 80}


def make_box(id_, image_id, bbox, category_id=1):
    return {'id': id_, 'image_id': image_id, 'category_id': category_id, 'bbox': bbox}


def check(folder: Path, coco: dict, workers=0, **kwargs):
    (folder / 'ann.json').write_text(json.dumps(coco))
    kwargs['data_prefix'] = {'img': str(folder / 'images')}
    kwargs['metainfo'] = {'classes': ('dog', 'c<a>t')}
    dataset = CocoDataset(str(folder / 'ann.json'), lazy_init=True, **kwargs)
    return check_dataset(dataset, 'train', workers=workers, pipeline='pipeline' in kwargs)


def test_nothing_is_found_in_a_valid_dataset(tmp_path, coco):
    """Sides are 34.6, 89.4, 8, 10 and 70 pixels; dogs are the second and the fourth box."""
    audit = check(tmp_path, coco)
    assert audit.findings == []
    assert audit.notes == ['4 images, 4 used; dropped: none. 5 boxes, 5 used; dropped: none']
    tables = {title: {k: n for k, n in rows if n} for title, rows in audit.statistics.items()}
    assert list(tables.values()) == [
        {'dog': 2, 'c<a>t': 3},
        {'1': 3, '2 to 5': 1},
        {'8 to 16': 2, '32 to 64': 1, '64 to 96': 2},
        {'100x80': 4},
    ]
    assert list(tables)[2].startswith('boxes by side (square root of the area in pixels)')


def test_all_kinds_are_found_at_once(tmp_path, coco):
    (tmp_path / 'images' / '0.png').write_bytes(b'no image')
    cv2.imwrite(str(tmp_path / 'images' / '1.png'), np.zeros((50, 60, 3), np.uint8))
    names = {4: 'gone.png', 5: '../2.png', 6: '3.png'}
    coco['images'] += [make_image(id_, name) for id_, name in names.items()]
    coco['images'].append(make_image(7, '3.png', width=0))
    coco['annotations'] += [
        make_box(10, 2, [1, 2, 0, 4]),
        make_box(11, 2, [200, 2, 9, 4]),
        make_box(12, 2, [90, 2, 30, 4]),
        make_box(13, 2, ['90', 2, 30, 4]),
        make_box(14, 7, [1, 2, 3, 4]),
        make_box(15, 0, [1, 2, 3, 4], category_id=8),
    ]
    audit = check(tmp_path, coco)
    assert audit.num_errors == 7
    assert len(audit.findings) == 7
    text = list_findings(audit, shown=9)
    for words in (
        # id 14 is of an image that is itself broken, and so not counted again.
        'error: 3 x entry of the annotation file\n',
        'annotation id 13 of image id 2: bbox must be four',
        'image id 7 (3.png): height and width must be positive numbers up to 1e9, got 80 and 0',
        'annotation id 15 of image id 0: no category has its category_id 8',
        'warning: 1 x box skipped, without width or height\n    annotation id 10 of image id 2: [1',
        'warning: 1 x box skipped, outside the image\n    annotation id 11 of image id 2: [200, 2',
        'warning: 1 x box used, more than a pixel beyond the image\n    annotation id 12 of',
        "warning: 1 x file name\n    '3.png' is the file of 2 images",
        "error: 1 x file name that leads out of the image folder\n    '../2.png'",
        'error: 3 x image file\n',
        '0.png cannot be read as an image',
        '1.png is 60x50 (width x height) but the annotation file says 100x80 (image id 1)',
        'gone.png does not exist (image id 4)',
    ):
        assert words in text
    shown = {f.kind: [Path(p.path).name for p in f.pictures] for f in audit.findings if f.pictures}
    assert shown.pop('image file') == ['1.png']
    assert list(shown.values()) == [['2.png'], ['2.png'], ['2.png']]


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ('{"images": [', 'broken JSON at line 1, column 13'),
        ('[]', 'expected a COCO file'),
        ('{"images": [], "categories": []}', "'annotations' is missing"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_finding(tmp_path, content, words):
    (tmp_path / 'ann.json').write_text(content)
    dataset = CocoDataset(str(tmp_path / 'ann.json'), lazy_init=True)
    (finding,) = check_dataset(dataset, 'train', workers=0).findings
    assert finding.kind == 'annotation file'
    assert words in finding.texts[0]


def test_filters_and_classes_are_those_of_the_dataset(tmp_path, coco):
    (finding,) = check(tmp_path, coco, filter_cfg={'min_size': 81}).findings
    assert 'no usable image' in finding.texts[0]
    assert '4 smaller (filter_cfg.min_size=81)' in finding.texts[0]
    coco['categories'][0]['name'] = 'dgo'
    (finding,) = check(tmp_path, coco).findings
    assert (finding.kind, finding.count) == ('classes', 1)
    assert "'dog' (did you mean 'dgo'?)" in finding.texts[0]


def find(audit, kind):
    """The texts of a kind of finding, which must be a warning."""
    (finding,) = (finding for finding in audit.findings if finding.kind.startswith(kind))
    assert not finding.is_error
    assert finding.count == len(finding.texts)
    return finding.texts


def test_equal_boxes_of_one_class_and_image_are_listed(tmp_path, coco):
    """Boxes 3 and 4 are of image 3. Equal are 20 and 4, 22 and 21, not 23 (class), 24 (image)."""
    coco['annotations'] += [
        make_box(20, 3, [5, 5, 70, 70.0]),
        make_box(21, 3, [5, 5, 70, 71]),
        make_box(22, 3, [5, 5, 70, 71]),
        make_box(23, 3, [5, 5, 70, 70], category_id=2),
        make_box(24, 2, [5, 5, 70, 70]),
        make_box(25, 2, [5, 5, 0, 70]),  # left out, so not twice in the training
        make_box(26, 2, [5, 5, 0, 70]),
    ]
    audit = check(tmp_path, coco)
    assert audit.num_errors == 0
    assert find(audit, 'box equal to another one of its class and image') == [
        'annotation id 20 of image id 3: [5, 5, 70, 70] equals annotation id 4 of image id 3',
        'annotation id 22 of image id 3: [5, 5, 70, 71] equals annotation id 21 of image id 3',
    ]


def test_class_names_that_hardly_differ_and_roots(tmp_path, coco):
    coco['categories'] = [
        {'id': 1, 'name': 'c<a>t', 'supercategory': 'pets'},
        {'id': 2, 'name': 'dog', 'supercategory': 'pets'},
        {'id': 4, 'name': 'Dog ', 'supercategory': 'pets'},
        {'id': 5, 'name': 'pets', 'supercategory': 'none'},
        {'id': 6, 'name': 'dog', 'supercategory': ''},
    ]
    audit = check(tmp_path, coco)
    assert audit.num_errors == 0
    assert find(audit, 'class name') == ["['dog', 'Dog '] differ only in case or spaces"]
    assert audit.notes[:2] == [
        "of the categories [2, 6] named 'dog', only 2 has annotations and counts",
        "'pets' is no class: it has no annotation and is the supercategory of c<a>t, dog, Dog ",
    ]
    assert audit.statistics['boxes by class'] == [('dog', 2), ('c<a>t', 3)]


def copy_image(folder, source, target):
    (folder / 'images' / target).parent.mkdir(exist_ok=True)
    shutil.copy(folder / 'images' / source, folder / 'images' / target)


def test_equal_images_of_a_dataset_are_listed(tmp_path, coco):
    copy_image(tmp_path, '1.png', 'copy.png')
    coco['images'] += [make_image(7, 'copy.png'), make_image(8, '0.png'), make_image(9, 'no.png')]
    audit = check(tmp_path, coco)
    folder = tmp_path / 'images'
    assert find(audit, 'image file equal to an earlier one') == [
        f'image id 7 ({folder}/copy.png) equals image id 1 ({folder}/1.png)'
    ]
    assert find(audit, 'file name') == ["'0.png' is the file of 2 images"]
    assert audit.num_errors == 1  # no.png


def audit_part(folder, coco, key, numbers, decode=True, **kwargs):
    """Audit the images with these numbers under the name of a dataset of a config."""
    part = coco | {
        'images': [image for image in coco['images'] if image['id'] in numbers],
        'annotations': [box for box in coco['annotations'] if box['image_id'] in numbers],
    }
    (folder / f'{key}.json').write_text(json.dumps(part))
    kwargs['data_prefix'] = {'img': str(folder / 'images')}
    kwargs['metainfo'] = {'classes': ('dog', 'c<a>t')}
    dataset = CocoDataset(str(folder / f'{key}.json'), lazy_init=True, **kwargs)
    return check_dataset(dataset, f'{key}_dataloader.dataset', workers=0, decode=decode)


@pytest.mark.parametrize('decode', [True, False])
def test_images_of_the_training_in_other_datasets_are_listed(tmp_path, coco, decode):
    """An image is the same by its content, or by its path where images are not decoded."""
    copy_image(tmp_path, '1.png', 'val/renamed.png')
    copy_image(tmp_path, '0.png', 'val/3.png')  # the name of another one
    coco['images'] += [make_image(7, 'val/renamed.png'), make_image(8, 'images/../2.png')]
    (tmp_path / 'images' / 'images').mkdir()
    train = audit_part(tmp_path, coco, 'train', [1, 2], decode)
    val = audit_part(tmp_path, coco, 'val', [0, 2, 7], decode)
    test = audit_part(tmp_path, coco | {'images': coco['images'][:1]}, 'test', [0], decode)
    find_leaks([train, val, test])
    folder = tmp_path / 'images'
    same = f'image id 2 ({folder}/2.png) is image id 2 ({folder}/2.png) of train_dataloader.dataset'
    renamed = f'image id 7 ({folder}/val/renamed.png) is image id 1 ({folder}/1.png) of train_'
    texts = find(val, f'image of the training: {1 + decode} of 3 images of val_dataloader.dataset')
    assert texts == [same, f'{renamed}dataloader.dataset'][: 1 + decode]
    assert val.num_errors == 0
    assert train.findings == test.findings == []


def test_a_validation_inside_of_the_training(tmp_path, coco):
    """Only images that a dataset uses count; the same config may serve for both."""
    train = audit_part(tmp_path, coco, 'train', [0, 1, 2, 3])
    val = audit_part(tmp_path, coco, 'val', [2, 3])
    find_leaks([train, val])
    assert len(find(val, 'image of the training: 2 of 2 images of val_dataloader.dataset are')) == 2
    train = audit_part(tmp_path, coco, 'train', [0, 1, 2, 3], indices=[0, 1])
    val = audit_part(tmp_path, coco, 'train', [0, 1, 2, 3], indices=[2, 3])
    val.name = 'val_dataloader.dataset'
    find_leaks([train, val])
    assert train.findings == val.findings == []
    train.name = 'train_dataloader.dataset, val_dataloader.dataset'
    find_leaks([train])
    assert len(find(train, 'image of the training: 2 of 2 images of val_dataloader.dataset')) == 2


def die(steps, info):
    """Replace the decoder in the other process, a fork of this one."""
    if info['img_path'] == 'evil':
        os._exit(9)
    return decode_images.DecodeResult()


def test_an_image_that_kills_its_process_stops_no_other(monkeypatch):
    """A chunk is lost with the process, its images are then tried one by one."""
    monkeypatch.setattr(decode_images, '_decode', die)
    monkeypatch.setattr(decode_images, '_CHUNK', 2)
    monkeypatch.setattr(decode_images, '_START_METHOD', 'fork')
    paths = ['a', 'b', 'evil', 'c', 'd', 'e', 'f', 'g', 'h']
    infos = {path: dict(img_path=path) for path in paths}
    results = dict(decode_images.decode_images([], infos, workers=2))
    assert sorted(results) == sorted(paths)
    errors = {path: result.error for path, result in results.items() if result.error}
    assert errors == {'evil': 'image evil kills the process that decodes it'}


def test_the_report_quotes_names_and_holds_its_pictures(tmp_path, coco):
    coco['images'][0]['file_name'] = '<b>.png'
    coco['annotations'][1]['bbox'] = [50, 40, 0, 0]
    write_report([check(tmp_path, coco)], tmp_path / 'out')
    text = (tmp_path / 'out' / 'report.txt').read_text()
    assert f'boxes by class:\n    dog   {1:>10}\n    c<a>t {3:>10}\n' in text
    assert 'warning: 1 x box skipped, without width or height\n    annotation id 1 of image' in text
    assert 'error: 1 x image file\n    image ' in text
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert '&lt;b&gt;.png does not exist' in page
    assert '<b>' not in page
    assert '<a>' not in page
    (code,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    (picture,) = (tmp_path / 'out' / 'pictures').iterdir()
    assert base64.b64decode(code) == picture.read_bytes()


def test_boxes_beyond_the_image_are_drawn_in_a_margin(tmp_path):
    """The margin is 4 pixels and what the box needs, at most the size of the image."""
    cv2.imwrite(str(tmp_path / 'x.png'), np.full((40, 60, 3), 7, np.uint8))
    path = str(tmp_path / 'x.png')
    drawn = draw_picture(Picture(path, (60, 40), [[50, -10, 30, 20]], ''), LoadImageFromFile())
    assert drawn.shape == (10 + 40 + 8, 60 + 20 + 8, 3)
    assert drawn[14, 4].tolist() == [7, 7, 7]
    assert drawn[4, 54].tolist() == drawn[24, 84].tolist() == [0, 0, 255]
    assert drawn[3, 54].tolist() == [99, 99, 99]
    drawn = draw_picture(Picture(path, (60, 40), [[-1e9, 0, 2e9, 5]], ''), LoadImageFromFile())
    assert drawn.shape[1] == 30 + 60 + 30 + 8
    drawn = draw_picture(
        Picture('nowhere.png', (10**9, 10), [[0, 0, 9, 9]], ''), LoadImageFromFile()
    )
    assert drawn.shape[1] == 320 + 8


def test_the_tool_finds_the_images_beside_a_json_and_counts_errors(tmp_path, coco, run_tool):
    (tmp_path / 'ann.json').write_text(json.dumps(coco))
    code, stdout, stderr = run_tool('check_dataset.py', 'ann.json', '--workers', 1)
    assert code == 0, stderr
    assert stdout == (
        '== ann.json: ann.json\n4 images, 4 used; dropped: none. 5 boxes, 5 used; dropped: none\n'
        'no errors or warnings\n\nreport: check_ann/report.html and check_ann/report.txt\n'
    )
    before = {path: path.read_bytes() for path in tmp_path.rglob('*.*g')}
    (tmp_path / 'images' / '2.png').unlink()
    args = ('check_dataset.py', 'ann.json', '--out', 'here', '--workers', 0)
    code, stdout, stderr = run_tool(*args)
    assert code == 1
    assert 'error: 1 x image file\n    image images/2.png does not exist' in stdout
    assert 'error: ann.json: 1 errors in the data, see above and the report' in stderr
    assert all(path.read_bytes() == content for path, content in before.items() if path.exists())


CONFIG = """
common = dict(type='CocoDataset', data_prefix=dict(img='images'), metainfo=dict(classes=('dog',)),
              data_root='wrong')
inner = dict(ann_file='train.json', filter_cfg=dict(min_size=8), **common)
train_dataloader = dict(dataset=dict(type='RepeatDataset', times=2, dataset=inner))
val_dataloader = dict(dataset=dict(ann_file='val.json', test_mode=True, **common))
test_dataloader = val_dataloader
"""


def test_the_tool_checks_each_dataset_of_a_config(tmp_path, coco, run_tool):
    """Val and test are the same and checked once; its one image is too small for no filter."""
    (tmp_path / 'train.json').write_text(json.dumps(coco))
    coco['annotations'][0]['image_id'] = 99
    (tmp_path / 'val.json').write_text(json.dumps(coco))
    (tmp_path / 'config.py').write_text(CONFIG)
    args = ('config.py', '--data-root', tmp_path, '--out', 'out', '--workers', 0)
    code, stdout, stderr = run_tool('check_dataset.py', *args)
    assert code == 1, stderr
    for text in (
        f'== train_dataloader.dataset.dataset: {tmp_path}/train.json\n',
        '4 images, 4 used (2 without boxes); dropped: 0 smaller (filter_cfg.min_size=8). 5 boxes, '
        '2 used; dropped: 3 of other classes',
        f'== val_dataloader.dataset, test_dataloader.dataset: {tmp_path}/val.json\n',
        'annotation id 0 of image id 99: no image has its image_id 99',
        'warning: 4 x image of the training: 4 of 4 images of val_dataloader.dataset, '
        'test_dataloader.dataset are in train_dataloader.dataset.dataset too\n    image id 0 (',
    ):
        assert text in stdout


def test_files_that_are_broken_or_disagree_are_checked_with_their_own_classes(
    tmp_path, coco, run_tool
):
    """Not with COCO's 80 classes, which a dataset has by default."""
    (tmp_path / 'train.json').write_text(json.dumps(coco))
    val = json.dumps(coco)
    (tmp_path / 'val.json').write_text(val.replace('"dog"', '"Dog"'))
    (tmp_path / 'config.py').write_text(re.sub(r'metainfo=dict\(classes=.*?\)\),?', '', CONFIG))
    args = ('config.py', '--data-root', tmp_path, '--out', 'out', '--workers', 0)
    code, stdout, stderr = run_tool('check_dataset.py', *args)
    assert (code, '80 classes' in stdout) == (1, False), stderr
    assert 'the classes do not agree: val_dataloader.dataset: of' in stdout
    assert "'dog' (did you mean 'Dog'?)" in stdout
    (tmp_path / 'val.json').write_text(val.replace('[0, 0, 100, 80]', '[0, 0, 100,\n NaN]'))
    code, stdout, stderr = run_tool('check_dataset.py', *args)
    assert (code, '80 classes' in stdout, 'do not agree' in stdout) == (1, False, False), stderr
    assert stdout.count('error: ') == 1
    assert 'got [0, 0, 100, NaN] (line 2, column 2)' in stdout
    (tmp_path / 'val.json').write_text(val)  # corrected
    code, stdout, stderr = run_tool('check_dataset.py', *args)
    assert (code, stdout.count('error: ')) == (0, 0), stderr


@pytest.mark.parametrize(('test_mode', 'word'), [(False, 'skipped'), (True, 'used')])
def test_what_a_test_measures_and_training_leaves_out(tmp_path, coco, test_mode, word):
    coco['annotations'] += [
        make_box(7, 2, [1, 2, 0.5, 4]),
        make_box(8, 2, [1, 2, 9, 4]) | {'area': 0},
    ]
    audit = check(tmp_path, coco, test_mode=test_mode)
    assert [finding.kind for finding in audit.findings] == [
        f'box {word}, thinner than a pixel',
        f'box {word}, with an area of 0 or less',
    ]
    assert audit.notes[0].startswith(
        f'4 images, 4 used; dropped: none. 7 boxes, {5 + 2 * test_mode} u'
    )


LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='PackDetInputs')
RESIZE = dict(type='Resize', scale=(32, 32), keep_ratio=True)


def fail_at_two(results):
    """A step of a user with a fault."""
    return results['gt_masks'] if results['img_id'] == 2 else results


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('pickled', [True, False])
def test_the_pipeline_is_run_on_the_images_that_the_dataset_uses(tmp_path, coco, workers, pickled):
    """Image 0 is empty and not used, 1 too thin, 2 fails in a step, 3 is damaged."""
    if not pickled:
        workers, own = min(workers, 1), lambda results: fail_at_two(results)
    folder = tmp_path / 'images'
    cv2.imwrite(str(folder / '0.png'), np.zeros((1, 3000, 3), np.uint8))
    cv2.imwrite(str(folder / '1.png'), np.zeros((1, 3000, 3), np.uint8))
    (folder / '3.png').write_bytes(b'no image')
    for number in range(2):
        coco['images'][number] |= dict(width=3000, height=1)
    coco['annotations'][0:2] = [make_box(1, 1, [0, 0, 9, 1])]
    pipeline = [LOAD, RESIZE, fail_at_two if pickled else own, PACK]
    settings = dict(filter_cfg=dict(filter_empty_gt=True), workers=workers, pipeline=pipeline)
    (finding,) = check(tmp_path, coco, **settings).findings
    assert (finding.kind, finding.is_error, finding.count) == ('image file', True, 3)
    thin, failed, damaged = finding.texts
    assert thin.startswith(
        f'image {folder}/1.png (id 1) is 3000x1 (width x height), of which step 1 (Resize) of the '
        'pipeline leaves no pixel: it is too thin'
    )
    assert failed == (
        f'image {folder}/2.png (id 2): step 2 (function) of the pipeline fails with KeyError: '
        "'gt_masks'"
    )
    assert damaged.startswith(f'image {folder}/3.png (id 3) cannot be read as an image')


def test_the_pipeline_is_not_run_on_broken_entries(tmp_path, coco):
    coco['annotations'][0]['image_id'] = 99
    audit = check(tmp_path, coco, pipeline=[LOAD, fail_at_two])
    assert audit.num_errors == 1
    assert 'the pipeline was not run, only its decoder: correct the errors first' in audit.notes


PIPELINES = """
common = dict(type='CocoDataset', data_prefix=dict(img='images'), ann_file='train.json',
              metainfo=dict(classes=('dog', 'c<a>t')))
load, pack = dict(type='LoadImageFromFile'), dict(type='PackDetInputs')
small = dict(type='Resize', scale=(32, 32), keep_ratio=True)
train_dataloader = dict(dataset=dict(pipeline=[load, pack], **common))
val_dataloader = dict(dataset=dict(
    pipeline=[load, dict(type='TestTimeAug', transforms=[[small], [pack]])],
    test_mode=True, **common,
))
"""


def test_the_tool_runs_the_pipeline_of_each_dataset(tmp_path, coco, run_tool):
    cv2.imwrite(str(tmp_path / 'images' / '1.png'), np.zeros((1, 3000, 3), np.uint8))
    coco['images'][1] |= dict(width=3000, height=1)
    coco['annotations'][1]['bbox'] = [0, 0, 9, 1]
    (tmp_path / 'train.json').write_text(json.dumps(coco))
    (tmp_path / 'config.py').write_text(PIPELINES)
    args = ('check_dataset.py', 'config.py', '--workers', 0)
    assert run_tool(*args)[0] == 0
    code, stdout, stderr = run_tool(*args, '--pipeline')
    assert code == 1, stderr
    train, val = stdout.split('== val_dataloader')
    assert 'no errors' in train
    assert 'error: 1 x image file\n    image images/1.png (id 1) is 3000x1' in val
    assert 'of which step 1 (TestTimeAug) of the pipeline leaves no pixel' in val
    code, _, stderr = run_tool('check_dataset.py', 'train.json', '--pipeline')
    assert (code, '--pipeline needs a config' in stderr) == (2, True)


def test_what_the_tool_does_not_check_is_listed_and_an_error(tmp_path, coco, run_tool):
    folder = "custom = dict(type='ImageFolder', data_prefix=dict(img='images'), test_mode=True)\n"
    test = f'{folder}test_dataloader = dict(dataset=custom)\n'
    (tmp_path / 'config.py').write_text(test)
    code, _, stderr = run_tool('check_dataset.py', 'config.py', '--allow-skipped')
    assert code == 1
    assert 'config.py: nothing was checked: test_dataloader.dataset (ImageFolder)' in stderr
    (tmp_path / 'train.json').write_text(json.dumps(coco))
    (tmp_path / 'config.py').write_text(PIPELINES.partition('val_')[0] + test)
    args = ('check_dataset.py', 'config.py', '--workers', 0)
    code, stdout, stderr = run_tool(*args)
    assert code == 1
    assert 'no errors' in stdout
    words = 'config.py: not checked: test_dataloader.dataset (ImageFolder)'
    assert f'error: {words}. --allow-skipped accepts this' in stderr
    code, _, stderr = run_tool(*args, '--allow-skipped')
    assert (code, words in stderr) == (0, True)


def test_images_that_the_tool_does_not_find_are_an_error(tmp_path, coco, run_tool):
    (tmp_path / 'ann.json').write_text(json.dumps(coco))
    (tmp_path / 'images').rename(tmp_path / 'elsewhere')
    code, stdout, stderr = run_tool('check_dataset.py', 'ann.json', '--workers', 0)
    assert code == 1
    assert 'images were not checked: no folder' in stdout
    assert 'no folder of images beside the file; name it with --img-dir' in stderr
    assert 'error: ann.json: not checked: 4 images of ann.json. --allow-skipped accepts' in stderr
    args = ('check_dataset.py', 'ann.json', '--workers', 0)
    assert run_tool(*args, '--allow-skipped')[0] == 0
    assert run_tool(*args, '--img-dir', 'elsewhere')[0] == 0


def test_pictures_are_read_as_the_dataset_reads_them(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (60, 40)).save(tmp_path / 'x.png', exif=exif)
    picture = Picture(str(tmp_path / 'x.png'), (60, 40), [], '')
    loader = LoadImageFromFile(color_type='grayscale_ignore_orientation')
    assert draw_picture(picture, loader).shape == (48, 68, 3)
    assert draw_picture(picture, LoadImageFromFile()).shape == (68, 48, 3)
