"""tools/analysis_tools/confusion_matrix.py: every object and detection is counted once."""

import csv
import json
import shlex
from pathlib import Path

import confusion_matrix
import cv2
import numpy as np
import pytest

from tests.evaluation.test_matching import CLASSES, annotations, random_truth
from tests.tools.analysis_tools.test_results_arguments import write_set

ROOT = Path(__file__).parents[3]


def entries_of(truth, images):
    """COCO results of images as `random_truth` returns them."""
    numbers = {name: id_ for id_, name in truth.categories.items()}
    return [
        dict(
            image_id=image['img_id'],
            category_id=numbers[CLASSES[label]],
            bbox=[*box[:2], box[2] - box[0], box[3] - box[1]],
            score=score,
        )
        for image in images
        for label, box, score in zip(
            *(image[key].tolist() for key in ('labels', 'bboxes', 'scores'))
        )
    ]


def run(folder, entries, *options):
    (folder / 'found.json').write_text(json.dumps(entries))
    files = [str(folder / name) for name in ('found.json', 'truth.json', 'out')]
    confusion_matrix.main([*files, *options])
    content = json.loads((folder / 'out/confusion_matrix.json').read_text())
    rows = list(csv.reader((folder / 'out/confusion_matrix.csv').open()))
    assert rows[0][1:] == [row[0] for row in rows[1:]] == content['classes']
    assert [[int(n) for n in row[1:]] for row in rows[1:]] == content['counts']
    return content, np.array(content['counts'])


def test_counts_worked_by_hand(tmp_path, capsys):
    boxes = [(1, 'cat', x, 0, 10, 10) for x in (0, 50, 100)] + [(1, 'dog', 0, 100, 10, 10)]
    annotations([*boxes, (1, 'dog', 300, 300, 50, 50, dict(iscrowd=1))], tmp_path)
    found = [
        ('cat', [0, 0, 10, 10], 0.9),
        ('cat', [0, 0, 10, 10], 0.3),  # a second one
        ('cat', [50, 0, 10, 10], 0.29),  # below the threshold
        ('owl', [100, 0, 10, 10], 0.5),
        ('dog', [0, 100, 10, 10], 0.5),
        ('dog', [310, 310, 9, 9], 0.5),  # in the crowd region
        ('owl', [310, 310, 9, 9], 0.5),
    ]
    numbers = dict(cat=7, dog=5, owl=3)
    entries = [dict(image_id=1, category_id=numbers[n], bbox=b, score=s) for n, b, s in found]
    content, matrix = run(tmp_path, entries)
    assert content['classes'] == ['owl', 'dog', 'cat', 'background']
    assert matrix.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1], [1, 0, 1, 0]]
    assert content['shares'][2] == [1 / 3, 0, 1 / 3, 1 / 3]
    assert (content['objects'], content['detections']) == (4, 5)
    assert (content['ignored_objects'], content['ignored_detections']) == (1, 1)
    out = capsys.readouterr().out.splitlines()
    assert out[3].split() == ['cat', '1', '0', '1', '1']
    assert '1 of 3 cat taken for owl' in out
    assert '4 objects: 2 found, 1 taken for another class, 1 missed' in out
    assert '5 detections from score 0.3 up: 2 right, 1 of another class, 2 on background' in out
    assert 'not counted: 1 ignored objects and crowd regions, 1 detections on them' in out
    _, lower = run(tmp_path, entries, '--score-thr', '0.29')
    assert lower[2].tolist() == [1, 0, 2, 0]
    _, strict = run(tmp_path, [entries[0] | dict(bbox=[0, 0, 10, 8])], '--tp-iou-thr', '0.9')
    assert strict.tolist() == [[0] * 4, [0, 0, 0, 1], [0, 0, 0, 3], [0, 0, 1, 0]]
    _, suppressed = run(tmp_path, entries, '--nms-iou-thr', '0.5')
    assert suppressed.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize('seed', range(3))
