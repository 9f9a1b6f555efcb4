"""Errors that name the dotted key, or the file and the line, of their cause."""

from collections import OrderedDict

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from ghmdet import config_path
from ghmdet.config import arguments
from ghmdet.config.cfg_options import merge_options
from ghmdet.config.errors import ConfigError, name_the_key
from ghmdet.config.parts import value_at
from ghmdet.registry import DATASETS, MODELS

SHAPES = 'retinanet_ghm_r18_fpn_shapes'
BASE = f'_base_ = {config_path(SHAPES)!r}\n'


@pytest.fixture(autouse=True)
def no_scope_of_an_earlier_test(monkeypatch):
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())


def build(cfg, options=None, part='model', registry=MODELS):
    with pytest.raises(ConfigError) as caught, name_the_key(cfg, options or {}):
        registry.build(value_at(cfg, part))
    return str(caught.value)


def with_options(options):
    cfg = Config.fromfile(config_path(SHAPES))
    merge_options(cfg, options)
    return cfg, options


UNEXPECTED = 'unexpected keyword argument'
MISSING = "missing 1 required positional argument: 'depth'"


@pytest.mark.parametrize(
    ('key', 'value', 'kind', 'told'),
    [
        ('bbox_head.loss_cls.binz', 3, 'GHMC', f"{UNEXPECTED} 'binz'; did you mean bins?"),
        ('bbox_hed', {}, 'RetinaNet', f"{UNEXPECTED} 'bbox_hed'; did you mean bbox_head?"),
        ('neck.quux', 3, 'FPN', f"{UNEXPECTED} 'quux'; it takes act_cfg, add_extra_convs, "),
        (
            'bbox_head.loss_cls.type',
            'FocalLoss',
            'FocalLoss',
            f"{UNEXPECTED} 'bins'; it is inherited from ghmdet::retinanet_ghm_r50_fpn_1x_coco.py, "
            'but the type is set in --cfg-options: add model.bbox_head.loss_cls._delete_=True to '
            '--cfg-options',
        ),
        (
            'backbone.depth',
            19,
            'ResNet',
            'backbone.depth must be one of [18, 34, 50, 101, 152], got',
        ),
        (
            'train_cfg.assigner.pos_iou_th',
            0.5,
            'MaxIoUAssigner',
            f"{UNEXPECTED} 'pos_iou_th'; did ",
        ),
        ('backbone', {'_delete_': True, 'type': 'ResNet'}, 'ResNet', MISSING),
        (
            'data_preprocessor.batch_augments',
            'BatchFixedSizePad',
            'DetDataPreprocessor',
            'DetDataPreprocessor: batch_augments must be a list, e.g. ',
        ),
    ],
)
def test_the_dotted_key_of_a_constructor(key, value, kind, told):
    part = key if isinstance(value, dict) and value else key.rpartition('.')[0]
    message = build(*with_options({f'model.{key}': value}))
    assert message.startswith(f'model{part and "."}{part} ({kind}): {told}')


@pytest.mark.parametrize(
    ('key', 'value', 'told'),
    [
        ('bbox_head.loss_cls.type', 'GHMCC', 'GHMCC is not in the ghmdet::model registry'),
        ('neck.norm_cfg.type', 'BNN', 'BNN is in no registry'),
        ('bbox_head.bbox_coder', {'_delete_': True, 'x': 1}, ''),
    ],
)
def test_the_dotted_key_of_a_type(key, value, told):
    needs = f"model.{key} needs a `type`, the name of what to build; it has {{'x': 1}}"
    message = build(*with_options({f'model.{key}': value}))
    assert message.startswith(f'model.{key}: {told}' if told else needs)


def test_steps_of_a_pipeline_have_numbers():
    cfg, options = with_options({'train_dataloader.dataset.pipeline.2.scal': 3})
    told = f"pipeline.2 (Resize): {UNEXPECTED} 'scal'; did you mean scale?"
    found = build(cfg, options, 'train_dataloader.dataset', DATASETS)
    assert found == f'train_dataloader.dataset.{told}'


