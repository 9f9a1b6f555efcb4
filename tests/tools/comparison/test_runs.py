"""The plan of a comparison, its records, and the time that is left; no training runs."""

import argparse
import json

import compare
import pytest
from comparison import runs as runs_module

from ghmdet.config.shipped import config_path

CONFIG = config_path('retinanet_r18_fpn_small')
CONFIG_OF_TWO = """
_base_ = {base!r}
one = _base_.train_dataloader.dataset
train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[one, one]))
"""
SHORT = 'train_cfg.max_iters=20', 'train_cfg.val_interval=10'


def plan(tmp_path, variants=None, data=None, config=CONFIG, common=SHORT, out='out'):
    """Plan runs in `tmp_path`; `variants` and `data` are lists of words."""
    variants = [runs_module.Settings(name, rest) for name, *rest in variants or [['base']]]
    settings = []
    for word, *rest in data or [['data']]:
        name, _, root = word.partition('=')
        settings.append(runs_module.Settings(name, rest, root or None))
    return runs_module.plan_runs(config, common, variants, settings, [0], tmp_path / out)


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(variants=[['a/b']]), "'a/b' cannot be the name of a folder"),
        (dict(variants=[['..']]), "'..' cannot be the name of a folder"),
        (dict(variants=[['a'], ['a', 'optim_wrapper.optimizer.lr=1']]), "'a' stands twice"),
        (
            dict(variants=[['a'], ['b', 'optim_wrapper.optimizer.lr=1e-3']]),
            "'a' and 'b' have the same",
        ),
        (dict(variants=[['a', 'optim_wrapper.optimizer.rl']]), 'expected KEY=VALUE'),
        (dict(variants=[['a', 'model.bbox_haed.x=1']]), 'data, a: .*bbox_haed'),
        (dict(variants=[['a', 'train_cfg.val_begin=25']]), 'length 20 and val_begin=25'),
        (dict(data=[['cells=nowhere']]), 'there is no nowhere/annotations/train.json'),
    ],
)
def test_wrong_arguments(tmp_path, given, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        plan(tmp_path, **given)


@pytest.mark.follows('cannot be the name of a folder')
@pytest.mark.follows('stands twice')
def test_names_of_folders(tmp_path):
    other = 'optim_wrapper.optimizer.lr=5e-4'
    for names in (['focal/L1', 'b'], ['a', 'a']):
        with pytest.raises(ValueError, match='name'):
            plan(tmp_path, [[names[0]], [names[1], other]])
    runs = plan(tmp_path, [['focal L1'], ['1', other]])
    assert [run.folder.parent.name for run in runs] == ['focal L1', '1']


@pytest.mark.follows('the end of the training must be validated')
def test_last_validation(tmp_path):
    """The loops validate the end, whatever the interval, unless validation begins later."""
    short = ['train_cfg.max_iters=25', 'train_cfg.val_interval=10']
    with pytest.raises(ValueError, match='val_begin'):
        plan(tmp_path, common=[*short, 'train_cfg.val_begin=26'])
    (run,) = plan(tmp_path, common=[*short, 'train_cfg.val_begin=25'])
    assert run.cfg.train_cfg.val_begin == 25
    with pytest.raises(ValueError, match='and val_evaluator'):
        plan(tmp_path, common=[*SHORT, 'val_evaluator=None'])


def test_the_variable_for_the_data_root(tmp_path, monkeypatch):
    """It is in the plan, so that a run with another one is refused."""
    monkeypatch.setenv('GHMDET_DATA_ROOT', '/a')
    (run,) = plan(tmp_path)
    assert run.cfg.train_dataloader.dataset.data_root == '/a/'
    assert run.command[run.command.index('--data-root') + 1] == '/a'
    run.record(1)
    monkeypatch.setenv('GHMDET_DATA_ROOT', '/b')
    with pytest.raises(ValueError, match='data_root: ./a/. there, ./b/. now'):
        plan(tmp_path)


def test_facts_are_those_of_the_starts(tmp_path, monkeypatch):
    """Each start adds its commit, the end none; the command is there for older records too."""
    (run,) = plan(tmp_path)
    for commit, finished in (('a', False), ('b', False), ('c', True)):
        monkeypatch.setattr(runs_module, 'find_commit', lambda commit=commit: commit)
        run.record(1, finished)
    row, _ = run.rows()
    assert (row['commit'], row['threads']) == ('a + b', '1')
    file = run.folder / 'run.json'
    record = json.loads(file.read_text())
    record['facts'].pop('command')
    file.write_text(json.dumps(record))
    assert run.rows()[0]['command'] == row['command'] == run.shown_command


def test_training_without_a_log_is_a_failed_run(tmp_path):
    (run,) = plan(tmp_path)
    run.finish(1)
    assert run.state.startswith('failed: ')


def test_time_left_leaves_failed_runs_out(tmp_path, monkeypatch, capsys):
    """One of three failed at once; one of the other two took 60 s."""
    variants = [['a'], ['b', 'optim_wrapper.optimizer.lr=1'], ['c', 'optim_wrapper.optimizer.lr=2']]
    runs = plan(tmp_path, variants)
    monkeypatch.setattr(compare.time, 'monotonic', lambda: 0.0)
    report = compare.Report(argparse.Namespace(config=CONFIG, out=tmp_path / 'out'), runs)
    runs[0].state, runs[1].state = 'failed: at once', 'finished'
    monkeypatch.setattr(compare.time, 'monotonic', lambda: 60.0)
    monkeypatch.setattr(report, 'write', lambda: None)
    report.add(runs[0])
    assert 'the rest takes about 0:01:00' in capsys.readouterr().out


@pytest.mark.follows('joins several datasets')
def test_joined_datasets(tmp_path, cells):
    """Their own data are used without --data."""
    joined = CONFIG_OF_TWO.format(base=CONFIG)
    (tmp_path / 'two.py').write_text(joined)
    config = str(tmp_path / 'two.py')
    with pytest.raises(ValueError, match='train_dataloader of the config joins several'):
        plan(tmp_path, data=[[f'cells={tmp_path}/cells']], config=config)
    (run,) = plan(tmp_path, config=config)
    assert len(run.cfg.train_dataloader.dataset.datasets) == 2


@pytest.mark.follows('not CocoDataset, and cannot read')
def test_other_types_of_data(tmp_path, cells):
    """Without --data the data of the config are used, of any type."""
    common = [*SHORT, 'train_dataloader.dataset.type=VOCDataset']
    with pytest.raises(ValueError, match="'VOCDataset', not CocoDataset"):
        plan(tmp_path, data=[[f'cells={tmp_path}/cells']], common=common)
    (run,) = plan(tmp_path, common=common)
    assert run.cfg.train_dataloader.dataset.type == 'VOCDataset'
    assert '--data-root' not in run.command


def test_equal_options_make_equal_trainings(tmp_path, cells):
    """The config that is planned is the one that train.py's arguments make."""
    (run,) = plan(
        tmp_path, [['a', 'optim_wrapper.optimizer.lr=5e-4']], [[f'cells={tmp_path}/cells']]
    )
    assert run.cfg.optim_wrapper.optimizer.lr == 5e-4
    dataset = run.cfg.val_dataloader.dataset
    assert (dataset.data_root, dataset.ann_file) == (f'{tmp_path}/cells/', 'annotations/val.json')
    assert dataset.data_prefix.img == 'images/'
    place = run.command.index('--cfg-options')
    assert run.command[3:place] == [
        *('--work-dir', str(tmp_path / 'out/cells/a/seed_0'), '--seed', '0', '--resume'),
        *('--data-root', f'{tmp_path}/cells'),
    ]


def test_classes_of_the_config_are_those_of_other_data(tmp_path, cells):
    """A config with three cells learns what the data have: its own names and number go."""
    data = [[f'cells={tmp_path}/cells']]
    (run,) = plan(
        tmp_path,
        data=data,
        config=config_path('retinanet_ghm_r18_fpn_bccd'),
        common=['train_cfg.val_interval=4'],
    )
    assert run.cfg.train_dataloader.dataset.metainfo == {}
    assert run.cfg.model.bbox_head.num_classes == 80  # which stands for that of the file
    assert run.cfg.val_evaluator.classwise


def test_progress_is_read_from_the_log(tmp_path):
    (run,) = plan(tmp_path)
    assert run.progress() == 0
    file = run.folder / 'start/vis_data/scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(dict(iter=5, step=5, loss=1.0, time=1.0)) + '\n')
    assert run.progress() == 0.25  # 5 of 20
    epochs = dict(config=config_path('retinanet_ghm_r18_fpn_bccd'), common=())
    (run,) = plan(tmp_path, **epochs)
    file.write_text(json.dumps(dict(iter=80, epoch=4, step=80, loss=1.0, time=1.0)) + '\n')
    assert run.progress() == 3.5 / 12  # in the fourth of 12 epochs
