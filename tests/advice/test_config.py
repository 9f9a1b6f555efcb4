"""Advice of `config`, `registry` and `messages`, and of the settings of a run in `checks`."""

import re
import sys

import pytest

from ghmdet import utils
from ghmdet.config.arguments import read_config
from ghmdet.config.errors import ConfigError
from ghmdet.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    REPLACED_PARTS,
    TRANSFORMS,
    VISBACKENDS,
)
from tests.advice import advice
from tests.advice.conftest import edit, options, pipeline, says

FOCAL = "type='FocalLoss', use_sigmoid=True"
ROOTS = [f'{split}_dataloader.dataset.data_root=data/' for split in ('train', 'val', 'test')]
CLASSES = [f'{split}_dataloader.dataset.metainfo.classes' for split in ('train', 'val', 'test')]


def files(**texts):
    """Write files of the config."""

    def act(folder):
        for name, text in texts.items():
            (folder / f'{name}.py').write_text(text)

    return act


RENAMED = [
    edit(lambda data: data['categories'][2].update(name='a [b]'), split)
    for split in ('train', 'val')
]
BASES = files(a='param_scheduler = None', b='param_scheduler = []', c="_base_ = 'a.py'")
ROOT_IN_BASE = files(
    base="_base_ = 'small.py'\ndata_root = 'old/'\n"
    'train_dataloader = dict(dataset=dict(data_root=data_root))\n'
    'val_dataloader = dict(dataset=dict(data_root=data_root))\n'
    'test_dataloader = dict(dataset=dict(data_root=data_root))\n'
    "val_evaluator = dict(ann_file=data_root + 'annotations/val.json')\n"
    "test_evaluator = dict(ann_file=data_root + 'annotations/val.json')\n"
)
RATE_IN_BASE = files(
    base="_base_ = 'small.py'\nrate = 0.01\nfolder = 'results'\n"
    'optim_wrapper = dict(optimizer=dict(lr=rate))\nwork_dir = folder\n'
)
BASE = "_base_ = 'base.py'"


@pytest.mark.parametrize(
    ('part', 'wrong', 'right'),
    [
        advice(
            'a value with blanks or brackets needs quotes around it, e.g. ',
            options('train_cfg.max_epochs = 1'),
            options('train_cfg.max_epochs=1'),
        ),
        advice(
            'each bracket must be closed, ',
            options('model.neck.in_channels=[64, 128]'),
            options('model.neck.in_channels="[64, 128]"'),
        ),
        advice(
            'texts with brackets need quotes',
            (*RENAMED, options(*(f'{key}="(circle,square,a [b])"' for key in CLASSES))),
            (*RENAMED, options(*(f'''{key}="(circle,square,'a [b]')"''' for key in CLASSES))),
        ),
        advice(
            ' is a dict, set one of its keys: ',
            options('optim_wrapper.optimizer=SGD'),
            options('optim_wrapper.optimizer.type=SGD'),
        ),
        advice(
            ') does not apply to ',
            ("val_evaluator = dict(ann_file='other/val.json')", '--data-root data'),
            (
                "val_evaluator = dict(ann_file='other/val.json')",
                options(*ROOTS, 'val_evaluator.ann_file=data/annotations/val.json'),
            ),
        ),
        advice(
            'needs all data below one folder, but there are several',
            ("val_dataloader = dict(dataset=dict(data_root='other/'))", '--data-root data'),
            ("val_dataloader = dict(dataset=dict(data_root='other/'))", options(*ROOTS)),
        ),
        advice(
            'needs a `type`, the name of what to build',
            'custom_hooks = [dict(priority=49)]',
            "custom_hooks = [dict(type='EMAHook', priority=49)]",
        ),
        advice(
            '=dict(_delete_=True, type=...) in ',
            f'model = dict(bbox_head=dict(loss_cls=dict({FOCAL})))',
            f'model = dict(bbox_head=dict(loss_cls=dict(_delete_=True, {FOCAL})))',
        ),
        advice(
            '._delete_=True to ',
            options('model.bbox_head.loss_cls.type=FocalLoss'),
            options(
                'model.bbox_head.loss_cls.type=FocalLoss', 'model.bbox_head.loss_cls._delete_=True'
            ),
        ),
        advice(
            ', or --data-root DIR',
            (ROOT_IN_BASE, BASE, "data_root = 'data/'"),
            (ROOT_IN_BASE, BASE, '--data-root data'),
        ),
        advice(
            'two of the bases of ',
            (BASES, "_base_ = ['small.py', 'a.py']"),
            (BASES, "_base_ = 'small.py'"),
        ),
        advice(
            'or let one inherit the other',
            (BASES, "_base_ = ['c.py', 'b.py']"),
            (BASES, files(b="_base_ = ['small.py']\nparam_scheduler = None"), "_base_ = 'b.py'"),
        ),
    ],
)
def test_what_is_to_be_set(part, wrong, right, follow):
    follow(part, wrong, right)