@pytest.mark.parametrize(
    ('setting', 'told'),
    [
        (
            "type='FocalLoss'",
            "FocalLoss): unexpected keyword argument 'bins'; it is inherited from "
            'ghmdet::retinanet_ghm_r50_fpn_1x_coco.py, but the type is set in mine.py: write '
            'loss_cls=dict(_delete_=True, type=...) in mine.py',
        ),
        ('binz=3', "GHMC): unexpected keyword argument 'binz'; did you mean bins?"),  # a typo
    ],
)
def test_what_is_left_over_from_the_base_names_both_files(setting, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = f'model = dict(bbox_head=dict(loss_cls=dict({setting})))\n'
    (tmp_path / 'mine.py').write_text(BASE + text)
    assert build(Config.fromfile('mine.py')) == f'model.bbox_head.loss_cls ({told}'


@pytest.mark.parametrize(
    ('option', 'told'),
    [
        ('randomness.sede', f"randomness: {UNEXPECTED} 'sede'"),
        ('env_cfg.mp_cfg.x', f"env_cfg.mp_cfg: {UNEXPECTED} 'x'"),
        (
            'default_hooks.logger.intervall',
            f"default_hooks.logger (LoggerHook): {UNEXPECTED} 'intervall'; did you mean interval?",
        ),
        (
            'log_processor.windowsize',
            f"log_processor (LogProcessor): {UNEXPECTED} 'windowsize'; did you mean window_size?",
        ),
    ],
)
def test_sections_of_the_runner(option, told, tmp_path):
    cfg, options = with_options({option: 3})
    cfg.work_dir = str(tmp_path)
    with pytest.raises(ConfigError) as caught, name_the_key(cfg, options):
        Runner.from_cfg(cfg)
    assert str(caught.value) == told


def test_errors_of_nothing_in_the_config_stay_as_they_are():
    with pytest.raises(KeyError, match='other'), name_the_key(Config(dict(model=dict())), {}):
        raise KeyError('other')


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('x = [1, 2\n', "mine.py, line 1: SyntaxError: '[' was never closed"),
        ('x = 1\ny = z\n', "mine.py, line 2: NameError: name 'z' is not defined"),
        ('x = 1 / 0\n', 'mine.py, line 1: ZeroDivisionError: division by zero'),
        ("\nx = int('a')\n", "mine.py, line 2: invalid literal for int() with base 10: 'a'"),
        ("_base_ = 'gone.py'\n", 'mine.py: its _base_ {}/gone.py does not exist'),
        ("_base_ = 'base.py'\n", "base.py, line 1: NameError: name 'q' is not defined"),
        (
            "custom_imports = dict(imports=['nowhere_at_all'])\n",
            'custom_imports: Failed to import nowhere_at_all; the folder of your package must be '
            'in PYTHONPATH',
        ),
    ],
)
def test_the_file_and_the_line(text, told, tmp_path):
    (tmp_path / 'base.py').write_text('x = q\n')
    (tmp_path / 'mine.py').write_text(text)
    with pytest.raises(ConfigError) as caught:
        arguments.read_config(tmp_path / 'mine.py')
    assert told.replace('{}', str(tmp_path)) in str(caught.value)


SUB = 'from mmengine.config import read_base\nwith read_base():\n    from .sub import *\n'


