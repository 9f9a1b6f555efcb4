import json
from collections import Counter

import pytest

TOOL = 'study/shuffle_labels.py'
CATEGORIES = [
    # As Roboflow writes it: the project is no class.
    dict(id=0, name='cells', supercategory='none'),
    dict(id=7, name='WBC', supercategory='cells'),
    dict(id=3, name='RBC', supercategory='cells'),
    dict(id=9, name='Platelets', supercategory='cells'),
]


def make_data(root, boxes=3000, categories=CATEGORIES):
    """ROOT with boxes of RBC, and two regions to ignore."""
    (root / 'annotations').mkdir(parents=True)
    (root / 'images').mkdir()
    box = dict(image_id='a', bbox=[1.5, 2, 30, 40], area=1200.0, note='Größe')
    annotations = [dict(id=i, category_id=3, **box) for i in range(boxes)]
    annotations += [dict(id=boxes, category_id=3, iscrowd=1, **box)]
    annotations += [dict(id=boxes + 1, category_id=3, ignore=1, **box)]
    image = dict(id='a', file_name='a.png', width=100, height=100)
    data = dict(info=dict(year=2026), images=[image], categories=categories)
    data['annotations'] = annotations
    (root / 'annotations/train.json').write_text(json.dumps(data), encoding='utf-8')
    (root / 'annotations/val.json').write_text('[any, bytes]')
    return data


def read(folder):
    return json.loads((folder / 'annotations/train.json').read_text('utf-8'))


def test_a_share_gets_another_class_and_nothing_else_changes(run_tool, tmp_path):
    data = make_data(tmp_path / 'data')
    code, out, _ = run_tool(TOOL, 'data', 'wrong')
    assert code == 0
    assert out == 'wrong/annotations/train.json: 600 of 3,000 boxes have another class\n'
    wrong = read(tmp_path / 'wrong')
    counts = Counter(box['category_id'] for box in wrong['annotations'])
    assert counts[3] == 3000 - 600 + 2
    # Of 600 draws half, give or take four standard deviations; none of the class that is no class.
    assert abs(counts[7] - 300) < 49
    assert counts[7] + counts[9] == 600
    assert [box['category_id'] for box in wrong['annotations'][-2:]] == [3, 3]
    for box in wrong['annotations']:
        box['category_id'] = 3
    assert wrong == data
    assert (tmp_path / 'wrong/annotations/val.json').read_text() == '[any, bytes]'
    assert (tmp_path / 'wrong/images').samefile(tmp_path / 'data/images')


def test_the_seed_alone_decides(run_tool, tmp_path):
    make_data(tmp_path / 'data', boxes=100)
    for out, seed in (('a', 1), ('b', 1), ('c', 2), ('a', 1)):
        assert run_tool(TOOL, 'data', out, '--seed', seed)[0] == 0
    assert read(tmp_path / 'a') == read(tmp_path / 'b') != read(tmp_path / 'c')


@pytest.mark.parametrize(('share', 'changed'), [(0, 0), (0.014, 1), (1, 100)])
def test_the_share_is_rounded_and_all_change(run_tool, tmp_path, share, changed):
    make_data(tmp_path / 'data', boxes=100)
    run_tool(TOOL, 'data', 'wrong', '--share', share)
    ids = [box['category_id'] for box in read(tmp_path / 'wrong')['annotations']]
    assert sum(id_ != 3 for id_ in ids) == changed


def test_errors_come_before_anything_is_written(run_tool, tmp_path):
    make_data(tmp_path / 'data', boxes=5)
    make_data(tmp_path / 'one', categories=CATEGORIES[2:3])
    make_data(tmp_path / 'bare')
    (tmp_path / 'bare/images').rmdir()
    before = (tmp_path / 'data/annotations/train.json').read_bytes()
    for words, message in (
        (('data', 'wrong', '--share', '20'), '--share must be a number in [0, 1], got 20.0'),
        (('Data', 'wrong'), "there is 'data/annotations/train.json', which differs in upper"),
        (('one', 'wrong'), 'one/annotations/train.json: expected at least two classes, got RBC'),
        (('bare', 'wrong'), 'no folder bare/images'),
        (('data', 'one/../data'), 'OUT is ROOT, whose files would be lost'),
    ):
        code, _, err = run_tool(TOOL, *words)
        assert code == 1
        assert message in err
    assert not (tmp_path / 'wrong').exists()
    assert (tmp_path / 'data/annotations/train.json').read_bytes() == before
    (tmp_path / 'wrong/images').mkdir(parents=True)
    assert 'wrong/images is not a link to data/images' in run_tool(TOOL, 'data', 'wrong')[2]
