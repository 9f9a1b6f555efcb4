"""tools/analysis_tools/error_analysis.py: tables, JSON and pictures."""

import json
import re
import shlex
from pathlib import Path

import cv2
import error_analysis
import numpy as np
import pytest

from tests.data.golden.tide_sets import as_detections, drawn_sets
from tests.golden import FOLDER

GOLDEN = json.loads((FOLDER / 'tide.json').read_text())
DRAWN = drawn_sets()
DOCS = Path(__file__).parents[3] / 'docs/judge/analysis.md'


def analyse(folder, truth, results, *options):
    for name, content in (('truth', truth), ('results', results)):
        (folder / f'{name}.json').write_text(json.dumps(content))
    files = [str(folder / f'{name}.json') for name in ('results', 'truth')]
    error_analysis.main([*files, str(folder / 'out'), *map(str, options)])
    return json.loads((folder / 'out' / 'error_analysis.json').read_text())


def write_images(folder, truth):
    for image in truth['images']:
        file = folder / image['file_name']
        file.parent.mkdir(parents=True, exist_ok=True)
        size = image['height'], image['width'], 3
        assert cv2.imwrite(str(file), np.full(size, 255, np.uint8))


@pytest.mark.parametrize('name', ['mixed', '80 classes'])
def test_report_has_the_figures_of_tidecv(name, tmp_path, capsys):
    truth, results = DRAWN[name]
    report, golden = analyse(tmp_path, truth, results), GOLDEN[name]
    assert report['AP50'] == pytest.approx(golden['AP50'], abs=1e-6)
    assert report['dAP'] == pytest.approx(golden['dAP'], abs=1e-6)
    assert report['counts'] == golden['counts']
    for kind, count in golden['counts'].items():
        assert sum(row[kind] for row in report['classes'].values()) == count
    assert (report['images'], report['objects']) == (
        len(truth['images']),
        len(truth['annotations']),
    )
    out = capsys.readouterr().out
    assert f'AP at IoU 0.5: {golden["AP50"]:.2f} ' in out
    for kind, count in golden['counts'].items():
        assert f'{kind:8}{count:>9}{golden["dAP"][kind]:>8.2f}' in out
    assert 'do not add up' in out
    assert cv2.imread(str(tmp_path / 'out' / 'error_analysis.png')).shape == (480, 1080, 3)


def test_ground_truth_has_no_errors(tmp_path, capsys):
    truth, results = DRAWN['perfect']
    report = analyse(tmp_path, truth, results, '--pictures', 3, '--img-dir', tmp_path)
    assert report['AP50'] == 100
    assert set(report['dAP'].values()) == {0}
    assert set(report['counts'].values()) == {0}
    assert not list(tmp_path.glob('out/*/*.jpg'))


@pytest.mark.parametrize('results', [[], None], ids=['nothing detected', 'ground truth'])
def test_without_objects(results, tmp_path, capsys):
    truth = DRAWN['one class'][0]
    results = as_detections(truth) if results is None else results
    report = analyse(tmp_path, {**truth, 'annotations': []}, results)
    assert report['AP50'] is None
    assert set(report['dAP'].values()) == {None}
    assert report['counts']['Bkg'] == len(results)
    assert 'AP at IoU 0.5: n/a' in capsys.readouterr().out


