"""Examples, links and file names of the docs are right; an example without a check here fails."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import OPTIM_WRAPPERS

from ghmdet import test as test_tool
from ghmdet import train as train_tool
from ghmdet.config import arguments
from ghmdet.config.errors import ConfigError, name_the_key
from ghmdet.registry import HOOKS, METRICS, MODELS, TRANSFORMS, VISBACKENDS

ROOT = Path(__file__).parents[2]
SHIPPED = 'retinanet_ghm_r50_fpn_1x_coco'
BASE = f"_base_ = __import__('ghmdet').config_path('{SHIPPED}')\n"


def sections(file):
    """Text of a page by heading; a comment in a code block begins with one # only."""
    parts = re.split(r'^## (.+)\n', (ROOT / file).read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def blocks(file):
    """Fenced blocks by heading and number below it."""
    return {
        (heading, number): code
        for heading, text in sections(file).items()
        for number, (_, code) in enumerate(re.findall(r'```(\w*)\n(.*?)```', text, re.DOTALL))
    }


SECTIONS, BLOCKS = sections('docs/train/configs.md'), blocks('docs/train/configs.md')


def rows(heading):
    """Cells of the table below a heading."""
    lines = [line for line in SECTIONS[heading].splitlines() if line[:1] == '|']
    return [[cell.strip() for cell in line.strip('|').split(' | ')] for line in lines[2:]]


def read(text, folder):
    """Read a block as a config, below the GHM recipe unless it says what it inherits."""
    has_base = text.lstrip().startswith('_base_') and '_base_ =' in text.splitlines()[0]
    inherits = has_base or 'read_base' in text
    (folder / 'pets.py').write_text(text if inherits else BASE + text)
    return Config.fromfile(folder / 'pets.py')


def load(monkeypatch, *words):
    """Read the config that a command line of train.py names."""
    monkeypatch.setattr(sys, 'argv', ['train.py', *words])
    return arguments.load_config(train_tool.parse_args())


def check_values(cfg, expected):
    for key, value in expected.items():
        found = cfg
        for name in key.split('.'):
            found = found[int(name)] if name.isdigit() else getattr(found, name)
        assert found == value, key


# --- blocks -----------------------------------------------------------------------------------


def overrides(text, folder, monkeypatch, capsys):
    python, tool, *words = shlex.split(text.replace('\\\n', ' '))
    assert python == 'python'
    assert (ROOT / tool).is_file()
    monkeypatch.setenv('LOCAL_RANK', '0')
    expected = {
        'optim_wrapper.optimizer.lr': 0.005,
        'load_from': None,
        'auto_scale_lr': dict(enable=True, base_batch_size=16),
        'model.backbone.out_indices': (0, 1, 2, 3),
        'model.neck.in_channels': [512, 512, 1024, 2048],
        'model.bbox_head.anchor_generator.ratios': [0.4, 1.0, 2.5],
        'train_dataloader.dataset.metainfo.classes': ('cat', 'dog'),
        'train_dataloader.dataset.pipeline.2.scale': [(1333, 640), (1333, 800)],
    }
    check_values(load(monkeypatch, *words), expected)


PRINT = 'tools/misc/print_config.py CONFIG --cfg-options optim_wrapper.optimizer.lr=0.005'


def print_config(words, folder, monkeypatch, capsys):
    focal = "model = dict(bbox_head=dict(loss_cls=dict(_delete_=True, type='FocalLoss')))\n"
    (folder / 'pets.py').write_text(BASE + focal)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', words.replace('CONFIG', 'pets.py').split())
    runpy.run_path(str(ROOT / words.split()[0]), run_name='__main__')
    return capsys.readouterr().out


def prints(text, *fixtures):
    assert text.split() == ['python', *PRINT.split()]
    out = print_config(PRINT, *fixtures)
    assert re.search(r'optimizer=dict\(\s*lr=0.005', out)
    assert "'FocalLoss'" in out


def prints_origins(text, *fixtures):
    found = print_config(f'{PRINT} --origin', *fixtures).splitlines()
    assert [line for line in text.splitlines() if line not in found] == []


def own_parts(text, folder, monkeypatch, capsys):
    (folder / 'mypackage').mkdir()
    (folder / 'mypackage' / 'backbones.py').write_text(BLOCKS['Your own parts', 1])
    monkeypatch.syspath_prepend(str(folder))
    backbone = MODELS.build(read(text, folder).model.backbone)
    assert (type(backbone).__name__, backbone.width) == ('MyBackbone', 8)


def seen_above(text, *fixtures):
    """The part that the config above it names: checked with it."""
    assert 'class MyBackbone(' in text


def refused(text, folder, *fixtures):
    cfg = read('model = dict(bbox_head=dict(loss_cls=dict(binz=3)))', folder)
    with pytest.raises(ConfigError) as caught, name_the_key(cfg, {}):
        MODELS.build(cfg.model)
    assert text == f'error: {caught.value}\n'


def own_transform(text, *fixtures):
    namespace = {}
    exec(text, namespace)
    step = TRANSFORMS.build(dict(type='Negative'))
    TRANSFORMS.module_dict.pop('Negative')
    assert step(dict(img=np.uint8([[[0, 5, 255]]])))['img'].tolist() == [[[255, 250, 0]]]


RESIZE = dict(type='Resize', scale=(640, 400), keep_ratio=True)
PETS = {
    'model.bbox_head.num_classes': 2,
    'model.bbox_head.loss_cls': dict(
        type='GHMC', bins=30, momentum=0.75, use_sigmoid=True, loss_weight=1.0
    ),
}


def augmentation(text, folder, *fixtures):
    """A crop of at most 640 x 640 with its boxes, and a batch of that size."""
    cfg = read(text, folder)
    steps = [TRANSFORMS.build(step) for step in cfg.train_dataloader.dataset.pipeline]
    results = dict(
        img=np.zeros((900, 700, 3), np.uint8),
        gt_bboxes=np.array([[0, 0, 700, 900]], np.float32),
        gt_bboxes_labels=np.array([1]),
        gt_ignore_flags=np.array([False]),
    )
    for step in steps[2:]:
        results = step(results)
    assert results['data_samples'].gt_instances.labels.tolist() == [1]
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    batch = preprocessor(pseudo_collate([results]), training=True)
    assert batch['inputs'].shape == (1, 3, 640, 640)


CHECKS = {  # values of the config that a block makes, or a function
    ('Inherit', 0): PETS,
    ('Inherit by import', 0): PETS
    | {
        'optim_wrapper.optimizer': dict(type='SGD', lr=0.005, momentum=0.9, weight_decay=0.0001),
        'train_cfg': dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=1),
    },
    ('Replace instead of merge', 0): {
        'model.bbox_head.loss_cls': dict(type='FocalLoss', gamma=2.0, alpha=0.25),
        'model.bbox_head.loss_bbox.type': 'GHMR',
    },
    ('Replace instead of merge', 1): {
        'train_dataloader.dataset.pipeline.2': RESIZE,
        'train_dataloader.dataset.pipeline.3': dict(type='RandomFlip', prob=0.5),
        'val_dataloader.dataset.pipeline.1.scale': (1333, 800),
    },
    ('Derived values', 0): {
        'data_root': 'data/coco/',
        'train_dataloader.dataset.data_root': '/data/pets/',
        'val_dataloader.dataset.data_root': 'data/coco/',
    },
    ('Derived values', 1): {
        'optim_wrapper.optimizer.lr': 0.0025,
        'optim_wrapper.optimizer.momentum': 0.9,
    },
    ('Override on the command line', 0): overrides,
    ('Mistakes', 0): refused,
    ('See the result', 0): prints,
    ('See the result', 1): prints_origins,
    ('Your own parts', 0): own_parts,
    ('Your own parts', 1): seen_above,
    ('Your own parts', 2): own_transform,
    ('Augmentation', 0): augmentation,
    ('Anchors', 0): {
        'model.bbox_head.anchor_generator.octave_base_scale': 2,
        'model.bbox_head.anchor_generator.scales_per_octave': 3,
    },
}


