from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import coco
import pytest
import to_coco
import yaml
from formats import READERS
from PIL import Image

from ghmdet.datasets import CocoDataset

CATEGORIES = [{'id': 7, 'name': 'dog'}, {'id': 3, 'name': 'cat', 'supercategory': 'pet'}]


def make_image(id_: int | str, name: str, **fields) -> dict:
    return {'id': id_, 'file_name': name, 'width': 50, 'height': 40} | fields


def make_ann(id_: int, image_id: int | str, category_id: int, bbox: list, **fields) -> dict:
    entry = {'id': id_, 'image_id': image_id, 'category_id': category_id, 'bbox': bbox}
    return entry | {'area': bbox[2] * bbox[3], 'iscrowd': 0} | fields


def save(path: Path, images: list, annotations: list, categories: list | None = None, **fields):
    lists = {'images': images, 'annotations': annotations}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields | lists | {'categories': categories or CATEGORIES}))
    return path


def load(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture
def first(tmp_path) -> Path:
    """Three images: two dogs and a cat, a crowd of cats, nothing."""
    images = [make_image(5, 'a.jpg', night=True), make_image('x', 'b.jpg'), make_image(9, 'c.jpg')]
    annotations = [
        make_ann(11, 5, 7, [1, 2, 10, 20], segmentation=[[1, 2, 11, 2, 11, 22]]),
        make_ann(12, 5, 7, [30.5, 10, 5, 5]),
        make_ann(13, 5, 3, [0, 0, 40, 30]),
        make_ann(14, 'x', 3, [0, 0, 50, 40], iscrowd=1),
    ]
    return save(tmp_path / 'a.json', images, annotations, info={'year': 2020}, note=[1])


def run_tool(*args: object, error: str = '') -> None:
    words = [str(arg) for arg in args]
    if error:
        with pytest.raises((ValueError, OSError), match=error):
            coco.main(words)
    else:
        coco.main(words)


def test_merge_joins_categories_and_numbers_anew(first, tmp_path, capsys):
    categories = [
        {'id': 1, 'name': 'cat', 'supercategory': 'animal'},
        {'id': 2, 'name': 'Dog '},
        {'id': 3, 'name': 'bird'},
    ]
    annotations = [make_ann(11, 5, 1, [1, 1, 2, 2]), make_ann(12, 5, 3, [2, 2, 4, 4])]
    other = save(tmp_path / 'b.json', [make_image(5, 'd.jpg')], annotations, categories, note=[2])
    run_tool('merge', first, other, '--out', tmp_path / 'c.json')
    merged = load(tmp_path / 'c.json')
    assert merged['info'] == {'written_by': 'coco.py merge from a.json, b.json', 'year': 2020}
    assert merged['note'] == [1]
    # In the order of the ids of a category, cat is 3 and dog is 7.
    cat, dog = ({'name': 'cat', 'supercategory': 'pet', 'id': 1}, {'name': 'dog', 'id': 2})
    assert merged['categories'] == [cat, dog, {'id': 3, 'name': 'Dog '}, {'id': 4, 'name': 'bird'}]
    names = [(image['id'], image['file_name']) for image in merged['images']]
    assert names == [(1, 'a.jpg'), (2, 'b.jpg'), (3, 'c.jpg'), (4, 'd.jpg')]
    assert merged['images'][0]['night'] is True
    assert merged['annotations'][0]['segmentation'] == [[1, 2, 11, 2, 11, 22]]
    rows = [(a['id'], a['image_id'], a['category_id']) for a in merged['annotations']]
    assert rows == [(1, 1, 2), (2, 1, 2), (3, 1, 1), (4, 2, 1), (5, 4, 1), (6, 4, 4)]
    out = capsys.readouterr().out
    assert 'images: 4 in the files = 4 written + 0 left out' in out
    assert 'boxes: 6 in the files = 6 written + 0 left out' in out
    assert "'cat' has the supercategory 'pet' in " in out
    assert "stay apart: ['dog', 'Dog ']" in out
    assert "b.json: 'note' differs from that of an earlier file" in out


def test_licenses_keep_their_images(tmp_path):
    for name, license_id, by in (('a', 0, 'me'), ('b', 0, 'you'), ('c', 4, 'me')):
        image = make_image(1, f'{name}.jpg', license=license_id)
        save(tmp_path / f'{name}.json', [image], [], licenses=[{'id': license_id, 'name': by}])
    run_tool('merge', *(tmp_path / f'{n}.json' for n in 'abc'), '--out', tmp_path / 'm.json')
    merged = load(tmp_path / 'm.json')
    assert merged['licenses'] == [{'id': 1, 'name': 'me'}, {'id': 2, 'name': 'you'}]
    assert [image['license'] for image in merged['images']] == [1, 2, 1]


@pytest.mark.follows(
    '{} images have the file name of another',
    'make one image of each by --join',
)
def test_images_of_one_name(first, tmp_path, capsys):
    """One message; both of its pieces of advice are followed."""
    annotations = [make_ann(1, 1, 7, [1.0, 2, 10, 20]), make_ann(2, 1, 7, [1, 2, 10, 21])]
    other = save(tmp_path / 'b.json', [make_image(1, 'a.jpg', by='me')], annotations)
    args = 'merge', first, other, '--out', tmp_path / 'c.json'
    run_tool(*args, error=r'1 images have the file name of another: a.jpg \(.*a.json and .*b.json')
    assert not (tmp_path / 'c.json').exists()
    run_tool(*args, '--join')
    merged = load(tmp_path / 'c.json')
    assert len(merged['images']) == 3
    assert merged['images'][0] == make_image(1, 'a.jpg', night=True, by='me')
    assert [a['bbox'] for a in merged['annotations'] if a['image_id'] == 1][3:] == [[1, 2, 10, 21]]
    out = capsys.readouterr().out
    assert '4 in the files = 3 written + 1 left out (1 joined with' in out
    assert '6 in the files = 5 written + 1 left out (1 equal to one that an earlier file' in out
    run_tool(*args, '--prefix', 'one/', 'two')  # replaces its own file
    names = [image['file_name'] for image in load(tmp_path / 'c.json')['images']]
    assert names == ['one/a.jpg', 'one/b.jpg', 'one/c.jpg', 'two/a.jpg']


@pytest.mark.follows(
    'correct the files',
)
def test_images_of_one_name_and_two_sizes_are_not_joined(first, tmp_path):
    other = save(tmp_path / 'b.json', [make_image(1, 'a.jpg', width=51)], [])
    error = r'b.json, 50x40 and 51x40 pixels\).*correct the files'
    args = 'merge', first, other, '--join', '--out', tmp_path / 'c.json'
    run_tool(*args, error=error)
    save(other, [make_image(1, 'a.jpg')], [])
    run_tool(*args)
    assert len(load(tmp_path / 'c.json')['images']) == 3


@pytest.mark.follows(
    'is the file that is read; give another',
    'exists and is {}; give another name',
)
def test_no_other_file_is_overwritten(first, tmp_path):
    (tmp_path / 'b.json').write_text('{"info": {}}')
    run_tool('subset', first, '--limit', 1, '--out', tmp_path / 'b.json', error='not a file that')
    run_tool('subset', first, '--limit', 1, '--out', tmp_path, error='exists and is a folder')
    run_tool('subset', first, '--limit', 2, '--out', tmp_path / 'c.json')
    before = (tmp_path / 'c.json').read_bytes()
    args = 'subset', tmp_path / 'c.json', '--limit', 1, '--out'
    run_tool(*args, tmp_path / '.' / 'c.json', error='is the file that is read; give another')
    assert (tmp_path / 'c.json').read_bytes() == before
    run_tool(*args, tmp_path / 'new' / 'd.json')
    assert len(load(tmp_path / 'new' / 'd.json')['images']) == 1


@pytest.mark.follows(
    'is of another split, and would have images of this one; remove it',
)
def test_split_keeps_ids_and_groups(tmp_path, capsys):
    names = [f'v{video}_{frame}.jpg' for video in range(5) for frame in range(4)]
    images = [make_image(3 * i, name) for i, name in enumerate(names)]
    annotations = [make_ann(i, 3 * i, (7, 3)[i % 2], [1, 2, 3, 4], k=i) for i in range(20)]
    source = save(tmp_path / 'all.json', images, annotations, extra={'x': 1})
    out = tmp_path / 'out'
    args = 'split', source, '--split', '0.6,0.2,0.2', '--group-by', r'v\d', '--out', out
    run_tool(*args, '--stratify')
    parts = {split: load(out / f'{split}.json') for split in ('train', 'val', 'test')}
    assert [len(part['images']) for part in parts.values()] == [12, 4, 4]
    videos = [{image['file_name'][:2] for image in part['images']} for part in parts.values()]
    assert [len(of_part) for of_part in videos] == [3, 1, 1]
    assert len(set.union(*videos)) == 5
    for part in parts.values():
        ids = [image['id'] for image in part['images']]
        assert part['images'] == [image for image in images if image['id'] in ids]
        assert part['annotations'] == [a for a in annotations if a['image_id'] in ids]
        assert (part['categories'], part['extra']) == (CATEGORIES, {'x': 1})
    text = capsys.readouterr().out
    assert '20 images in 5 groups' in text
    assert 'boxes: 20 in the files = 20 written + 0 left out' in text
    (out / 'val.json').write_text('{}')
    run_tool(*args, error='val.json exists and is not a file that')
    (out / 'val.json').unlink()
    args = 'split', source, '--split', '0.8,0.2', '--out', out
    run_tool(*args, error='test.json is of another split.*remove it')
    (out / 'test.json').unlink()
    run_tool(*args)
    assert [len(load(out / f'{split}.json')['images']) for split in ('train', 'val')] == [16, 4]


def test_copies_of_roboflow_stay_together(tmp_path):
    names = [f'{i}_jpg.rf.{k}{i}.jpg' for i in range(4) for k in 'ab']
    source = save(tmp_path / 'all.json', [make_image(n, n) for n in names], [])
    run_tool('split', source, '--split', '0.5,0.5', '--out', tmp_path)
    stems = [
        {image['file_name'][0] for image in load(tmp_path / f'{split}.json')['images']}
        for split in ('train', 'val')
    ]
    assert [len(of_split) for of_split in stems] == [2, 2]
    assert not stems[0] & stems[1]


@pytest.mark.parametrize(
    ('args', 'names', 'boxes', 'account'),
    [
        (['--classes', 'dog'], 'abc', [11, 12], '2 left out (2 of other classes)'),
        (['--classes', 'dog', '--drop-empty'], 'a', [11, 12], '2 left out (2 of other classes)'),
        (['--drop-empty'], 'ab', [11, 12, 13, 14], '0 left out'),
        (['--limit', '2'], 'ab', [11, 12, 13, 14], '0 left out'),
        (['--limit', '9'], 'abc', [11, 12, 13, 14], '0 left out'),
        (['--images', 'LIST'], 'bc', [14], '3 left out (3 of images left out)'),
        (['--images', 'LIST', '--classes', 'dog'], 'bc', [], '2 of other classes, 2 of images'),
    ],
)
def test_subset(first, tmp_path, capsys, args, names, boxes, account):
    (tmp_path / 'list.txt').write_text('c.jpg\r\n\r\nx\r\n')  # a name, and an id
    args = [tmp_path / 'list.txt' if arg == 'LIST' else arg for arg in args]
    run_tool('subset', first, *args, '--out', tmp_path / 'out.json')
    found, source = load(tmp_path / 'out.json'), load(first)
    assert found['images'] == [i for i in source['images'] if i['file_name'][0] in names]
    assert found['annotations'] == [a for a in source['annotations'] if a['id'] in boxes]
    assert [c['name'] for c in found['categories']] == (
        ['dog'] if 'dog' in args else ['dog', 'cat']
    )
    assert account in capsys.readouterr().out


def test_limit_is_spread_evenly(tmp_path):
    source = save(tmp_path / 'a.json', [make_image(i, f'{i}.jpg') for i in range(10)], [])
    run_tool('subset', source, '--limit', 4, '--out', tmp_path / 'b.json')
    assert [image['id'] for image in load(tmp_path / 'b.json')['images']] == [0, 2, 5, 7]


def test_unknown_names_and_their_nearest(first, tmp_path):
    args = 'subset', first, '--out', tmp_path / 'b.json'
    error = r"a.json has no category 'Dog' \(did you mean 'dog'\?\); there are cat, dog"
    run_tool(*args, '--classes', 'Dog', 'cat', error=error)
    (tmp_path / 'list.txt').write_text('a.jpeg\nc.jpg\n77\n')
    error = r"list.txt: 2 lines are neither .*: 'a.jpeg' \(did you mean 'a.jpg'\?\), '77'"
    run_tool(*args, '--images', tmp_path / 'list.txt', error=error)
    run_tool('stats', tmp_path / 'A.json', error='no file .*A.json.*a.json')


@pytest.mark.follows(
    'subset needs --classes, --images, --limit or',
    '--limit must be at least 1, got {}',
    '--prefix needs {} folders, one for each FILE',
)
def test_arguments_that_do_not_fit(first, tmp_path, capsys):
    for command, wrong, error, right, names in (
        ('subset', [], 'subset needs --classes, --images, --limit or', ['--drop-empty'], 'ab'),
        ('subset', ['--limit', '0'], 'must be at least 1, got 0', ['--limit', '1'], 'a'),
        ('merge', ['--prefix', 'x', 'y'], 'needs 1 folders, one for', ['--prefix', 'x'], 'xxx'),
    ):
        args = [command, str(first), '--out', str(tmp_path / 'b.json')]
        with pytest.raises(SystemExit):
            coco.main([*args, *wrong])
        assert error in capsys.readouterr().err
        coco.main([*args, *right])
        found = load(tmp_path / 'b.json')['images']
        assert ''.join(image['file_name'][0] for image in found) == names


def test_fields_with_nan_are_kept_as_null(tmp_path, capsys):
    image = make_image(1, 'a.jpg', score=math.nan)
    source = save(tmp_path / 'a.json', [image], [make_ann(1, 1, 7, [1, 2, 3, 4])])
    run_tool('subset', source, '--limit', 1, '--out', tmp_path / 'b.json')
    assert load(tmp_path / 'b.json')['images'] == [image | {'score': None}]
    assert 'are written as null' in capsys.readouterr().out


def test_broken_entries_are_named(tmp_path):
    source = save(tmp_path / 'a.json', [make_image(1, 'a.jpg')], [make_ann(4, 2, 7, [1, 2, 3, 4])])
    error = 'annotation id 4 of image id 2: no image has its image_id 2'
    run_tool('split', source, '--split', '0.5,0.5', '--out', tmp_path, error=error)


def test_stats(tmp_path, capsys):
    images = [make_image(1, 'a', width=300), make_image(2, 'b', height=90), make_image(3, 'c')]
    annotations = [
        make_ann(1, 1, 7, [0, 0, 32, 32]),  # medium: 32 x 32 and from there on
        make_ann(2, 1, 7, [0, 0, 31, 33]),  # 1023 is small
        make_ann(3, 1, 3, [200, 0, 101, 2], area=9216, ignore=1),  # by its area; beyond the image
        make_ann(4, 2, 3, [0, 0, 0, 5], iscrowd=1),
        {'id': 5, 'image_id': 2, 'category_id': 7, 'bbox': [0, 0, 40, 40]},  # no area: 1600
    ]
    run_tool('stats', save(tmp_path / 'a.json', images, annotations))
    assert capsys.readouterr().out.splitlines() == [
        'images: 3, of which 1 have no box',
        'width: 50 to 300, height: 40 to 90',
        'boxes: 5, 1.7 per image, at most 3',
        '     boxes  images  small  medium  large  iscrowd  ignore',
        'cat      2       2      1       0      1        1       1',
        'dog      3       2      1       2      0        0       0',
        'all      5       2      2       2      1        1       1',
        '1 boxes have no width or height',
        '1 boxes reach beyond their image',
    ]


def test_stats_of_a_file_without_boxes(tmp_path, capsys):
    run_tool('stats', save(tmp_path / 'a.json', [], [], [{'id': 1, 'name': 'cat'}]))
    out = capsys.readouterr().out
    assert 'images: 0, of which 0 have no box\nwidth: none, height: none\nboxes: 0, 0.0' in out


@pytest.fixture
def data(tmp_path) -> Path:
    """train.json, val.json and the images that they name, of odd sizes."""
    boxes = [[0.123456789, 7, 1000.3, 555.55], [33.3333333, 1 / 3, 1e-2, 700], [1000, 700, 9, 9]]
    for split, names in (('train', ['a.jpg', 'sub/b.c.jpg']), ('val', ['images/d e.png'])):
        images = [make_image(n, n, width=1009, height=709) for n in names]
        annotations = [
            make_ann(10 * i + k, name, (3, 7)[k % 2], box)
            for i, name in enumerate(names)
            for k, box in enumerate(boxes)
        ]
        save(tmp_path / 'data' / f'{split}.json', images, annotations)
        for name in names:
            path = tmp_path / 'data' / 'img' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (1009, 709)).save(path)
    return tmp_path / 'data'


