"""Mistakes through the command line, one of each kind: a message names what is wrong.

A mistake is a change of the data, lines added to the tiny config, or arguments. What else the
checks behind these messages find is tested where they stand.
"""

import json
import shutil
from dataclasses import dataclass, field

import cv2
import pytest
import torch

from tests.e2e.conftest import scalars, weights, write_config

LIMIT = 20  # seconds


@dataclass
class Mistake:
    name: str
    facts: tuple  # what the message must contain
    data: object = None  # changes the copied data set in a folder
    extra: str = ''  # lines added to the config
    args: tuple = ()
    options: tuple = ()
    program: str = 'train.py'
    code: int = 1
    files: dict = field(default_factory=dict)


def edit(change, split='train'):
    """Change the content of an annotation file."""

    def act(root):
        file = root / 'annotations' / f'{split}.json'
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return act


def raw(change):
    """Change the bytes of the annotation file."""

    def act(root):
        file = root / 'annotations' / 'train.json'
        file.write_bytes(change(file.read_bytes()))

    return act


def image(change, name='train/00003.jpg'):
    return lambda root: change(root / name)


def annotation(**values):
    return edit(lambda data: data['annotations'][4].update(values))


def picture(**values):
    return edit(lambda data: data['images'][2].update(values))


def category(split='train', **values):
    return edit(lambda data: data['categories'][1].update(values), split)


M = Mistake


def option(name, value, *facts, **more):
    """A mistake in one option of --cfg-options."""
    return Mistake(name, facts, options=(value,), **more)


def in_testing(name, *facts, args=('{checkpoint}',), **more):
    """A mistake in the arguments of test.py."""
    return Mistake(name, facts, program='test.py', args=args, **more)


LOSS = 'model.bbox_head.loss_cls'
TRAIN = 'train_dataloader.dataset'
WILD = (
    *('optim_wrapper.optimizer.lr=1e30', 'optim_wrapper.clip_grad=None'),
    *('train_cfg.max_epochs=3', 'train_cfg.val_interval=9'),
    'default_hooks.finite_steps.max_in_a_row=3',
)
MISTAKES = [
    # --- data
    M('truncated', ('train.json', 'JSON', 'line 1'), raw(lambda text: text[:200])),
    M('not UTF-8', ('train.json',), raw(lambda text: text.replace(b'circle', b'c\xff\xferc'))),
    M('nested', ('train.json',), raw(lambda text: b'[' * 100_000)),
    M('no images', ('train.json',), edit(lambda data: data.update(images=[], annotations=[]))),
    M('unknown image id', ('train.json', '777'), annotation(image_id=777)),
    M('three numbers', ('train.json', 'bbox'), annotation(bbox=[1, 2, 3])),
    M('outside by ..', ('../', 'allow'), picture(file_name='../../secret.jpg')),
    M(
        'a class renamed',
        ('train.json', "'square' (did you mean 'squares'?)"),
        category(name='squares'),
    ),
    M('a class missing in val', ('square', 'val.json'), category('val', name='box')),
    M('missing image', ('00003.jpg',), image(lambda file: file.unlink())),
    M('cut image', ('train/00003.jpg',), image(lambda f: f.write_bytes(f.read_bytes()[:-600]))),
    M('another size', ('00003.jpg', 'annotation file says 80x'), picture(width=80)),
    M('corrupt in val', ('00002.jpg',), image(lambda f: f.write_text('x'), 'val/00002.jpg')),
    # --- classes and head
    option('80 classes', 'model.bbox_head.num_classes=80', 'num_classes is 80', '3 classes'),
    option('a class as text', f'{TRAIN}.metainfo.classes=circle', "'circle'", 'str', 'comma'),
    # --- paths
    option('no such JSON', f'{TRAIN}.ann_file=annotations/trian.json', 'trian.json', 'ann_file'),
    option('no such folder', f'{TRAIN}.data_prefix.img=trian/', 'trian', 'data_prefix.img'),
    option('no such root', f'{TRAIN}.data_root=nowhere/', 'nowhere', 'data_root'),
    M('work dir is a file', ('tiny.py',), args=('--work-dir', 'tiny.py')),
    # --- config
    M('no such config', ('nowhere.py', 'retinanet_ghm_r50_fpn_1x_coco'), args=('nowhere.py',)),
    M('broken', ('broken.py', '2'), args=('broken.py',), files={'broken.py': 'a = 1\nb = (\n'}),
    M('no model', ('model',), args=('bare.py',), files={'bare.py': "work_dir = 'x'\n"}),
    option('unknown loss', f'{LOSS}.type=GHMCC', 'GHMCC', 'GHMC', LOSS, 'ghmdet::model'),
    option('misspelt argument', f'{LOSS}.binz=3', "'binz'", 'bins', f'{LOSS} (GHMC)'),
    option('momentum 1', f'{LOSS}.momentum=1.0', 'momentum', 'got 1.0', f'{LOSS} (GHMC)'),
    option('channels', 'model.neck.in_channels=[64,128,256,128]', 'in_channels', '128'),
    option('lr as text', 'optim_wrapper.optimizer.lr=fast', 'lr', 'fast'),
    option('unknown optimizer', 'optim_wrapper.optimizer.type=SDG', 'SDG', 'SGD'),
    option('empty pipeline', f'{TRAIN}.pipeline=[]', 'pipeline'),
    option(
        'misspelt option, strict',
        'model.bbox_hed.num_classes=3',
        *('bbox_hed', 'bbox_head'),
        args=('--strict',),
    ),
    option('option without =', 'train_cfg.max_epochs', 'train_cfg.max_epochs', code=2),
    option(
        'base batch size 0',
        'auto_scale_lr.base_batch_size=0',
        *('--auto-scale-lr', 'auto_scale_lr.base_batch_size', 'got 0'),
        args=('--auto-scale-lr',),
    ),
    # --- while training: one step is made, then nothing is finite
    M(
        'diverges',
        (
            'training stops at iteration 4 (epoch 2): loss or gradients were not finite in 3 steps',
            'iteration 4 (epoch 2): loss nan, loss_cls nan, loss_bbox nan\n',
            *('train/000', 'work_dirs/tiny/epoch_1.pth'),
        ),
        options=WILD,
    ),
    # --- checkpoints
    option('no such checkpoint', 'load_from=nowhere.pth', 'nowhere.pth'),
    option('a config as checkpoint', 'load_from=tiny.py', 'tiny.py', 'not a checkpoint'),
    M('resume of nothing', ('nowhere.pth',), args=('--resume', 'nowhere.pth')),
    option(
        'resume of another model',
        'model.bbox_head.stacked_convs=2',
        *('{checkpoint}', 'load_from'),
        args=('--resume', '{checkpoint}'),
    ),
    in_testing(
        'test with another order',
        *('{checkpoint}', "2 of 3 classes differ: number 0 is 'circle' in the file, 'square' in"),
        options=('test_dataloader.dataset.metainfo.classes=(square,circle,triangle)',),
    ),
    in_testing('test of a cut checkpoint', 'cut.pth', 'truncated', args=('cut.pth',)),
    in_testing(
        'detections to text',
        '--out must end in .json, .pkl or .pickle, got found.txt',
        args=('{checkpoint}', '--out', 'found.txt'),
        code=2,
    ),
    in_testing('no folder of images', "'nowhere'", args=('{checkpoint}', '--images', 'nowhere')),
]