def test_no_example_is_without_a_check():
    assert sorted(BLOCKS) == sorted(CHECKS)
    tables = [name for name, text in SECTIONS.items() if '|---|' in text]
    assert tables == ['Inherit', 'Common changes']
    assert [code for code, _ in rows('Inherit')] == [f'`{code}`' for code in BASES]
    assert [wish for wish, _ in rows('Common changes')] == list(CHANGES)


@pytest.mark.parametrize('key', CHECKS, ids=lambda key: f'{key[0]}-{key[1]}')
def test_example(key, tmp_path, monkeypatch, capsys):
    check = CHECKS[key]
    if isinstance(check, dict):
        check_values(read(BLOCKS[key], tmp_path), check)
    else:
        check(BLOCKS[key], tmp_path, monkeypatch, capsys)


# --- statements beside the blocks ---------------------------------------------------------------

BASES = {
    "_base_ = './other.py'": {'model': dict(type='A', width=1)},
    "_base_ = ['model.py', 'data.py']": {'model': dict(type='B'), 'data_root': '/data/'},
    f"_base_ = 'ghmdet::ghm/{SHIPPED}.py'": {'model.bbox_head.loss_cls.bins': 30},
}


@pytest.mark.parametrize('code', BASES)
def test_base(code, tmp_path):
    (tmp_path / 'other.py').write_text("model = dict(type='A', width=1)")
    (tmp_path / 'model.py').write_text("model = dict(type='B')")
    (tmp_path / 'data.py').write_text("data_root = '/data/'")
    check_values(read(code, tmp_path), BASES[code])