def get_boxes(folder: Path, split: str, place: str = 'annotations') -> dict[str, list]:
    """Corners and class of the boxes of each image, by the name of its file."""
    dataset = CocoDataset(
        ann_file=str(folder / place / f'{split}.json'),
        data_prefix=dict(img=''),
        metainfo=dict(classes=('cat', 'dog')),
        pipeline=[],
    )
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    return {
        Path(info['img_path']).name: sorted(
            (*instance['bbox'], instance['bbox_label']) for instance in info['instances']
        )
        for info in infos
    }


def test_round_trip_by_yolo(data, tmp_path, capsys):
    yolo, out = tmp_path / 'yolo', tmp_path / 'out'
    run_tool(
        *('to-yolo', data / 'train.json', data / 'val.json', '--out', yolo),
        *('--images', data / 'img'),
    )
    settings = yaml.safe_load((yolo / 'data.yaml').read_text())
    assert settings == {'train': 'train.txt', 'val': 'val.txt', 'names': {0: 'cat', 1: 'dog'}}
    assert (yolo / 'train.txt').read_text() == './images/a.jpg\n./images/sub/b.c.jpg\n'
    assert (yolo / 'images' / 'd e.png').samefile(data / 'img' / 'images' / 'd e.png')
    # (1000 + 1009) / 2 / 1009, (700 + 709) / 2 / 709, 9 / 1009, 9 / 709
    last = (yolo / 'labels' / 'sub' / 'b.c.txt').read_text().splitlines()[2]
    assert last == '0 0.99554014 0.99365303 0.00891972 0.01269394'
    to_coco.main([str(yolo), '--from', 'yolo', '--out', str(out)])
    assert 'boxes: 9 in the files = 9 written + 0 left out' in capsys.readouterr().out
    for split in ('train', 'val'):
        before, after = get_boxes(data, split, '.'), get_boxes(out, split)
        assert before.keys() == after.keys()
        for name, boxes in before.items():
            for a, b in zip(boxes, after[name], strict=True):
                assert a == pytest.approx(b, abs=1e-3)


