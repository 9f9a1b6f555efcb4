"""What the log says when a training begins or resumes, and which package it uses."""

import sys
from pathlib import Path

import pytest

import ghmdet
from ghmdet.checks import start_report
from tests.number_runs import number_cfg, train

PACKAGE = Path(ghmdet.__file__).resolve().parent
SCHEDULES = [
    dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=3),
    dict(type='MultiStepLR', milestones=[8, 11], by_epoch=True, begin=0, end=12),
]


def begin(cfg):
    """Train; return the runner, the title of the report, and its lines."""
    cfg.log_level = 'INFO'
    runner = train(cfg)
    (text,) = [line for line in runner.lines if line.startswith('Training begins')]
    title, *lines = text.splitlines()
    report = dict(line.strip().split('  ', 1) for line in lines)
    return runner, title, {key: value.strip() for key, value in report.items()}


def test_the_report(tmp_path):
    settings = dict(
        param_scheduler=SCHEDULES,
        randomness=dict(seed=12),
        auto_scale_lr=dict(enable=True, base_batch_size=16),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1, momentum=0.5, weight_decay=0.01),
            accumulative_counts=4,
            clip_grad=dict(max_norm=35),
        ),
    )
    cfg = number_cfg(tmp_path, [1] * 4, batch_size=2, epochs=3, **settings)
    _, title, report = begin(cfg)
    assert title == 'Training begins:'
    assert report.pop('device').startswith('cpu, num_threads=')
    assert report.pop('logs').startswith(str(tmp_path))
    assert report == {
        'total batch size': '8 = 1 x 2 x 4 (processes x batch_size x accumulative_counts)',
        'learning rate': '0.05, SGD momentum=0.5, weight_decay=0.01',
        'linear rule': '0.05, from 0.1 for 16 images; applied by auto_scale_lr',
        'gradient clipping': 'max_norm=35',
        'precision': 'float32',
        'parameters': '1 to train, of 1',
        'seed': '12',
        'images': '4 to train',
        'length': '3 epochs x 2 iterations',
        'schedule': 'LinearLR, MultiStepLR',
        'checkpoints': f'{tmp_path}, interval=1, by_epoch=True',
    }


def test_by_iterations_and_in_low_precision(tmp_path):
    cfg = number_cfg(tmp_path, [1] * 6, batch_size=2)
    cfg.train_cfg = dict(by_epoch=False, max_iters=5)
    cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
    _, _, report = begin(cfg)
    assert (
        report.items()
        >= {
            'length': '5 iterations; an epoch is 3',
            'precision': 'bfloat16, weights float32',
            'checkpoints': f'{tmp_path}, interval=2, by_epoch=False',
            'linear rule': 'unknown, the config has no auto_scale_lr.base_batch_size',
            'gradient clipping': 'off',
            'schedule': 'none: the learning rate is constant',
        }.items()
    )


def test_the_anchors_are_compared_with_the_training_set(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(start_report, 'warn_of_unmatched_boxes', lambda *args: calls.append(args))
    for hook in ({}, dict(max_unmatched_share=0.5, max_anchor_images=9, max_anchor_boxes=8)):
        cfg = number_cfg(tmp_path / str(len(hook)), [1])
        cfg.custom_hooks = [dict(type='StartReportHook', **hook)]
        runner = train(cfg)
        assert calls[-1][:2] == (runner.model, runner.train_dataloader.dataset)
    assert [args[2:] for args in calls] == [(0.1, 1000, 5000), (0.5, 9, 8)]


def resume(tmp_path, schedules=SCHEDULES, **changes):
    """Resume a run of one epoch with another config: title, report, and lines on the resumption."""
    settings = dict(
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0, weight_decay=0.0)),
        param_scheduler=SCHEDULES,
    )
    train(number_cfg(tmp_path, [1, 1], epochs=1, **settings))
    cfg = number_cfg(tmp_path, [1, 1], epochs=2, resume=True, **settings)
    cfg.merge_from_dict(changes)
    cfg.param_scheduler = schedules
    runner, title, report = begin(cfg)
    return title, report, [line for line in runner.lines if 'resum' in line and '\n' not in line]


def test_a_run_that_resumes_with_the_same_settings(tmp_path):
    title, report, lines = resume(tmp_path)
    assert title == 'Training begins, resumed after iteration 2:'
    assert report['learning rate'] == '1, SGD momentum=0, weight_decay=0.0'
    assert f'resuming from {tmp_path}/epoch_1.pth after epoch 1, iteration 2' in lines
    assert not any('replaces' in line for line in lines)