CLASSES = 'train_dataloader.dataset.metainfo.classes'


@pytest.mark.parametrize(
    ('quoted', 'key', 'value', 'expected'),
    [
        ('"{1}"', CLASSES, "('cat',)", ('cat',)),
        ('"{1}"', CLASSES, "('traffic light','car')", ('traffic light', 'car')),
        (
            *('`{0}="{1}"`', 'model.neck.norm_cfg', "{'type': 'GN', 'num_groups': 32}"),
            dict(type='GN', num_groups=32),
        ),
    ],
)
def test_values_on_the_command_line(monkeypatch, quoted, key, value, expected):
    assert quoted.format(key, value) in SECTIONS['Override on the command line']
    check_values(load(monkeypatch, SHIPPED, '--cfg-options', f'{key}={value}'), {key: expected})


def test_the_switch_for_the_data_root(monkeypatch):
    text = SECTIONS['Derived values']
    (option,) = re.findall(r'`(--data-root [^`]+)`', text)
    (variable,) = re.findall(r'`(GHMDET_\w+)=/data/pets`', text)
    (alias,) = re.findall(r'`(--cfg-options [^`]+)`', text)
    for words in (option.split(), alias.split(), []):
        if not words:
            monkeypatch.setenv(variable, '/data/pets')
        cfg = load(monkeypatch, SHIPPED, *words)
        for split in ('train', 'val', 'test'):
            assert cfg[f'{split}_dataloader'].dataset.data_root == '/data/pets/'


@pytest.mark.parametrize('tool', [train_tool, test_tool], ids=['train', 'test'])
def test_options_for_speed_are_known_to_both_tools(tool, monkeypatch, capsys):
    named = set(re.findall(r'\*\*`(--[\w-]+)`\*\*', sections('docs/train/train.md')['Faster']))
    assert named == {'--amp', '--compile'}
    monkeypatch.setattr(sys, 'argv', ['tool', '--help'])
    with pytest.raises(SystemExit):
        tool.parse_args()
    assert named <= set(re.findall(r'--[\w-]+', capsys.readouterr().out))


# --- common changes ---------------------------------------------------------------------------


class Parts:
    """What is built of a config."""

    def __init__(self, cfg, folder):
        self.cfg = cfg
        file = folder / 'val.json'
        file.write_text(json.dumps(dict(images=[], annotations=[], categories=[])))
        evaluators = (cfg.val_evaluator, cfg.test_evaluator)
        self.metrics = [METRICS.build(dict(each, ann_file=str(file))) for each in evaluators]
        with torch.device('meta'):
            self.model = MODELS.build(cfg.model).train()
        self.steps = [TRANSFORMS.build(step) for step in cfg.train_dataloader.dataset.pipeline]
        self.hooks = [HOOKS.build(hook) for hook in cfg.get('custom_hooks', ())]
        self.finite_steps = HOOKS.build(cfg.default_hooks.finite_steps)
        self.backends = [
            VISBACKENDS.get(each.type).__name__ for each in cfg.visualizer.vis_backends
        ]

    @property
    def weights_of_four_steps(self):
        """A weight whose gradient and learning rate are 1."""
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        wrapper = OPTIM_WRAPPERS.build(dict(self.cfg.optim_wrapper, optimizer=optimizer))
        (weight,) = optimizer.param_groups[0]['params']
        found = []
        for _ in range(4):
            with wrapper.optim_context(torch.nn.Identity()):
                loss = weight.sum()
            wrapper.update_params(loss)
            found.append(weight.item())
        return found