@pytest.mark.follows(
    'images are not yet in {}: copy the image folder there',
    'which YOLO programs need: give',
    'files that would be overwritten or mixed with these',
)
def test_boxes_that_yolo_cannot_hold(tmp_path, capsys):
    annotations = [
        make_ann(1, 1, 7, [-5, 10, 25, 20]),
        make_ann(2, 1, 7, [60, 10, 5, 5]),
        make_ann(3, 1, 7, [1, 1, 0, 5]),
        make_ann(4, 1, 7, [1, 1, 5, 5], iscrowd=1),
        make_ann(5, 1, 3, [1, 1, 5, 5], ignore=1),
    ]
    images = [make_image(1, 'a.jpg'), make_image(2, 'b.jpg')]
    source = save(tmp_path / 'a.json', images, annotations)
    yolo = tmp_path / 'yolo'
    run_tool('to-yolo', source, '--out', yolo)
    # Clipped to 0 10 20 30 of 50 x 40.
    text = (yolo / 'labels' / 'a.txt').read_text()
    assert text == '1 0.20000000 0.50000000 0.40000000 0.50000000\n'
    assert (yolo / 'labels' / 'b.txt').read_text() == ''
    out = capsys.readouterr().out
    assert (
        '5 in the files = 1 written + 4 left out (1 outside of the image, 1 degenerate, 1 w' in out
    )
    assert 'annotation id 2 of image id 1 (a.jpg) is outside of the image' in out
    assert '1 boxes reached beyond their image and are clipped' in out
    assert f'2 images are not yet in {yolo / "images"}' in out
    assert 'data.yaml has no val, which YOLO programs need: give val.json as well' in out
    val = save(tmp_path / 'val.json', [make_image(1, 'c.jpg')], [])
    args = 'to-yolo', source, val, '--out', yolo
    run_tool(*args, error='would be overwritten or mixed with these: labels/a.txt')
    assert (yolo / 'labels' / 'a.txt').read_text() == text
    shutil.rmtree(yolo)
    for name in 'abc':
        (yolo / 'images').mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (50, 40)).save(yolo / 'images' / f'{name}.jpg')
    run_tool(*args)
    assert 'not yet' not in capsys.readouterr().out
    to_coco.main([str(yolo), '--out', str(tmp_path / 'out')])
    assert get_boxes(tmp_path / 'out', 'train')['a.jpg'] == [pytest.approx((0, 10, 20, 30, 1))]
    assert get_boxes(tmp_path / 'out', 'val') == {'c.jpg': []}
    capsys.readouterr()
    run_tool('to-csv', source, '--out', tmp_path / 'a.csv')
    out = capsys.readouterr().out
    assert 'images: 2 in the files = 1 written + 1 left out (1 without a box to write)' in out
    assert '5 in the files = 1 written + 4 left out' in out


