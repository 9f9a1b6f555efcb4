"""Examples, links and file names of the docs are right; an example without a check here fails."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS

from ghmdet import test as test_tool
from ghmdet import train as train_tool
from ghmdet.config import arguments
from ghmdet.config.errors import ConfigError, name_the_key
from ghmdet.registry import HOOKS, LOOPS, METRICS, MODELS, TRANSFORMS, VISBACKENDS

ROOT = Path(__file__).parents[2]
SHIPPED = 'retinanet_ghm_r50_fpn_1x_coco'
BASE = f"_base_ = __import__('ghmdet').config_path('{SHIPPED}')\n"


def sections(file):
    """Text of a page by heading; a comment in a code block begins with one # only."""
    parts = re.split(r'^## (.+)\n', (ROOT / file).read_text(), flags=re.MULTILINE)
    assert '```' not in parts[0]
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def blocks(file):
    """Fenced blocks by heading and number below it."""
    return {
        (heading, number): code
        for heading, text in sections(file).items()
        for number, (_, code) in enumerate(re.findall(r'```(\w*)\n(.*?)```', text, re.DOTALL))
    }


def rows(heading):
    """Cells of the table below a heading."""
    lines = [line for line in sections('docs/configs.md')[heading].splitlines() if line[:1] == '|']
    return [[cell.strip() for cell in line.strip('|').split(' | ')] for line in lines[2:]]


def read(text, folder, name='pets.py'):
    """Read a block as a config, below the GHM recipe unless it says what it inherits."""
    has_base = text.lstrip().startswith('_base_') and '_base_ =' in text.splitlines()[0]
    inherits = has_base or 'read_base' in text
    (folder / name).write_text(text if inherits else BASE + text)
    return Config.fromfile(folder / name)


def get(cfg, key):
    for name in key.split('.'):
        cfg = cfg[int(name)] if name.isdigit() else cfg[name]
    return cfg


def has(**expected):
    """A check: these values, with _ for the dots of a key, hold in the config."""

    def check(text, folder, monkeypatch, capsys):
        check_values(read(text, folder), expected)

    return check


def check_values(cfg, expected):
    for key, value in expected.items():
        assert get(cfg, key.replace('__', '.')) == value, key


# --- blocks -----------------------------------------------------------------------------------


def overrides(text, folder, monkeypatch, capsys):
    words = shlex.split(text.replace('\\\n', ' '))
    assert words[0] == 'python'
    assert (ROOT / words[1]).is_file()
    monkeypatch.setattr(sys, 'argv', words[1:])
    monkeypatch.setenv('LOCAL_RANK', '0')
    cfg = arguments.load_config(train_tool.parse_args())
    expected = dict(
        optim_wrapper__optimizer__lr=0.005,
        load_from=None,
        auto_scale_lr=dict(enable=True, base_batch_size=16),
        model__backbone__out_indices=(0, 1, 2, 3),
        model__neck__in_channels=[512, 512, 1024, 2048],
        model__bbox_head__anchor_generator__ratios=[0.4, 1.0, 2.5],
        train_dataloader__dataset__metainfo__classes=('cat', 'dog'),
        train_dataloader__dataset__pipeline__2__scale=[(1333, 640), (1333, 800)],
    )
    check_values(cfg, expected)


def print_config(words, folder, monkeypatch, capsys):
    (folder / 'pets.py').write_text(
        BASE + "model = dict(bbox_head=dict(loss_cls=dict(_delete_=True, type='FocalLoss')))\n"
    )
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', ['pets.py' if w == 'CONFIG' else w for w in words])
    runpy.run_path(str(ROOT / words[0]), run_name='__main__')
    return capsys.readouterr().out


PRINT = shlex.split(
    'tools/misc/print_config.py CONFIG --cfg-options optim_wrapper.optimizer.lr=0.005'
)


def prints(text, folder, monkeypatch, capsys):
    assert shlex.split(text) == ['python', *PRINT]
    out = print_config(PRINT, folder, monkeypatch, capsys)
    assert re.search(r'optimizer=dict\(\s*lr=0.005', out)
    assert "'FocalLoss'" in out


def prints_origins(text, folder, monkeypatch, capsys):
    found = print_config([*PRINT, '--origin'], folder, monkeypatch, capsys).splitlines()
    assert [line for line in text.splitlines() if line not in found] == []


def own_parts(text, folder, monkeypatch, capsys):
    (folder / 'mypackage').mkdir()
    module = blocks('docs/configs.md')['Your own parts', 1]
    (folder / 'mypackage' / 'backbones.py').write_text(module)
    monkeypatch.syspath_prepend(str(folder))
    backbone = MODELS.build(read(text, folder).model.backbone)
    assert type(backbone).__name__ == 'MyBackbone'
    assert backbone.width == 8


