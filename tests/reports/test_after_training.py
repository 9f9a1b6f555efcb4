"""The report of a training: what is kept, and that its failure is a warning."""

import logging
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from ghmdet.reports import after_training
from tests.fork_server import ROOT, shared_server
from tests.reports.run_folder import write_run


def run_of(work_dir, rank=0):
    return SimpleNamespace(work_dir=str(work_dir), rank=rank, logger=logging.getLogger('mmengine'))


def test_detections_are_kept_beside_those_of_the_user(tmp_path):
    metrics = [dict(type='CocoMetric'), dict(type='VOCMetric')]
    cfg = Config(dict(work_dir='/w', val_evaluator=metrics, test_evaluator=metrics[:1]))
    after_training.keep_detections(cfg)
    assert cfg.val_evaluator[0].outfile_prefix == '/w/val'
    assert 'outfile_prefix' not in cfg.val_evaluator[1]
    cfg = Config(dict(work_dir='/w', val_evaluator=dict(metrics[0], outfile_prefix='mine')))
    after_training.keep_detections(cfg)
    assert cfg.val_evaluator.outfile_prefix == 'mine'


def test_the_report_is_written_by_the_first_process(tmp_path, caplog):
    run = write_run(tmp_path, [(0, 'cat', 20, 20, 40, 40)], [(0, 'dog', 20, 20, 40, 40, 0.9)])
    after_training.report_run(run_of(run, rank=1))
    assert not (run / 'report.html').exists()
    with caplog.at_level(logging.INFO):
        after_training.report_run(run_of(run))
    assert (run / 'report.html').stat().st_size > 20_000
    assert f'report written to {run / "report.html"}' in caplog.text
    assert {record.levelname for record in caplog.records} == {'INFO'}


@pytest.mark.parametrize('python', [None, '/no/python'])
def test_a_report_that_fails_is_a_warning(tmp_path, caplog, monkeypatch, python):
    if python:
        monkeypatch.setattr(after_training.sys, 'executable', python)
    after_training.report_run(run_of(tmp_path / 'missing'))
    (record,) = caplog.records
    assert (record.levelname, record.message[:10]) == ('WARNING', 'no report:')
    assert ('/no/python' if python else 'no folder') in record.message


@pytest.mark.long
def test_a_training_with_a_report(tmp_path):
    shapes = [ROOT / 'tools/dataset_converters/shapes.py', '--out', 'data/shapes']
    assert shared_server()(*[str(shapes[0]), shapes[1:]], tmp_path)['code'] == 0
    options = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
    options += ['train_dataloader.dataset.indices=8', 'val_dataloader.dataset.indices=8']
    args = ['retinanet_ghm_r18_fpn_shapes', '--report', '--work-dir', 'w', '--cfg-options']
    done = shared_server()('ghmdet.train', [*args, *options], tmp_path)
    assert done['code'] == 0, done['stderr']
    text = (tmp_path / 'w' / 'report.html').read_text('utf-8')
    for name in ('summary', 'curves', 'classes', 'confusion', 'errors', 'images', 'sizes', 'ghm'):
        assert f'<section id="{name}"' in text
    assert 'the last validation (val.bbox.json)' in text