@pytest.fixture(scope='session')
def checkpoint(trained):
    return trained[1] / 'epoch_2.pth'


def prepare(mistake, shapes, checkpoint, folder):
    """Write data, config and files of a mistake; return the arguments."""
    root = folder / 'data'
    shutil.copytree(shapes, root)
    if mistake.data is not None:
        mistake.data(root)
    write_config(folder / 'tiny.py', root, mistake.extra)
    for name, text in mistake.files.items():
        (folder / name).write_text(text)
    (folder / 'cut.pth').write_bytes(checkpoint.read_bytes()[:5000])
    named = any(arg.endswith('.py') and arg != 'tiny.py' for arg in mistake.args)
    args = [*(() if named else ('tiny.py',)), *mistake.args]
    options = ('train_cfg.max_epochs=1', *mistake.options)
    args += ['--cfg-options', *options] if mistake.name != 'no model' else []
    return [arg.format(checkpoint=checkpoint) for arg in args]


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob('*') if file.is_file()}


@pytest.mark.parametrize('mistake', MISTAKES, ids=lambda mistake: mistake.name)
def test_message(mistake, server, shapes, checkpoint, tmp_path):
    args = prepare(mistake, shapes, checkpoint, tmp_path)
    before = contents(tmp_path)
    done = server(mistake.program, args, tmp_path, LIMIT)
    assert done['code'] == mistake.code, done['stderr'][-3000:]
    assert 'Traceback' not in done['stderr'] + done['stdout']
    words = done['stderr'][done['stderr'].rindex('error: ') :]
    for text in mistake.facts:
        assert text.format(checkpoint=checkpoint) in words
    after = contents(tmp_path)
    assert {file: after.get(file) for file in before} == before
    if mistake.name == 'diverges':
        assert scalars(tmp_path / 'work_dirs/tiny', 'skipped_steps') == [1, 2]
    else:
        assert not [file for file in after if file.suffix == '.pth' and file not in before]
        assert scalars(tmp_path / 'work_dirs/tiny', 'loss') == []


def make_unusual(data):
    """Leave out what is optional; ids are strings."""
    for each in data['images']:
        each['id'] = f'i{each["id"]}'
    for each in data['annotations']:
        each['image_id'] = f'i{each["image_id"]}'
        each.pop('area', None), each.pop('iscrowd', None)


def act_unusual(root):
    edit(make_unusual)(root)
    file = root / 'train' / '00003.jpg'
    cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_GRAYSCALE))


RIGHT = {
    'string ids, no areas, a grey image': act_unusual,
    'all boxes empty': edit(lambda d: [a.update(bbox=[3, 3, 0, 0]) for a in d['annotations']]),
    'no objects': edit(lambda d: d.update(annotations=[])),
}


@pytest.mark.parametrize('name', RIGHT)
def test_trains_all_the_same(name, server, shapes, checkpoint, tmp_path):
    args = prepare(Mistake(name, (), RIGHT[name]), shapes, checkpoint, tmp_path)
    done = server('train.py', args, tmp_path)
    assert done['code'] == 0, done['stderr'][-3000:]
    state = weights(tmp_path / 'work_dirs/tiny/epoch_1.pth')
    assert all(bool(torch.isfinite(value).all()) for value in state.values())