def test_settings_that_the_checkpoint_replaces(tmp_path):
    steps = dict(SCHEDULES[1], milestones=[16, 22], gamma=0.5)
    more = dict(type='ConstantLR', factor=0.5, begin=0, end=2, by_epoch=True)
    changes = {'optim_wrapper.optimizer.lr': 0.25, 'optim_wrapper.optimizer.weight_decay': 0.125}
    _, report, lines = resume(tmp_path, [SCHEDULES[0], steps, more], **changes)
    assert report['learning rate'].startswith(f'1 from {tmp_path}/epoch_1.pth, SGD ')
    assert [line for line in lines if 'replaces' in line] == [
        f'{tmp_path}/epoch_1.pth replaces settings of the config: lr of the optimizer is 1, not '
        '0.25; weight_decay of the optimizer is 0.0, not 0.125; the config has 3 entries in '
        'param_scheduler, the checkpoint 2: the first ones resume in their order, further ones of '
        'the config start at 0, of the checkpoint are dropped; param_scheduler.1.gamma '
        '(MultiStepLR) is 0.1, not 0.5; param_scheduler.1.milestones (MultiStepLR) is [8, 11], not '
        '[16, 22]. To use those of the config, start a new training from its weights: load_from '
        'without resume.'
    ]


def test_a_checkpoint_without_the_optimizer(tmp_path):
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, save_optimizer=False))
    train(number_cfg(tmp_path, [1, 1], epochs=1, default_hooks=hooks))
    lines = train(number_cfg(tmp_path, [1, 1], epochs=2, resume=True)).lines
    assert (
        f'{tmp_path}/epoch_1.pth has no state of the optimizer (default_hooks.checkpoint.'
        'save_optimizer): the optimizer starts without one, with the settings of the config'
    ) in lines


@pytest.mark.parametrize(
    ('accumulated', 'auto', 'expected'),
    [
        (1, dict(base_batch_size=1), ''),  # within a factor of 2
        (1, dict(base_batch_size=4), ''),
        (1, dict(base_batch_size=16, enable=True), ''),
        (
            1,
            dict(base_batch_size=16),
            'the learning rate 1 is 8 times what the linear rule gives for a total batch size of '
            '2: 0.125, from 1 for 16 images. The loss may become NaN: use --auto-scale-lr, or '
            'optim_wrapper.optimizer.lr=0.125. If 1 was chosen for 2 images, set '
            'auto_scale_lr.base_batch_size=2.',
        ),
        (
            3,
            dict(base_batch_size=2),
            'the learning rate 1 is 1/3 of what the linear rule gives for a total batch size of 6: '
            '3, from 1 for 2 images. Training will be slow: use --auto-scale-lr, or ',
        ),
    ],
)
def test_a_learning_rate_that_is_too_large_or_too_small(tmp_path, accumulated, auto, expected):
    cfg = number_cfg(tmp_path, [1, 1], batch_size=2, auto_scale_lr=auto)
    cfg.optim_wrapper.accumulative_counts = accumulated
    warnings = [line for line in begin(cfg)[0].lines if 'linear rule gives' in line]
    assert len(warnings) == bool(expected)
    assert ''.join(warnings).startswith(expected)


@pytest.fixture
def log_path(monkeypatch):
    def log_path(script):
        lines = []
        monkeypatch.setattr(sys, 'argv', [str(script)])
        monkeypatch.setattr(
            start_report, 'print_log', lambda text, logger, level=20: lines.append((level, text))
        )
        start_report.log_package_path()
        assert lines.pop(0) == (20, f'ghmdet {ghmdet.__version__} from {PACKAGE}')
        return lines

    return log_path


def test_version_and_folder_of_the_package(log_path, tmp_path):
    inside = (PACKAGE.parent / 'tools', PACKAGE / '.mim' / 'tools', PACKAGE, tmp_path)
    for script in (*(folder / 'train.py' for folder in inside), '-c', ''):
        assert log_path(script) == [], script


def test_a_tool_of_another_source_tree(log_path, tmp_path):
    (tmp_path / 'ghmdet').mkdir()
    (tmp_path / 'ghmdet' / '__init__.py').touch()
    tool = tmp_path / 'tools' / 'analysis_tools' / 'benchmark.py'
    ((level, text),) = log_path(tool)
    assert level == 30
    assert text.startswith(
        f'{tool} is in the source tree of {tmp_path}/ghmdet, but the imported package is {PACKAGE}'
    )
    assert f'pip install -e {tmp_path}' in text