def test_sums_are_the_numbers_of_objects_and_detections(seed, tmp_path):
    truth, images = random_truth(seed, tmp_path, 60)
    entries = entries_of(truth, images)
    content, matrix = run(tmp_path, entries)
    data = json.loads((tmp_path / 'truth.json').read_text())
    for label, name in enumerate(content['classes'][:-1]):
        (id_,) = (c['id'] for c in data['categories'] if c['name'] == name)
        objects = [
            a for a in data['annotations']
            if a['category_id'] == id_ and not a.get('iscrowd') and not a.get('ignore')
        ]  # fmt: skip
        assert matrix[label].sum() == len(objects)
    above = [entry for entry in entries if entry['score'] >= 0.3]
    assert matrix[:, :-1].sum() + content['ignored_detections'] == len(above)
    assert content['ignored_detections'] > 5
    assert matrix[-1, -1] == 0


def test_the_ground_truth_gives_a_diagonal(tmp_path):
    """Also where two classes share a box."""
    boxes = [(1, 'cat', 0, 0, 10, 10), (1, 'dog', 0, 0, 10, 10), (1, 'owl', 1, 0, 10, 10)]
    truth = annotations(boxes, tmp_path)
    numbers = {name: id_ for id_, name in truth.categories.items()}
    entries = [
        dict(image_id=1, category_id=numbers[n], bbox=box, score=1) for _, n, *box in boxes[::-1]
    ]
    _, matrix = run(tmp_path, entries)
    assert matrix.tolist() == np.diag([1, 1, 1, 0]).tolist()


@pytest.mark.parametrize('with_objects', [False, True])
def test_nothing_to_count(with_objects, tmp_path, capsys):
    boxes = [(1, 'cat', 0, 0, 10, 10)] * with_objects
    annotations(boxes, tmp_path)
    _, matrix = run(tmp_path, [])
    assert (matrix.sum(), matrix[2, 3]) == (with_objects, with_objects)
    assert '0 detections from score 0.3 up' in capsys.readouterr().out
    entry = dict(image_id=1, category_id=7, bbox=[50, 50, 9, 9], score=1)
    _, matrix = run(tmp_path, [entry])
    assert (matrix[3, 2], matrix.sum()) == (1, 1 + with_objects)


@pytest.mark.parametrize('count', [1, 80])
def test_one_class_and_many(count, tmp_path, capsys):
    names = [f'class {i}' for i in range(count)]
    categories = [dict(id=i, name=name) for i, name in enumerate(names)]
    boxes = [dict(id=i + 1, image_id=0, category_id=i, bbox=[9 * i, 0, 8, 8]) for i in range(count)]
    content = dict(
        images=[dict(id=0, width=900, height=9)], categories=categories, annotations=boxes
    )
    (tmp_path / 'truth.json').write_text(json.dumps(content))
    entries = [box | dict(score=0.5, category_id=box['category_id'] // 2) for box in boxes]
    _, matrix = run(tmp_path, entries)
    assert matrix.sum() == count
    out = capsys.readouterr().out
    assert ('background' in out.splitlines()[0]) == (count == 1)  # wide tables are not printed
    assert ('1 of 1 class 3 taken for class 1' in out) == (count == 80)
    height, width, _ = cv2.imread(str(tmp_path / 'out/confusion_matrix.png')).shape
    # 120 pixels per inch; the colour bar takes one.
    assert (width - 120, height) == ((540, 540) if count == 1 else (1698, 1698))


def test_an_unknown_colour_theme(tmp_path):
    annotations([], tmp_path)
    with pytest.raises(ValueError, match='--color-theme blue: matplotlib has no colormap'):
        run(tmp_path, [], '--color-theme', 'blue')
    run(tmp_path, [], '--color-theme', 'plasma')


def test_the_command_of_the_docs(tmp_path, monkeypatch):
    write_set(tmp_path)
    (tmp_path / 'truth.json').rename(tmp_path / 'annotations.json')
    monkeypatch.chdir(tmp_path)
    python, tool, *argv = shlex.split(find_command('confusion_matrix.py'))
    assert (python, (ROOT / tool).is_file()) == ('python', True)
    confusion_matrix.main(argv)
    names = {file.name for file in Path(argv[2]).iterdir()}
    assert names == {f'confusion_matrix.{suffix}' for suffix in ('csv', 'json', 'png')}


def find_command(tool):
    """The line of docs/judge/analysis.md that calls a tool."""
    lines = (ROOT / 'docs/judge/analysis.md').read_text().splitlines()
    (line,) = (each for each in lines if each.startswith(f'python tools/analysis_tools/{tool}'))
    return line