C, R = 'model.bbox_head.loss_cls', 'model.bbox_head.loss_bbox'
CHANGES = {
    'larger images, in training and test': {
        'steps.2.scale': (1600, 1000),
        'cfg.val_dataloader.dataset.pipeline.1.scale': (1600, 1000),
        'cfg.test_dataloader.dataset.pipeline.1.scale': (1600, 1000),
    },
    '24 epochs instead of 12': {
        'cfg.train_cfg.max_epochs': 24,
        'cfg.param_scheduler.1': dict(
            type='MultiStepLR', begin=0, end=24, by_epoch=True, milestones=[16, 22], gamma=0.1
        ),
    },
    'fewer frozen layers: -1 none, 0 the stem, 4 the whole backbone': {
        'model.backbone.conv1.weight.requires_grad': False,
        'model.backbone.layer1.0.conv1.weight.requires_grad': True,
    },
    'fewer boxes on the same object': {'cfg.model.test_cfg.nms.iou_threshold': 0.4},
    'a stop when AP has not risen by 0.001 in five validations': {
        'hooks.0.__class__.__name__': 'EarlyStoppingHook',
        'hooks.0.min_delta': 0.001,
        'hooks.0.patience': 5,
    },
    'training from scratch': {
        'model.backbone.init_cfg.0': dict(type='Kaiming', layer='Conv2d'),
        'model.backbone.conv1.weight.requires_grad': True,
        'model.backbone.layer1.0.conv1.weight.requires_grad': True,
        'model.backbone.bn1.training': True,
    },
    'less memory (`peak_memory` in the log, in MB): activation checkpointing': {
        'model.backbone.layer1.0.with_cp': True
    },
    'gradient accumulation over four batches': {'weights_of_four_steps': [1.0, 1.0, 1.0, 0.0]},
    'multi-scale training': {
        'steps.2.scales': [(1333, 640), (1333, 800)],
        'cfg.val_dataloader.dataset.pipeline.1.scale': (1333, 800),
    },
    'crowd and `ignore` regions ignored instead of background': {
        'model.bbox_head.assigner.ignore_iof_thr': 0.5
    },
    'plain cross entropy, to compare GHM with': {
        f'{C}.__class__.__name__': 'CrossEntropyLoss',
        f'{R}.__class__.__name__': 'GHMR',
        f'{C}.use_sigmoid': True,
    },
    'moving average of the weights': {'hooks.0.__class__.__name__': 'EMAHook'},
    'GHM counts of the current step only': {f'{C}.momentum': 0, f'{R}.momentum': 0},
    'GHM weights unbiased from the first step': {
        f'{C}.bias_correct': True,
        f'{R}.bias_correct': True,
    },
    'no GHM weight above 20': {f'{C}.max_weight': 20, f'{R}.max_weight': 20, f'{C}.bins': 30},
    'GHM bins, weights and counts in the log': {'hooks.0.interval': 50},
    'the loss of the validation set: `val/loss`, `val/loss_cls`, `val/loss_bbox`': {
        'cfg.val_cfg': dict(type='ValLoop', compute_loss=True)
    },
    'an error after 3 successive steps without a finite loss, instead of 10': {
        'finite_steps.max_in_a_row': 3
    },
    'per-class AP': {'metrics.0.classwise': True, 'metrics.1.classwise': True},
    'pycocotools instead of faster-coco-eval': {
        'metrics.0.backend': 'pycocotools',
        'metrics.1.backend': 'pycocotools',
    },
    'curves in TensorBoard': {'backends': ['LocalVisBackend', 'TensorboardVisBackend']},
}


@pytest.mark.parametrize(('wish', 'code'), rows('Common changes'))
def test_common_change(wish, code, tmp_path):
    assert code[0] == code[-1] == '`'
    check_values(Parts(read(code[1:-1], tmp_path), tmp_path), CHANGES[wish])


# --- other pages ------------------------------------------------------------------------------


def test_readme_data_block_is_a_config(tmp_path):
    cfg = read(blocks('README.md')['Your own data', 0], tmp_path)
    common = dict(type='CocoDataset', data_root='/data/pets/', data_prefix=dict(img='images/'))
    for split, file in (('train', 'train.json'), ('val', 'val.json'), ('test', 'val.json')):
        dataset = dict(common, ann_file=file, metainfo=dict(classes=('cat', 'dog')))
        expected = {f'{split}_dataloader.dataset.{key}': value for key, value in dataset.items()}
        check_values(cfg, expected)
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == '/data/pets/val.json'
    assert Parts(cfg, tmp_path).model.bbox_head.num_classes == 2


PAGES = ['README.md', 'CONTRIBUTING.md', 'configs/README.md']
PAGES += sorted(ROOT.glob('examples/*/README.md'))
PAGES += sorted(ROOT.glob('docs/**/*.md'))


def anchors(page):
    """Names of the headings of a page, as GitHub links to them."""
    text = re.sub('```.*?```', '', page.read_text(), flags=re.DOTALL)
    headings = re.findall(r'^#+ (.+)$', text, flags=re.MULTILINE)
    return [re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page).replace(f'{ROOT}/', ''))
def test_links_lead_somewhere(page):
    page = ROOT / page
    for link in re.findall(r'\]\((?!http)([^)]+)\)', page.read_text()):
        file, _, anchor = link.partition('#')
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize('page', ['README.md', 'docs/tour.md', 'docs/use/checkpoints.md'])
def test_files_that_a_page_names_exist(page):
    names = set(re.findall(r'`(?:python )?([\w/]+\.py)\b', (ROOT / page).read_text()))
    folders = [ROOT, ROOT / 'ghmdet', ROOT / 'ghmdet' / 'checkpoint']
    assert names
    assert [n for n in names if not any((folder / n).is_file() for folder in folders)] == []


def test_the_readme_is_a_page_of_150_lines():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 150