def test_images_lie_where_yolo_finds_their_labels(tmp_path):
    """YOLO programs replace the last folder `images` of a path by `labels`."""
    names = ['images/a.jpg', 'x/images/b.jpg', 'c.jpg']
    run_tool(
        *('to-yolo', save(tmp_path / 'val.json', [make_image(n, n) for n in names], [])),
        *('--out', tmp_path / 'yolo'),
    )
    lines = (tmp_path / 'yolo' / 'val.txt').read_text().splitlines()
    assert lines == ['./images/a.jpg', './images/x/images/b.jpg', './images/c.jpg']
    for line in lines:
        label = '/labels/'.join(line.rsplit('/images/', 1)).replace('.jpg', '.txt')
        assert (tmp_path / 'yolo' / label).is_file()


@pytest.mark.parametrize(
    ('names', 'error'),
    [
        (['a.jpg', 'a.png'], 'label file of another: a.jpg and a.png'),
        (['a.jpg', 'A.jpg'], 'label file of another: a.jpg and A.jpg'),
        (['../a.jpg'], r'1 file names lead out of the image folder: \.\./a.jpg'),
        (['/etc/a.jpg'], 'lead out of the image folder'),
        (['https://host/a.jpg'], 'lead out of the image folder'),
        (['b.jpg'], r'--images: 1 of 1 images are missing: .*b.jpg'),
    ],
)
@pytest.mark.follows(
    'Write file names relative to this folder into the COCO file',
    'YOLO finds labels by the name without ending',
    'It must be the folder that the file names start from',
)
def test_names_that_yolo_cannot_hold(tmp_path, names, error):
    source = save(tmp_path / 'a.json', [make_image(n, n) for n in names], [])
    args = 'to-yolo', source, '--out', tmp_path / 'yolo', '--images', tmp_path
    run_tool(*args, error=error)
    assert not (tmp_path / 'yolo').exists()
    right = [f'{number}.jpg' for number, _ in enumerate(names)]
    for name in right:
        (tmp_path / 'img').mkdir(exist_ok=True)
        Image.new('RGB', (50, 40)).save(tmp_path / 'img' / name)
    save(source, [make_image(n, n) for n in right], [])
    run_tool(*args[:-1], tmp_path / 'img')
    assert (tmp_path / 'yolo' / 'images' / '0.jpg').samefile(tmp_path / 'img' / '0.jpg')