@pytest.mark.follows('have used their own value of')
def test_a_variable_that_was_read_before(run, print_config):
    first = run(RATE_IN_BASE, BASE, 'rate = 0.02')
    assert 'have used their own value of rate' in first.text
    shown = print_config('tiny.py', '--origin')
    (key,) = re.findall(r'^([\w.]+) = 0.01  # base.py', shown, re.MULTILINE)
    then = run(RATE_IN_BASE, BASE, options(f'{key}=0.02'))
    assert 'learning rate      0.02,' in then.text


@pytest.mark.follows(' is a variable of the config files')
def test_an_option_for_a_variable(run):
    first = run(RATE_IN_BASE, BASE, options('folder=logs'))
    key = re.search(r'Set what it was used for: (\w+)', first.text)[1]
    then = run(RATE_IN_BASE, BASE, options(f'{key}=logs'))
    assert then.code == 0
    assert 'is a variable' not in then.text
    assert (then.folder / 'logs/epoch_1.pth').exists()


@pytest.mark.follows('; did you mean {}?')
@pytest.mark.parametrize(
    ('wrong', 'near'),
    [
        ('--strict --cfg-options model.bbox_hed.num_classes=3', 'bbox_hed'),
        ('--strict --cfg-options modle.type=RetinaNet', 'modle'),
        ('--strict --cfg-options model.test_cfg.score_thrs=0.001', 'score_thrs'),
        ('--cfg-options model.bbox_head.loss_cls.binz=5', 'binz'),
        ('--cfg-options default_hooks.checkpoint.max_keep_ckptss=1', 'max_keep_ckptss'),
        ('--cfg-options model.backbone.type=ResNett', 'ResNett'),
        ('--cfg-options train_dataloader.num_worker=0', 'num_worker'),
    ],
)
def test_the_nearest_name(wrong, near, run):
    first = run(wrong)
    found = re.search(r'did you mean ([\w.]+)', first.error)[1]
    then = run(wrong.replace(near, found.rpartition('.')[2]))
    assert then.code == 0, then.text[-2000:]
    assert 'did you mean' not in then.text


@pytest.mark.follows('{}{} Searched: {}.', 'the folder of your package must be in PYTHONPATH')
def test_a_part_of_ones_own(run, monkeypatch, tmp_path):
    package = tmp_path / 'lib/mypackage'
    package.mkdir(parents=True)
    (package / '__init__.py').touch()
    (package / 'mymodule.py').write_text(
        'from mmengine.hooks import Hook\n'
        'from ghmdet.registry import HOOKS\n'
        '@HOOKS.register_module()\n'
        'class ToldHook(Hook):\n'
        '    def before_train(self, runner):\n'
        "        print('a hook of our own')\n"
    )
    hook = "custom_hooks = [dict(type='ToldHook')]"
    first = run(hook)
    advised = re.search(r'needs (custom_imports=dict\(.*?\)),', first.error)[1]
    second = run(hook, advised)
    assert 'the folder of your package must be in PYTHONPATH' in second.error
    monkeypatch.syspath_prepend(package.parent)
    assert 'a hook of our own' in run(hook, advised).text
    for name in ('mypackage', 'mypackage.mymodule'):
        del sys.modules[name]  # other tests have one of this name


@pytest.mark.follows('; it is a part of MMDetection, replaced here by')
@pytest.mark.parametrize(
    ('wrong', 'name'),
    [
        (pipeline('load', 'boxes', "dict(type='Collect')"), 'Collect'),
        ("train_dataloader = dict(sampler=dict(type='DistributedSampler'))", 'DistributedSampler'),
        ("custom_hooks = [dict(type='LinearMomentumEMAHook')]", 'LinearMomentumEMAHook'),
    ],
)
def test_parts_of_mmdetection(wrong, name, run):
    first = run(wrong)
    replacement = re.search(r'replaced here by (\w+)[;.]', first.error)[1]
    then = run(wrong.replace(name, replacement))
    assert then.code == 0, then.error


def test_what_replaces_parts_of_mmdetection_is_there():
    utils.register_all_modules()
    registries = [TRANSFORMS, DATA_SAMPLERS, LOOPS, HOOKS, OPTIM_WRAPPERS, VISBACKENDS, DATASETS]
    registries += [METRICS, MODELS]
    for replacement in REPLACED_PARTS.values():
        for name in re.findall(r'\b[A-Z]\w*[a-z]\w*[A-Z]\w*', replacement):
            assert any(name in each for each in registries), name


OLD = """
data = dict(samples_per_gpu=1, workers_per_gpu=0)
optimizer = dict(type='SGD', lr=0.005, momentum=0.9)
optimizer_config = dict(grad_clip=dict(max_norm=35, norm_type=2))
lr_config = dict(policy='step', warmup='linear', warmup_iters=2, warmup_ratio=0.5, step=[1])
total_epochs = 1
fp16 = dict(loss_scale=512.0)
auto_resume = True
evaluation = dict(interval=1, metric='bbox', classwise=True)
checkpoint_config = dict(interval=1, max_keep_ckpts=1)
log_config = dict(interval=1)
cudnn_benchmark = False
"""