def seen_above(text, folder, monkeypatch, capsys):
    """The part that the config above it names: checked with it."""
    assert 'class MyBackbone(' in text


def refused(text, folder, monkeypatch, capsys):
    cfg = read('model = dict(bbox_head=dict(loss_cls=dict(binz=3)))', folder)
    with pytest.raises(ConfigError) as caught, name_the_key(cfg, {}):
        MODELS.build(cfg.model)
    assert text == f'error: {caught.value}\n'


GHMC = dict(type='GHMC', bins=30, momentum=0.75, use_sigmoid=True, loss_weight=1.0)
CHECKS = {
    ('Inherit', 0): has(model__bbox_head__num_classes=2, model__bbox_head__loss_cls=GHMC),
    ('Inherit by import', 0): has(
        model__bbox_head__num_classes=2,
        model__bbox_head__loss_cls=GHMC,
        optim_wrapper__optimizer=dict(type='SGD', lr=0.005, momentum=0.9, weight_decay=0.0001),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=1),
    ),
    ('Replace instead of merge', 0): has(
        model__bbox_head__loss_cls=dict(type='FocalLoss', gamma=2.0, alpha=0.25),
        model__bbox_head__loss_bbox__type='GHMR',
    ),
    ('Replace instead of merge', 1): has(
        train_dataloader__dataset__pipeline__2=dict(
            type='Resize', scale=(640, 400), keep_ratio=True
        ),
        train_dataloader__dataset__pipeline__3=dict(type='RandomFlip', prob=0.5),
        val_dataloader__dataset__pipeline__1__scale=(1333, 800),
    ),
    ('Derived values', 0): has(
        data_root='data/coco/',
        train_dataloader__dataset__data_root='/data/pets/',
        val_dataloader__dataset__data_root='data/coco/',
    ),
    ('Derived values', 1): has(
        optim_wrapper__optimizer__lr=0.0025, optim_wrapper__optimizer__momentum=0.9
    ),
    ('Override on the command line', 0): overrides,
    ('Mistakes', 0): refused,
    ('See the result', 0): prints,
    ('See the result', 1): prints_origins,
    ('Your own parts', 0): own_parts,
    ('Your own parts', 1): seen_above,
}


def test_no_example_is_without_a_check():
    assert sorted(blocks('docs/configs.md')) == sorted(CHECKS)
    tables = [name for name, text in sections('docs/configs.md').items() if '|---|' in text]
    assert tables == ['Inherit', 'Common changes']
    assert [code for code, _ in rows('Inherit')] == [f'`{code}`' for code in BASES]
    assert [wish for wish, _ in rows('Common changes')] == list(CHANGES)


@pytest.mark.parametrize('place', CHECKS, ids=lambda place: f'{place[0]}-{place[1]}')
def test_example(place, tmp_path, monkeypatch, capsys):
    CHECKS[place](blocks('docs/configs.md')[place], tmp_path, monkeypatch, capsys)


# --- statements beside the blocks ---------------------------------------------------------------

BASES = {
    "_base_ = './other.py'": dict(model=dict(type='A', width=1)),
    "_base_ = ['model.py', 'data.py']": dict(model=dict(type='B'), data_root='/data/'),
    f"_base_ = 'ghmdet::ghm/{SHIPPED}.py'": dict(model__bbox_head__loss_cls__bins=30),
}


@pytest.mark.parametrize('code', BASES)
def test_base(code, tmp_path):
    (tmp_path / 'other.py').write_text("model = dict(type='A', width=1)")
    (tmp_path / 'model.py').write_text("model = dict(type='B')")
    (tmp_path / 'data.py').write_text("data_root = '/data/'")
    check_values(read(code, tmp_path), BASES[code])


def test_merging_knows_delete_in_a_config_that_imports(tmp_path):
    text = blocks('docs/configs.md')['Inherit by import', 0]
    text += "model.merge(dict(bbox_head=dict(loss_cls=dict(_delete_=True, type='FocalLoss'))))\n"
    cfg = read(text, tmp_path)
    assert cfg.model.bbox_head.loss_cls == dict(type='FocalLoss')


def test_without_delete_the_constructor_tells(tmp_path):
    text = blocks('docs/configs.md')['Replace instead of merge', 0].replace('_delete_=True, ', '')
    cfg = read(text, tmp_path)
    with pytest.raises(ConfigError) as caught, name_the_key(cfg, {}):
        MODELS.build(cfg.model)
    told = str(caught.value)
    assert "(FocalLoss): unexpected keyword argument 'bins'; it is inherited from ghmdet::" in told
    assert told.endswith(f'write loss_cls=dict(_delete_=True, type=...) in {tmp_path}/pets.py')


