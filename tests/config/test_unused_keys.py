"""Keys of a config that are not used."""

import argparse
import inspect
import logging

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from ghmdet import CONFIG_ROOT, config_path, get_config
from ghmdet.config import arguments, parts
from ghmdet.config.errors import ConfigError
from ghmdet.config.unused_keys import (
    TOP_LEVEL_KEYS,
    find_unused_keys,
    find_unused_options,
    find_unused_parts,
)

SHAPES = 'retinanet_ghm_r18_fpn_shapes'
BASE = f'_base_ = {config_path(SHAPES)!r}\n'
SHIPPED = sorted(file for file in CONFIG_ROOT.rglob('*.py') if '_base_' not in file.parts)


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


MISTAKES = """
modle = dict(type='A')
num_classes = 3
resme = True
optim_wrapper = dict(paramwise_cfg=dict(bias_lr_mul=2))
model = dict(test_cfg=dict(score_thrr=0.1), train_cfg=dict(asigner=None))
auto_scale_lr = dict(quux=7)
env_cfg = dict(cudnn_benchmrk=True)
"""


def test_what_is_not_used(tmp_path):
    assert sorted(unused(MISTAKES, tmp_path)) == [
        'auto_scale_lr.quux=7 is not used; the keys of auto_scale_lr are enable, base_batch_size',
        'env_cfg.cudnn_benchmrk=True is not used; did you mean env_cfg.cudnn_benchmark?',
        'model.test_cfg.score_thrr=0.1 is not used; did you mean model.test_cfg.score_thr?',
        'model.train_cfg.asigner=None is not used; did you mean model.train_cfg.assigner?',
        "modle={'type': 'A'} is not used; did you mean model?",
        'num_classes=3 is not used',
        'optim_wrapper.paramwise_cfg.bias_lr_mul=2 is not used; did you mean '
        'optim_wrapper.paramwise_cfg.bias_lr_mult?',
        'resme=True is not used; did you mean resume?',
    ]


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
    assert unused("data_root = '/mine/'", tmp_path) == [
        "data_root='/mine/' has no effect: the base files are read first and have used their own "
        'value of data_root. Set the keys that it was used for (print_config.py shows them), or '
        '--data-root DIR'
    ]
    # A grandchild may read it.
    (tmp_path / 'child.py').write_text(BASE + 'width = 32\n')
    text = 'model = dict(neck=dict(out_channels=_base_.width))'
    assert unused(text, tmp_path, base=f'_base_ = {str(tmp_path / "child.py")!r}\n') == []


def unused_options(options):
    return list(find_unused_options(get_config(SHAPES), options))


def test_options_that_have_no_effect():
    assert unused_options({'modle.x': 1}) == ['modle.x=1 is not used; did you mean model?']
    for key, unknown, near in [
        ('model.bbox_hed.num_classes', 'model.bbox_hed', 'model.bbox_head'),
        ('train_dataloader.batchsize', 'train_dataloader.batchsize', 'train_dataloader.batch_size'),
        (
            'optim_wrapper.optimizer.lrr',
            'optim_wrapper.optimizer.lrr',
            'optim_wrapper.optimizer.lr',
        ),
        ('param_scheduler.1.T_mx', 'param_scheduler.1.T_mx', 'param_scheduler.1.T_max'),
    ]:
        told = f'{key}=3: the config has no {unknown}; did you mean {near}?'
        assert unused_options({key: 3}) == [told]
    text = (
        ' is a variable of the config files, which are read before --cfg-options: setting it has '
        'no effect. Set what it was used for: '
    )
    keys = [f'{split}_dataloader.dataset.metainfo.classes' for split in ('train', 'val', 'test')]
    assert unused_options({'classes': ('a', 'b'), 'train_pipeline.2.scale': (9, 9)}) == [
        f'classes{text}{", ".join(keys)}',
        f'train_pipeline{text}train_dataloader.dataset.pipeline',
    ]


def test_options_that_are_arguments_of_a_class_or_near_to_none():
    options = (
        'model.backbone.with_cp train_dataloader.dataset.indices train_dataloader.pin_memory '
        'optim_wrapper.accumulative_counts model.init_cfg.type default_hooks.checkpoint.priority '
        'custom_hooks _mine model.neck.in_channels.0'
    )
    assert unused_options(dict.fromkeys(options.split(), 3)) == []


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
    monkeypatch.setattr(parts, 'print_log', lambda text, **kwargs: said.append((text, kwargs)))
    assert load('bar = 3').bar == 3
    told = 'config: bar=3 is not used (--strict makes this an error)'
    assert said == [(told, dict(logger='current', level=logging.WARNING))]


def test_none_is_no_hook(load):
    keys = ['default_hooks.visualization=None', 'default_hooks.timer=None']
    hooks = load('', '--cfg-options', *keys).default_hooks
    assert 'visualization' not in hooks
    assert hooks['timer'] is None  # mmengine's own default, which only None removes


def test_a_json_config_has_no_variables(tmp_path):
    file = tmp_path / 'mine.json'
    file.write_text('{"model": {"type": "A"}, "foo": {"x": 1}}')
    assert list(find_unused_keys(Config.fromfile(file))) == ["foo={'x': 1} is not used"]


METAINFO = """
inner = dict(type='CocoDataset', metainfo=dict(classes=('cat',), pallete=[(1, 2, 3)]))
train_dataloader = dict(dataset=dict(type='RepeatDataset', dataset=inner))
val_dataloader = dict(dataset=dict(type='Other', metainfo=dict(pallete=1)))
test_dataloader = dict(
    dataset=dict(
        type='ghmdet.CocoDataset',
        metainfo=dict(CLASSES=('cat',), PALETTE=None, dataset_type='a', task_name='b', names=1),
    )
)
"""


def test_keys_of_metainfo(tmp_path):
    inner, outer = 'train_dataloader.dataset.dataset.metainfo', 'test_dataloader.dataset.metainfo'
    (tmp_path / 'a.py').write_text(METAINFO)
    assert list(find_unused_parts(get_config(tmp_path / 'a.py'))) == [
        f'{inner}.pallete=[(1, 2, 3)] is not used; did you mean {inner}.palette?',
        f'{outer}.names=1 is not used; the keys of {outer} are classes, palette, dataset_type, '
        'task_name, thing_classes, stuff_classes, classes_supervised',
    ]


def test_metainfo_in_capitals_as_an_option(load):
    key = 'train_dataloader.dataset.metainfo'
    cfg = load('', '--strict', '--cfg-options', f'{key}.CLASSES=["circle"]')
    assert cfg.train_dataloader.dataset.metainfo.classes == ('circle', 'square', 'triangle')