@pytest.mark.follows('has keys of MMDetection 2.x', '--resume, or resume=True')
def test_keys_of_mmdetection_2(run):
    first = run(OLD)
    lines = re.findall(r'^  (\S.*?) -> (.*)$', first.error, re.MULTILINE)
    assert len(lines) == 15
    new = dict(line.split('=', 1) for _, line in lines if re.match(r'[\w.]+=', line))
    rest = [line for _, line in lines if not re.match(r'[\w.]+=', line)]
    assert rest == ["--amp, or optim_wrapper.type='AmpOptimWrapper'", '--resume, or resume=True']
    schedule = 'param_scheduler = ' + new.pop('param_scheduler')
    then = run(schedule, '--amp --resume', options(*(f'{key}="{new[key]}"' for key in new)))
    assert then.code == 0, then.text[-2000:]
    assert 'learning rate      0.005,' in then.text
    assert 'nothing to resume' in then.text
    assert 'precision          bfloat16' in then.text


@pytest.mark.follows("param_scheduler, e.g. type='CosineAnnealingMomentum'")
def test_the_schedule_of_the_momentum(run):
    first = run("momentum_config = dict(policy='CosineAnnealing')")
    kind = re.search(r"e.g. type='(\w+)'", first.error)[1]
    then = run(f"param_scheduler = [dict(type='{kind}', T_max=1, eta_min=0.5)]")
    assert then.code == 0, then.error
    assert f'schedule {kind}' in ' '.join(then.text.split())


@pytest.mark.follows('{} shows where in the code')
def test_the_traceback_of_an_error(run):
    wrong = options('model.bbox_head.loss_cls.bins=0')
    first = run(wrong)
    assert '--debug shows where in the code' in first.text
    assert 'Traceback' not in first.text
    then = run(wrong, '--debug')
    assert 'gradient_density.py' in then.text
    assert 'shows where' not in then.text


# --- config files -------------------------------------------------------------------------------

READ_BASE = 'from mmengine.config import read_base\nwith read_base():\n    from .a import *\n'


@pytest.mark.parametrize(
    ('part', 'wrong', 'right', 'inherited'),
    [
        advice(
            'write _base_ = [] in its first line',
            'import os\nwork_dir = os.sep.join("ab")',
            '_base_ = []\nimport os\nwork_dir = os.sep.join("ab")',
            '',
        ),
        advice(
            '`_base_` must stand above all imports: move it to the first line',
            'import os\n_base_ = "a.py"\nwork_dir = os.sep.join("ab")',
            '_base_ = "a.py"\nimport os\nwork_dir = os.sep.join("ab")',
            'resume = False',
        ),
        advice(
            "`_base_` must be a text or a list of texts without variables, e.g. './base.py'",
            'name = "a.py"\n_base_ = name\nwork_dir = "a/b"',
            '_base_ = "./a.py"\nwork_dir = "a/b"',
            'resume = False',
        ),
        advice(
            'a variable holds a {}, which cannot be copied: `del` it after its use',
            '_base_ = []\nfile = open("a.py")\nwork_dir = file.read()',
            '_base_ = []\nfile = open("a.py")\nwork_dir = file.read()\nfile.close()\ndel file',
            'a/b',
        ),
        advice(
            'a file with read_base is inherited by ',
            '_base_ = "b.py"\nwork_dir = "a/b"',
            f'{READ_BASE.replace(".a", ".b")}\nwork_dir = "a/b"',
            'resume = False',
        ),
        advice(
            "a file with `_base_` is inherited by _base_ = '...', not by read_base",
            f'{READ_BASE.replace(".a", ".c")}\nwork_dir = "a/b"',
            "_base_ = 'c.py'\nwork_dir = 'a/b'",
            'resume = False',
        ),
        advice(
            "a part is given by name: dict(type='...')",
            '_base_ = []\nclass Hook: pass\ncustom_hooks = [Hook()]\nwork_dir = "a/b"',
            '_base_ = []\ncustom_hooks = [dict(type="EMAHook")]\nwork_dir = "a/b"',
            '',
        ),
    ],
)
def test_files_of_configs(part, wrong, right, inherited, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (('a', inherited), ('b', READ_BASE), ('c', "_base_ = 'a.py'")):
        (tmp_path / f'{name}.py').write_text(text)
    file = tmp_path / 'config.py'
    file.write_text(wrong)
    with pytest.raises((ConfigError, TypeError)) as caught:
        read_config(str(file))
    assert says(str(caught.value), part)
    file.write_text(right)
    assert read_config(str(file)).work_dir == 'a/b'