def test_tuples_of_one_and_blanks_on_the_command_line(monkeypatch):
    key = 'train_dataloader.dataset.metainfo.classes'
    for given, expected in (
        ("('cat',)", ('cat',)),
        ("('traffic light','car')", ('traffic light', 'car')),
    ):
        assert f'"{given}"' in sections('docs/configs.md')['Override on the command line']
        monkeypatch.setattr(sys, 'argv', ['train', SHIPPED, '--cfg-options', f'{key}={given}'])
        cfg = arguments.load_config(train_tool.parse_args())
        assert get(cfg, key) == expected


def test_a_dict_on_the_command_line(monkeypatch):
    key = "model.neck.norm_cfg={'type': 'GN', 'num_groups': 32}"
    text = sections('docs/configs.md')['Override on the command line']
    assert f'`{key.replace("=", chr(61) + chr(34), 1)}"`' in text
    monkeypatch.setattr(sys, 'argv', ['train', SHIPPED, '--cfg-options', key])
    cfg = arguments.load_config(train_tool.parse_args())
    assert cfg.model.neck.norm_cfg == dict(type='GN', num_groups=32)


def test_the_switch_for_the_data_root(monkeypatch):
    text = sections('docs/configs.md')['Derived values']
    (option,) = re.findall(r'`(--data-root [^`]+)`', text)
    (variable,) = re.findall(r'`(GHMDET_\w+)=/data/pets`', text)
    (alias,) = re.findall(r'`(--cfg-options [^`]+)`', text)
    for words in (option.split(), alias.split(), []):
        if not words:
            monkeypatch.setenv(variable, '/data/pets')
        monkeypatch.setattr(sys, 'argv', ['train', SHIPPED, *words])
        cfg = arguments.load_config(train_tool.parse_args())
        for split in ('train', 'val', 'test'):
            assert cfg[f'{split}_dataloader'].dataset.data_root == '/data/pets/'


# --- common changes ---------------------------------------------------------------------------


def build_model(cfg):
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def from_scratch(cfg, folder):
    backbone = build_model(cfg).backbone
    assert [part['type'] for part in backbone.init_cfg] == ['Kaiming', 'Constant']
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert backbone.train().bn1.training


def recomputed(cfg, folder):
    assert build_model(cfg).backbone.layer1[0].with_cp


def four_batches(cfg, folder):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    wrapper = OPTIM_WRAPPERS.build(dict(cfg.optim_wrapper, optimizer=optimizer))
    parameter = optimizer.param_groups[0]['params'][0]
    values = []
    for _ in range(4):
        with wrapper.optim_context(torch.nn.Identity()):
            loss = parameter.sum()
        wrapper.update_params(loss)
        values.append(parameter.item())
    assert values == [1.0, 1.0, 1.0, 0.0]


def multi_scale(cfg, folder):
    steps = [TRANSFORMS.build(step) for step in cfg.train_dataloader.dataset.pipeline]
    assert type(steps[2]).__name__ == 'RandomChoiceResize'
    assert steps[2].scales == [(1333, 640), (1333, 800)]
    assert cfg.val_dataloader.dataset.pipeline[1].scale == (1333, 800)


def crowds(cfg, folder):
    assert build_model(cfg).bbox_head.assigner.ignore_iof_thr == 0.5


def averaged(cfg, folder):
    assert [type(HOOKS.build(hook)).__name__ for hook in cfg.custom_hooks] == ['EMAHook']


def without_memory(cfg, folder):
    head = build_model(cfg).bbox_head
    assert (head.loss_cls.momentum, head.loss_bbox.momentum) == (0, 0)
    assert (head.loss_cls.bins, head.loss_bbox.bins) == (30, 10)


def from_the_first_step(cfg, folder):
    head = build_model(cfg).bbox_head
    assert (head.loss_cls.bias_correct, head.loss_bbox.bias_correct) == (True, True)
    assert (head.loss_cls.bins, head.loss_cls.max_weight) == (30, None)


def bounded(cfg, folder):
    head = build_model(cfg).bbox_head
    assert (head.loss_cls.max_weight, head.loss_bbox.max_weight) == (20, 20)
    assert (head.loss_cls.bins, head.loss_cls.bias_correct) == (30, False)


def curves_of_bins(cfg, folder):
    assert [HOOKS.build(hook).interval for hook in cfg.custom_hooks] == [50]


def loss_of_validation(cfg, folder):
    assert cfg.val_cfg == dict(type='ValLoop', compute_loss=True)
    assert LOOPS.get('ValLoop').__module__ == 'ghmdet.engine.val_loop'


