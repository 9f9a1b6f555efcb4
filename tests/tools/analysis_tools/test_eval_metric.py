"""tools/analysis_tools/eval_metric.py: the figures of the run that wrote the file."""

import json
import shlex
from pathlib import Path

import eval_metric
import pytest
import torch

from ghmdet.evaluation import CocoMetric, DumpDetResults
from tests.evaluation.test_coco_metric import random_set
from tests.tools.analysis_tools.test_confusion_matrix import find_command
from tests.tools.analysis_tools.test_results_arguments import CONFIG, write_set

FIGURES = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The figures of a run, and in the current folder what it read and wrote."""
    content, samples = random_set(4)
    for image in content['images']:
        image['file_name'] = f'{image["id"]}.jpg'
    (tmp_path / 'truth.json').write_text(json.dumps(content))
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'config.py').write_text(CONFIG.format(root=f'{tmp_path}/'))
    monkeypatch.chdir(tmp_path)
    metric = CocoMetric('truth.json', classwise=True, outfile_prefix='found.json')
    dump = DumpDetResults(out_file_path='found.pkl')
    figures = {}
    for each in (metric, dump):
        each.dataset_meta = dict(classes=('owl', 'dog', 'cat'))
        labels = torch.tensor([2, 1, 0])  # of cat, dog, owl
        renumbered = [
            sample
            | dict(pred_instances=sample['pred_instances'] | dict(
                labels=labels[sample['pred_instances']['labels']]
            ))
            for sample in samples
        ]  # fmt: skip
        each.process({}, renumbered)
        figures |= each.evaluate(len(samples))
    assert figures['coco/bbox_mAP'] > 0.1
    return figures


def call(*argv):
    eval_metric.main([*argv, '--out', 'figures.json'])
    return json.loads(Path('figures.json').read_text())


def test_figures_are_those_of_the_run(ran, capsys):
    expected = {key: value for key, value in ran.items() if 'precision' not in key}
    # No owl is there to find.
    by_class = {key: None if value != value else value for key, value in ran.items()}
    for argv in (['config.py', 'found.json'], ['config.py', 'found.pkl'],
                 ['found.json', 'truth.json'], ['found.pkl', 'truth.json']):  # fmt: skip
        assert call(*argv) == pytest.approx(expected, abs=1e-12)
        assert f'coco/bbox_mAP: {ran["coco/bbox_mAP"]:.4f}' in capsys.readouterr().out
        assert call(*argv, '--classwise') == pytest.approx(by_class, abs=1e-12)
    assert by_class['coco/owl_precision'] is None


def test_the_settings_of_the_evaluator_are_used(ran):
    figures = call('config.py', 'found.json', '--cfg-options', 'test_evaluator.iou_thrs=[0.5]')
    assert figures['coco/bbox_mAP'] == pytest.approx(ran['coco/bbox_mAP_50'], abs=1e-12)
    written = ['test_evaluator.outfile_prefix=found', 'test_evaluator.format_only=True']
    written.append('test_evaluator._scope_=ghmdet')  # which mmengine sets below `_base_ = ghmdet::`
    assert call('config.py', 'found.json', '--cfg-options', *written) == pytest.approx(
        {key: value for key, value in ran.items() if 'precision' not in key}, abs=1e-12
    )
    assert not Path('found.bbox.json').exists()


def test_images_that_the_config_leaves_out_do_not_count(ran):
    part = call('config.py', 'found.pkl', '--cfg-options', 'test_dataloader.dataset.indices=9')
    assert part != pytest.approx(ran, abs=1e-3)
    content = json.loads(Path('truth.json').read_text())
    ids = {image['id'] for image in content['images'][:9]}
    content['images'] = content['images'][:9]
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in ids]
    Path('truth.json').write_text(json.dumps(content))
    entries = json.loads(Path('found.json').read_text())
    Path('found.json').write_text(json.dumps([e for e in entries if e['image_id'] in ids]))
    assert call('found.json', 'truth.json') == pytest.approx(part, abs=1e-12)


def test_nothing_detected_is_0_and_nothing_to_find_is_none(ran):
    Path('found.json').write_text('[]')
    assert call('found.json', 'truth.json') == {f'coco/bbox_{name}': 0 for name in FIGURES}
    content = json.loads(Path('truth.json').read_text())
    Path('truth.json').write_text(json.dumps(content | dict(annotations=[])))
    assert call('found.json', 'truth.json') == {f'coco/bbox_{name}': None for name in FIGURES}


def test_the_command_of_the_docs(tmp_path, monkeypatch, capsys):
    write_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = find_command('eval_metric.py').replace('CONFIG', 'config.py')
    eval_metric.main(shlex.split(command)[2:])
    out = capsys.readouterr().out
    assert 'coco/bbox_mAP: 1.0000' in out
    assert 'coco/dog_precision: 1.0000' in out
