"""Keys of a config that nothing reads."""

import argparse
import inspect
import logging
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from ghmdet import CONFIG_ROOT, config_path, get_config
from ghmdet.config import arguments
from ghmdet.config.cfg_options import parse_value
from ghmdet.config.errors import ConfigError
from ghmdet.config.unused_keys import (
    TOP_LEVEL_KEYS,
    find_unused_keys,
    find_unused_options,
    find_unused_parts,
)

SHAPES = 'retinanet_ghm_r18_fpn_shapes'
BASE = f'_base_ = {config_path(SHAPES)!r}\n'
SPLITS = ('train', 'val', 'test')
SHIPPED = sorted(file for file in CONFIG_ROOT.rglob('*.py') if '_base_' not in file.parts)


@pytest.fixture(scope='module')
def shapes():
    return get_config(SHAPES)


def unused(text, folder, base=BASE):
    file = folder / 'mine.py'
    file.write_text(base + text)
    cfg = Config.fromfile(file)
    return [*find_unused_keys(cfg), *find_unused_parts(cfg)]


def test_all_that_the_runner_reads_is_known():
    parameters = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    assert parameters - TOP_LEVEL_KEYS == set()


@pytest.mark.parametrize('file', SHIPPED, ids=lambda file: str(file.relative_to(CONFIG_ROOT)))
def test_the_shipped_configs_and_their_dumps_are_read_wholly(file, tmp_path):
    cfg = get_config(file)
    cfg.launcher = 'none'
    cfg.dump(tmp_path / 'dump.py')
    for each in (cfg, get_config(tmp_path / 'dump.py')):
        assert [*find_unused_keys(each), *find_unused_parts(each)] == []


@pytest.mark.parametrize(
    ('text', 'setting', 'told'),
    [
        ("modle = dict(type='A')", "modle={'type': 'A'}", '; did you mean model?'),
        ('num_classes = 3', 'num_classes=3', ''),
        ('resme = True', 'resme=True', '; did you mean resume?'),
        (
            'optim_wrapper = dict(paramwise_cfg=dict(bias_lr_mul=2))',
            'optim_wrapper.paramwise_cfg.bias_lr_mul=2',
            '; did you mean optim_wrapper.paramwise_cfg.bias_lr_mult?',
        ),
        (
            'model = dict(test_cfg=dict(score_thrr=0.1))',
            'model.test_cfg.score_thrr=0.1',
            '; did you mean model.test_cfg.score_thr?',
        ),
        (
            'model = dict(train_cfg=dict(asigner=None))',
            'model.train_cfg.asigner=None',
            '; did you mean model.train_cfg.assigner?',
        ),
        (
            'auto_scale_lr = dict(quux=7)',
            'auto_scale_lr.quux=7',
            '; the keys of auto_scale_lr are enable, base_batch_size',
        ),
        (
            'env_cfg = dict(cudnn_benchmrk=True)',
            'env_cfg.cudnn_benchmrk=True',
            '; did you mean env_cfg.cudnn_benchmark?',
        ),
    ],
)
def test_what_is_not_used(text, setting, told, tmp_path):
    assert unused(text, tmp_path) == [f'{setting} is not used{told}']


@pytest.mark.parametrize(
    'text',
    [
        '_mine = 3',
        'lr = 0.1\noptim_wrapper = dict(optimizer=dict(lr=lr))',
        'scales = [1, 2]\nx = [s for s in scales]\n_y = x',
        "data_root = '/mine/'\ntrain_dataloader = dict(dataset=dict(data_root=data_root))",
        "data_root = 'data/shapes/'",
        "model = dict(type='MyNet', test_cfg=dict(own=3))",
        'cudnn_benchmark = False',
    ],
)
def test_what_is_fine(text, tmp_path):
    assert unused(text, tmp_path) == []


def test_a_variable_that_only_the_base_has_read(tmp_path):
    (told,) = unused("data_root = '/mine/'", tmp_path)
    assert told == (
        "data_root='/mine/' has no effect: the base files are read first and have used their own "
        'value of data_root. Set the keys that it was used for (print_config.py shows them), or '
        '--data-root DIR'
    )