def stop_after_three(cfg, folder):
    hook = HOOKS.build(cfg.default_hooks.finite_steps)
    assert (type(hook).__name__, hook.max_in_a_row) == ('SkipNonFiniteStepsHook', 3)


def metrics(cfg, folder):
    content = dict(images=[], annotations=[], categories=[])
    (folder / 'val.json').write_text(json.dumps(content))
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        yield METRICS.build(dict(evaluator, ann_file=str(folder / 'val.json')))


def per_class(cfg, folder):
    assert [metric.classwise for metric in metrics(cfg, folder)] == [True, True]


def other_backend(cfg, folder):
    assert [metric.backend for metric in metrics(cfg, folder)] == ['pycocotools'] * 2


def tensorboard(cfg, folder):
    assert cfg.visualizer.type == 'DetLocalVisualizer'
    kinds = [VISBACKENDS.get(backend.type) for backend in cfg.visualizer.vis_backends]
    assert [kind.__name__ for kind in kinds] == ['LocalVisBackend', 'TensorboardVisBackend']


CHANGES = {
    'training from scratch': from_scratch,
    'less memory (`peak_memory` in the log, in MB): activation checkpointing': recomputed,
    'gradient accumulation over four batches': four_batches,
    'multi-scale training': multi_scale,
    'crowd and `ignore` regions ignored instead of background': crowds,
    'moving average of the weights': averaged,
    'GHM counts of the current step only': without_memory,
    'GHM weights unbiased from the first step': from_the_first_step,
    'no GHM weight above 20': bounded,
    'GHM bins, weights and counts in the log': curves_of_bins,
    'the loss of the validation set: `val/loss`, `val/loss_cls`, `val/loss_bbox`': (
        loss_of_validation
    ),
    'an error after 3 successive steps without a finite loss, instead of 10': stop_after_three,
    'per-class AP': per_class,
    'pycocotools instead of faster-coco-eval': other_backend,
    'curves in TensorBoard': tensorboard,
}


@pytest.mark.parametrize(('wish', 'code'), rows('Common changes'))
def test_common_change(wish, code, tmp_path):
    assert code[0] == code[-1] == '`'
    CHANGES[wish](read(code[1:-1], tmp_path), tmp_path)


@pytest.mark.parametrize('tool', [train_tool, test_tool], ids=['train', 'test'])
def test_options_for_speed_are_known_to_both_tools(tool, monkeypatch, capsys):
    named = set(re.findall(r'\*\*`(--[\w-]+)`\*\*', sections('docs/configs.md')['Faster']))
    assert named == {'--amp', '--compile'}
    monkeypatch.setattr(sys, 'argv', ['tool', '--help'])
    with pytest.raises(SystemExit):
        tool.parse_args()
    assert named <= set(re.findall(r'--[\w-]+', capsys.readouterr().out))


def test_readme_data_block_is_a_config(tmp_path):
    text = blocks('README.md')['Your own data', 0]
    cfg = read(text, tmp_path)
    dataset = dict(data_root='/data/pets/', metainfo=dict(classes=('cat', 'dog')))
    for split, file in (('train', 'train.json'), ('val', 'val.json'), ('test', 'val.json')):
        found = cfg[f'{split}_dataloader'].dataset
        assert {key: found[key] for key in dataset} == dataset
        assert found.ann_file == file
        assert found.data_prefix == dict(img='images/')
        assert found.type == 'CocoDataset'
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == '/data/pets/val.json'
    assert build_model(cfg).bbox_head.num_classes == 2


PAGES = ['README.md', 'CONTRIBUTING.md', 'configs/README.md', *sorted(ROOT.glob('docs/*.md'))]


def anchors(page):
    """Names of the headings of a page, as GitHub links to them."""
    text = re.sub('```.*?```', '', page.read_text(), flags=re.DOTALL)
    headings = re.findall(r'^#+ (.+)$', text, flags=re.MULTILINE)
    return [re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: Path(page).name)
def test_links_lead_somewhere(page):
    page = ROOT / page
    for link in re.findall(r'\]\((?!http)([^)]+)\)', page.read_text()):
        file, _, anchor = link.partition('#')
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize('page', ['README.md', 'docs/tour.md', 'docs/checkpoints.md'])
def test_files_that_a_page_names_exist(page):
    names = set(re.findall(r'`(?:python )?([\w/]+\.py)\b', (ROOT / page).read_text()))
    folders = [ROOT, ROOT / 'ghmdet', ROOT / 'ghmdet' / 'checkpoint']
    assert names
    assert [n for n in names if not any((folder / n).is_file() for folder in folders)] == []


def test_the_readme_is_a_page_of_150_lines():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 150