def test_images_of_another_size_are_named(tmp_path, capsys):
    Image.new('RGB', (40, 50)).save(tmp_path / 'a.jpg')
    Image.new('RGB', (50, 40)).save(tmp_path / 'b.jpg')
    (tmp_path / 'c.jpg').write_bytes(b'text')
    source = save(tmp_path / 'a.json', [make_image(n, n) for n in ('a.jpg', 'b.jpg', 'c.jpg')], [])
    run_tool('to-yolo', source, '--out', tmp_path / 'yolo', '--images', tmp_path)
    out = capsys.readouterr().out
    assert '2 images are not of the size in the COCO file' in out
    assert 'a.jpg is 40x50, not 50x40, image ' in out


@pytest.mark.follows('other images are in --out: {}. Give another folder')
def test_no_other_image_is_replaced(data, tmp_path):
    yolo = tmp_path / 'yolo'
    (yolo / 'images').mkdir(parents=True)
    (yolo / 'images' / 'a.jpg').write_bytes(b'another')
    args = 'to-yolo', data / 'train.json', '--images', data / 'img', '--out'
    run_tool(*args, yolo, error='1 other images are in --out: .*a.jpg')
    assert (yolo / 'images' / 'a.jpg').read_bytes() == b'another'
    run_tool(*args, tmp_path / 'new')
    assert (tmp_path / 'new' / 'images' / 'a.jpg').samefile(data / 'img' / 'a.jpg')