def test_a_grandchild_may_read_it(tmp_path):
    (tmp_path / 'child.py').write_text(BASE + 'width = 32\n')
    text = 'model = dict(neck=dict(out_channels=_base_.width))'
    assert unused(text, tmp_path, base=f'_base_ = {str(tmp_path / "child.py")!r}\n') == []


@pytest.mark.parametrize(
    ('option', 'told'),
    [
        ('modle.x=1', ' is not used; did you mean model?'),
        (
            'model.bbox_hed.num_classes=3',
            ': the config has no model.bbox_hed; did you mean model.bbox_head?',
        ),
        (
            'train_dataloader.batchsize=4',
            ': the config has no train_dataloader.batchsize; did you mean '
            'train_dataloader.batch_size?',
        ),
        (
            'optim_wrapper.optimizer.lrr=0.1',
            ': the config has no optim_wrapper.optimizer.lrr; did you mean '
            'optim_wrapper.optimizer.lr?',
        ),
        (
            'param_scheduler.1.T_mx=3',
            ': the config has no param_scheduler.1.T_mx; did you mean param_scheduler.1.T_max?',
        ),
        # An argument of the class, or nothing near.
        ('model.backbone.with_cp=True', None),
        ('train_dataloader.dataset.indices=4', None),
        ('train_dataloader.pin_memory=True', None),
        ('optim_wrapper.accumulative_counts=4', None),
        ('model.init_cfg.type=Pretrained', None),
        ('default_hooks.checkpoint.priority=10', None),
        ('custom_hooks=[]', None),
        ('_mine=3', None),
        ('model.neck.in_channels.0=3', None),
    ],
)
def test_options(option, told, shapes):
    key, _, value = option.partition('=')
    found = list(find_unused_options(shapes, {key: parse_value(value)}))
    assert found == ([] if told is None else [option + told])


@pytest.mark.parametrize(
    ('option', 'keys'),
    [
        ('classes', [f'{split}_dataloader.dataset.metainfo.classes' for split in SPLITS]),
        ('train_pipeline.2.scale', ['train_dataloader.dataset.pipeline']),
    ],
)
def test_options_that_set_a_variable(option, keys, shapes):
    assert list(find_unused_options(shapes, {option: 'a'})) == [
        f'{option.split(".")[0]} is a variable of the config files, which are read before '
        f'--cfg-options: setting it has no effect. Set what it was used for: {", ".join(keys)}'
    ]


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')

    def load(text, *words):
        (tmp_path / 'mine.py').write_text(BASE + text)
        parser = argparse.ArgumentParser()
        parser.add_argument('config')
        arguments.add_common_arguments(parser)
        return arguments.load_config(parser.parse_args([str(tmp_path / 'mine.py'), *words]))

    return load


def test_strict_stops_and_names_all(tmp_path, load):
    words = ['--strict', '--cfg-options', 'model.test_cfg.score_thrr=1', 'foo=2']
    with pytest.raises(ConfigError) as caught:
        load('bar = 3', *words)
    assert str(caught.value).splitlines() == [
        f'{tmp_path / "mine.py"}, with --strict:',
        '  bar=3 is not used',
        '  foo=2 is not used',
        '  model.test_cfg.score_thrr=1 is not used; did you mean model.test_cfg.score_thr?',
    ]
    assert load('', '--strict').model.type == 'RetinaNet'


def test_without_strict_it_warns(load, monkeypatch):
    said = []
    monkeypatch.setattr(arguments, 'print_log', lambda text, **kwargs: said.append((text, kwargs)))
    assert load('bar = 3').bar == 3
    told = 'config: bar=3 is not used (--strict makes this an error)'
    assert said == [(told, dict(logger='current', level=logging.WARNING))]


def test_none_is_no_hook(load):
    keys = ['default_hooks.visualization=None', 'default_hooks.timer=None']
    hooks = load('', '--cfg-options', *keys).default_hooks
    assert 'visualization' not in hooks
    assert hooks['timer'] is None  # mmengine's own default, which only None removes


def test_a_json_config_has_no_variables(tmp_path):
    file = Path(tmp_path / 'mine.json')
    file.write_text('{"model": {"type": "A"}, "foo": {"x": 1}}')
    assert list(find_unused_keys(Config.fromfile(file))) == ["foo={'x': 1} is not used"]