@pytest.mark.parametrize(
    ('text', 'told', 'remedied'),
    [
        (
            "import numpy as np\n_base_ = 'sub.py'\ny = int(np.sqrt(4))\n",
            'mine.py: `_base_` must stand above all imports: move it to the first line',
            "_base_ = 'sub.py'\nimport numpy as np\ny = int(np.sqrt(4))\n",
        ),
        (
            "name = 'sub.py'\n_base_ = name\ny = 2\n",
            "mine.py: `_base_` must be a text or a list of texts without variables, e.g. './base",
            "_base_ = './sub.py'\ny = 2\n",
        ),
        (
            "_base_ = ('sub.py',)\ny = 2\n",
            "without variables, e.g. './base.py'; got ('sub.py',)",
            "_base_ = ['./sub.py']\ny = 2\n",
        ),
        (
            'import numpy as np\nx = 1\ny = int(np.sqrt(4))\n',
            'mine.py, line 3: imports are not run, and `with` is not allowed, in a file without '
            '`_base_`: write _base_ = [] in its first line',
            '_base_ = []\nimport numpy as np\nx = 1\ny = int(np.sqrt(4))\n',
        ),
        (
            "with open('list.txt') as file:\n    y = int(file.read())\nx = 1\n",
            'mine.py: imports are not run, and `with` is not allowed, in a file without `_base_`: '
            'write _base_ = [] in its first line',
            "_base_ = []\nwith open('list.txt') as f:\n    y = int(f.read())\ndel f\nx = 1\n",
        ),
        (
            "_base_ = 'sub.py'\nwith open('list.txt') as file:\n    y = int(file.read())\n",
            'mine.py: a variable holds a TextIOWrapper, which cannot be copied: `del` it after its',
            "_base_ = 'sub.py'\nwith open('list.txt') as f:\n    y = int(f.read())\ndel f\n",
        ),
        (
            "_base_ = 'lazy.py'\ny = 2\n",
            'lazy.py: a file with read_base is inherited by with read_base(): from .lazy import *',
            SUB.replace('sub', 'lazy') + 'y = 2\n',
        ),
        (
            SUB.replace('sub', 'heir') + 'y = 2\n',
            "heir.py: a file with `_base_` is inherited by _base_ = '...', not by read_base",
            "_base_ = 'heir.py'\ny = 2\n",
        ),
        (
            "_base_ = 'SUB.py'\ny = 2\n",
            'mine.py: its _base_ {}/SUB.py does not exist',
            "_base_ = 'sub.py'\ny = 2\n",
        ),
    ],
)
def test_advice_about_base_files(text, told, remedied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {'sub.py': 'x = 1\n', 'heir.py': "_base_ = 'sub.py'\n", 'lazy.py': SUB}
    for name, content in {**files, 'list.txt': '2', 'mine.py': text}.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError) as caught:
        arguments.read_config('mine.py')
    assert told.replace('{}', str(tmp_path)) in str(caught.value)
    assert 'inheritance chain' not in str(caught.value)
    (tmp_path / 'mine.py').write_text(remedied)
    assert arguments.read_config('mine.py').to_dict() == dict(x=1, y=2)


def test_a_base_under_nearly_its_name(tmp_path):
    (tmp_path / 'sub.py').write_text('x = 1\n')
    (tmp_path / 'mine.py').write_text("_base_ = 'SUB.py'\n")
    with pytest.raises(
        ConfigError, match=rf"SUB\.py does not exist.* there is '{tmp_path}/sub\.py'"
    ):
        arguments.read_config(tmp_path / 'mine.py')


@pytest.mark.parametrize(
    ('key', 'value', 'told'),
    [
        ('backbone.frozen_stages', None, 'model.backbone.frozen_stages must be int, got None ('),
        ('neck.in_channels', 3, 'model.neck.in_channels must be Sequence[int], got 3 ('),
        ('bbox_head.feat_channels', 'x', "model.bbox_head.feat_channels must be int, got 'x' ("),
    ],
)
def test_arguments_of_another_type(key, value, told):
    cfg, options = with_options({f'model.{key}': value})
    cfg.model.data_preprocessor = None
    assert build(cfg, options).startswith(told)


def test_the_optimizer(tmp_path):
    cfg, options = with_options({'optim_wrapper.optimizer.type': 'SGDD'})
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    told = '^optim_wrapper.optimizer.type: SGDD is not in the'
    with pytest.raises(ConfigError, match=told), name_the_key(cfg, options):
        runner.build_optim_wrapper(runner.optim_wrapper)