def test_pictures_show_the_errors_of_each_kind(tmp_path, capsys):
    """Of one image with a missed object, and a false detection of a high score."""
    truth = {
        'images': [{'id': 1, 'file_name': 'a/x.png', 'width': 640, 'height': 480}],
        'categories': [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}],
        'annotations': [
            {'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [20, 60, 100, 100], 'iscrowd': 0},
            {'id': 2, 'image_id': 1, 'category_id': 2, 'bbox': [300, 200, 100, 90], 'iscrowd': 0},
        ],
    }
    results = [
        {'image_id': 1, 'category_id': 1, 'bbox': [20, 60, 100, 100], 'score': 0.9},
        {'image_id': 1, 'category_id': 2, 'bbox': [20, 60, 100, 100], 'score': 0.8},
        {'image_id': 1, 'category_id': 2, 'bbox': [500, 300, 50, 40], 'score': 0.7},
    ]
    write_images(tmp_path, truth)
    analyse(tmp_path, truth, results, '--pictures', 2, '--img-dir', tmp_path)
    drawn = sorted(str(file.relative_to(tmp_path / 'out')) for file in tmp_path.glob('out/*/*'))
    assert drawn == ['Bkg/001_x.jpg', 'Cls/001_x.jpg', 'Miss/001_x.jpg']
    assert '3 pictures' in capsys.readouterr().out
    corners = {  # of ground truth (left) and detections (right): colour of the box, BGR
        'Bkg': {(20, 160): 'green', (300, 290): 'green', (660, 160): 'green', (1140, 340): 'red'},
        'Cls': {(20, 160): 'orange', (300, 290): 'green', (660, 160): 'red'},
        'Miss': {(20, 160): 'green', (300, 290): 'red', (660, 160): 'green', (940, 290): 'white'},
    }
    for kind, points in corners.items():
        picture = cv2.imread(str(tmp_path / 'out' / kind / '001_x.jpg')).astype(int)
        assert picture.shape == (480, 1280, 3)
        for (x, y), name in points.items():
            b, g, r = picture[y, x]
            is_color = {
                'green': g > r + 60,
                'red': r > g + 60,
                'orange': r > b + 60 and g > b + 60,
                'white': min(b, g, r) > 230,
            }
            assert is_color[name], (kind, x, y, picture[y, x])


@pytest.mark.follows(' images could not be read and have none')
def test_pictures_need_the_folder_of_the_images(tmp_path, capsys):
    truth, results = DRAWN['few found']
    report = analyse(tmp_path, truth, results, '--pictures', 1)
    assert report['counts'] == GOLDEN['few found']['counts']
    text = capsys.readouterr().out
    assert '0 pictures; 5 images could not be read and have none, the first: image' in text
    assert 'Name the folder of the images with --img-dir' in text
    write_images(tmp_path / 'images', truth)
    analyse(tmp_path, truth, results, '--pictures', 1, '--img-dir', tmp_path / 'images')
    # Of the six kinds all but Dupe occur.
    assert len(list(tmp_path.glob('out/*/001_*.jpg'))) == 5
    assert '5 pictures' in capsys.readouterr().out


@pytest.mark.follows('--pictures must be 0 or more')
def test_the_number_of_pictures_is_not_negative(tmp_path, capsys):
    with pytest.raises(SystemExit):
        analyse(tmp_path, *DRAWN['few found'], '--pictures', -1)
    assert '--pictures must be 0 or more, got -1' in capsys.readouterr().err
    analyse(tmp_path, *DRAWN['few found'], '--pictures', 0)
    assert ' pictures' not in capsys.readouterr().out


def test_boxes_marked_ignore(tmp_path, capsys):
    """tidecv does not read the mark."""
    truth, results = DRAWN['mixed']
    marked = [
        {**each, 'ignore': 1} if each['id'] % 3 == 0 else each for each in truth['annotations']
    ]
    truth = {**truth, 'annotations': marked}
    report = analyse(tmp_path, truth, results)
    assert report['objects'] == len(marked)
    assert report['dAP'] == pytest.approx(GOLDEN['mixed']['dAP'], abs=1e-6)
    text = 'not objects: 0 crowd regions; boxes marked ignore are, as in tidecv, but not with '
    assert f'{text}--box-rule matchable\n' in capsys.readouterr().out
    report = analyse(tmp_path, truth, results, '--box-rule', 'matchable')
    count = len(marked) // 3
    assert (report['objects'], report['ignored_boxes']) == (len(marked) - count, count)
    text = f'not objects: 0 crowd regions, {count} boxes marked ignore\n'
    assert text in capsys.readouterr().out


def test_the_command_in_the_docs(tmp_path, monkeypatch):
    (command,) = re.findall(r'python \S+/error_analysis.py .*', DOCS.read_text())
    truth, results = DRAWN['mixed']
    write_images(tmp_path, truth)
    for name, content in (('annotations', truth), ('found', results)):
        (tmp_path / f'{name}.json').write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    error_analysis.main(shlex.split(command)[2:])
    report = json.loads((tmp_path / 'errors' / 'error_analysis.json').read_text())
    assert report['counts'] == GOLDEN['mixed']['counts']
    for kind, count in report['counts'].items():
        assert len(list(tmp_path.glob(f'errors/{kind}/*.jpg'))) == min(count, 5)
