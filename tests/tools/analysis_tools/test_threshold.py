"""tools/analysis_tools/threshold.py: the table, the JSON and the curves."""

import json
import shlex
from pathlib import Path

import pytest
import threshold

from tests.evaluation.test_matching import annotations
from tests.tools.analysis_tools.test_confusion_matrix import find_command
from tests.tools.analysis_tools.test_results_arguments import write_set


def test_table_and_json(tmp_path, monkeypatch, capsys):
    write_set(tmp_path, [(1, 'cat', 0, 0, 10, 10), (2, 'owl', 0, 0, 10, 7), (2, 'dog', 0, 0, 9, 9)])
    monkeypatch.chdir(tmp_path)
    threshold.main(['found.json', 'truth.json', '--out', 'new/best.json'])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:5] == [
        ['owl', 'n/a', 'n/a', 'n/a', 'n/a', '1', '0'],
        ['dog', '0.800', '1.000', '1.000', '1.000', '1', '1'],
        ['cat', '0.900', '1.000', '1.000', '1.000', '1', '1'],
        ['(all)', '0.800', '1.000', '0.667', '0.800', '3', '2'],
    ]
    best = json.loads(Path('new/best.json').read_text())
    thresholds = {name: row['threshold'] for name, row in best['classes'].items()}
    assert thresholds == dict(owl=None, dog=0.8, cat=0.9)
    assert (best['iou_thr'], best['all']['threshold'], best['all']['recall']) == (0.5, 0.8, 2 / 3)
    # The dog's IoU is 0.81.
    threshold.main(['config.py', 'found.json', '--out', 'best.json', '--iou-thr', '0.82'])
    best = json.loads(Path('best.json').read_text())
    assert best['classes']['dog']['threshold'] is None
    assert best['iou_thr'] == 0.82


@pytest.mark.parametrize('with_objects', [False, True])
def test_nothing_detected_and_nothing_to_find(with_objects, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path)
    if with_objects:
        Path('found.json').write_text('[]')
    else:
        annotations([], tmp_path, (1, 2))
    threshold.main(['found.json', 'truth.json', '--curves', 'curves', '--out', 'best.json'])
    content = json.loads(Path('best.json').read_text())
    rows = [*content['classes'].values(), content['all']]
    assert [row['threshold'] for row in rows] == [None] * 4
    assert sum(row['objects'] for row in rows) == 4 * with_objects
    assert [file.name for file in Path('curves').iterdir()] == ['curves.csv']


@pytest.mark.follows('is a JSON file, its name must end in .json')
def test_an_output_of_another_kind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path)
    with pytest.raises(SystemExit):
        threshold.main(['found.json', 'truth.json', '--out', 'best.txt'])
    assert 'its name must end in .json, got best.txt' in capsys.readouterr().err
    threshold.main(['found.json', 'truth.json', '--out', 'best.json'])
    assert Path('best.json').exists()


def test_the_command_of_the_docs(tmp_path, monkeypatch):
    write_set(tmp_path)
    (tmp_path / 'truth.json').rename(tmp_path / 'annotations.json')
    monkeypatch.chdir(tmp_path)
    threshold.main(shlex.split(find_command('threshold.py'))[2:])
    assert json.loads(Path('thresholds.json').read_text())['classes']['cat']['threshold'] == 0.9
    assert {file.name for file in Path('curves').iterdir()} == {'curves.csv', 'curves.png'}