@pytest.mark.follows(
    'exists; give another name, or remove it',
)
def test_csv(first, tmp_path, capsys):
    table = tmp_path / 'a.csv'
    run_tool('to-csv', first, '--out', table)
    assert table.read_text().splitlines() == [
        'filename,width,height,class,xmin,ymin,xmax,ymax',
        'a.jpg,50,40,dog,1,2,11,22',
        'a.jpg,50,40,dog,30.5,10,35.5,15',
        'a.jpg,50,40,cat,0,0,40,30',
    ]
    assert '4 in the files = 3 written + 1 left out (1 with iscrowd)' in capsys.readouterr().out
    run_tool('to-csv', first, '--out', table, error='exists; give another name, or remove it')
    table.unlink()
    run_tool('to-csv', first, '--out', table)
    assert table.is_file()


@pytest.mark.skipif('csv' not in READERS, reason='the reader of tables is not there yet')
def test_round_trip_by_csv(data, tmp_path):
    run_tool('to-csv', data / 'train.json', '--out', tmp_path / 'a.csv')
    out = tmp_path / 'out'
    args = '--from', 'csv', '--images', str(data / 'img'), '--out', str(out)
    to_coco.main([str(tmp_path / 'a.csv'), *args])
    before, after = get_boxes(data, 'train', '.'), get_boxes(out, 'all')
    assert before.keys() == after.keys()
    for name, boxes in before.items():
        for a, b in zip(boxes, after[name], strict=True):
            assert a == pytest.approx(b, abs=1e-3)
