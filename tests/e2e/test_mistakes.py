"""Common mistakes through the command line: each ends in a message that names the culprit.

A mistake is a change of the data, lines added to the tiny config, or arguments. All run by one
process that has torch imported (fork_server.py).
"""

import json
import shutil
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.e2e.conftest import write_config

SERVER = Path(__file__).with_name('fork_server.py')
LIMIT = 20  # seconds


class Server:
    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, program, args, cwd, seconds=LIMIT):
        call = dict(program=program, args=[str(arg) for arg in args], cwd=str(cwd), seconds=seconds)
        self.process.stdin.write(json.dumps(call) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope='module')
def server():
    running = Server()
    yield running
    running.process.stdin.close()
    running.process.wait(10)


@pytest.fixture(scope='module')
def trained(server, shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp('right')
    config = write_config(folder / 'tiny.py', shapes)
    done = server('ghmdet.train', [config, '--cfg-options', 'train_cfg.max_epochs=1'], folder, 120)
    assert done['code'] == 0, done['stderr'][-3000:]
    return folder / 'work_dirs/tiny/epoch_1.pth'


@dataclass
class Mistake:
    """What is wrong, and what has to be said."""

    name: str
    told: tuple
    data: object = None
    """Changes the copied data set in a folder."""
    extra: str = ''
    """Lines added to the config."""
    args: tuple = ()
    options: tuple = ()
    program: str = 'ghmdet.train'
    code: int = 1
    files: dict = field(default_factory=dict)


def edit(change, split='train'):
    def act(root):
        file = root / 'annotations' / f'{split}.json'
        data = json.loads(file.read_text())
        replaced = change(data)
        file.write_text(json.dumps(data if replaced is None else replaced))

    return act


def raw(change, split='train'):
    def act(root):
        file = root / 'annotations' / f'{split}.json'
        file.write_bytes(change(file.read_bytes()))

    return act


def image(change, split='train', name='00003.jpg'):
    def act(root):
        change(root / split / name)

    return act


def all_annotations(**values):
    return edit(lambda data: [ann.update(values) for ann in data['annotations']] and None)


def annotation(**values):
    return edit(lambda data: data['annotations'][4].update(values))


def picture(**values):
    return edit(lambda data: data['images'][2].update(values))


def png_header(width, height):
    """A PNG of the size given, with one chunk of nothing."""

    def chunk(kind, content):
        sum_ = struct.pack('>I', zlib.crc32(kind + content))
        return struct.pack('>I', len(content)) + kind + content + sum_

    head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    body = chunk(b'IDAT', zlib.compress(bytes(100)))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + body + chunk(b'IEND', b'')


M = Mistake
TRAIN_JSON = 'train.json'
MISTAKES = [
    # --- the annotation file
    M('cut off', (TRAIN_JSON, 'JSON'), raw(lambda text: text[:300])),
    M('empty', (TRAIN_JSON,), raw(lambda text: b'')),
    M('not UTF-8', (TRAIN_JSON,), raw(lambda text: text.replace(b'circle', b'c\xff\xferc'))),
    M('nested', (TRAIN_JSON,), raw(lambda text: b'[' * 100_000)),
    M(
        'nested in an image',
        (TRAIN_JSON,),
        raw(lambda t: t.replace(b'"images": [', b'"images": [' + b'[' * 100_000 + b'], ', 1)),
    ),
    M('a list', (TRAIN_JSON, 'list'), edit(lambda data: data['images'])),
    M('no images', (TRAIN_JSON, 'images'), edit(lambda data: data.pop('images') and None)),
    M('no categories', (TRAIN_JSON, 'categories'), edit(lambda d: d.pop('categories') and None)),
    M('no annotations', (TRAIN_JSON, 'annotations'), edit(lambda d: d.pop('annotations') and None)),
    M('zero images', (TRAIN_JSON,), edit(lambda data: data.update(images=[], annotations=[]))),
    M('unknown image id', (TRAIN_JSON, '777'), annotation(image_id=777)),
    M('unknown category id', (TRAIN_JSON, '777'), annotation(category_id=777)),
    M('two images of an id', (TRAIN_JSON, 'id'), picture(id=1)),
    M('two annotations of an id', (TRAIN_JSON, 'id'), annotation(id=1)),
    M('two categories of an id', (TRAIN_JSON,), edit(lambda d: d['categories'][1].update(id=1))),
    M(
        'two categories of a name',
        (TRAIN_JSON, 'circle'),
        edit(lambda d: d['categories'][1].update(name='circle')),
    ),
    M('three numbers', (TRAIN_JSON, 'bbox'), annotation(bbox=[1, 2, 3])),
    M('a box of text', (TRAIN_JSON, 'bbox'), annotation(bbox=['1', '2', '3', '4'])),
    M('a box of nothing', (TRAIN_JSON, 'bbox'), annotation(bbox=None)),
    M('NaN in a box', (TRAIN_JSON, 'bbox'), annotation(bbox=[float('nan'), 1, 5, 5])),
    M('infinity in a box', (TRAIN_JSON, 'bbox'), annotation(bbox=[1, 1, float('inf'), 5])),
    M('a box at 1e308', (TRAIN_JSON, 'annotation id 5'), annotation(bbox=[1e308, 1, 5, 5])),
    M('no width', (TRAIN_JSON, 'width'), edit(lambda d: d['images'][2].pop('width') and None)),
    M('width as text', (TRAIN_JSON, 'width'), picture(width='160')),
    M('width below 0', (TRAIN_JSON, 'width'), picture(width=-160)),
    M('no file name', (TRAIN_JSON, 'file_name'), picture(file_name=None)),
    M('outside by ..', ('../', 'allow'), picture(file_name='../../secret.jpg')),
    M('absolute', ('/etc/passwd',), picture(file_name='/etc/passwd')),
    M(
        'a class renamed',
        ("'square'", 'squares', TRAIN_JSON),
        edit(lambda d: d['categories'][1].update(name='squares')),
    ),
    M(
        'a class missing in val',
        ('square', 'val.json'),
        edit(lambda d: d['categories'][1].update(name='box'), 'val'),
    ),
    # --- images
    M('missing image', ('00003.jpg',), image(Path.unlink)),
    M('empty image', ('00003.jpg',), image(lambda file: file.write_bytes(b''))),
    M('cut image', ('00003.jpg',), image(lambda f: f.write_bytes(f.read_bytes()[:-600]))),
    M('text for an image', ('00003.jpg',), image(lambda file: file.write_text('hello' * 99))),
    M('huge header', ('00003.jpg',), image(lambda f: f.write_bytes(png_header(40_000, 30_000)))),
    M('another size', ('00003.jpg', 'annotation file says 80x'), picture(width=80)),
    M(
        'sides swapped',
        ('00003.jpg',),
        edit(lambda d: [i.update(width=111, height=99) for i in d['images']] and None),
    ),
    M('corrupt in val', ('00002.jpg',), image(lambda f: f.write_text('x'), 'val', '00002.jpg')),
    # --- classes and head
    M(
        '80 classes',
        ('num_classes', '80', '3'),
        options=('model.bbox_head.num_classes=80',),
        extra='#',
    ),
    M('4 classes', ('num_classes', '4', '3'), options=('model.bbox_head.num_classes=4',)),
    M('no classes at all', ('num_classes', '0'), options=('model.bbox_head.num_classes=0',)),
    M(
        'a class as text',
        ("'circle'", 'comma'),
        options=('train_dataloader.dataset.metainfo.classes=circle',),
    ),
    M(
        'val in another order',
        ('circle', 'train_dataloader', 'val_dataloader'),
        extra="val_dataloader['dataset']['metainfo'] = dict("
        "classes=('square', 'circle', 'triangle'))\n",
    ),
    M(
        'evaluator reads another file',
        ('val_evaluator', TRAIN_JSON),
        options=('val_evaluator.ann_file={root}/annotations/train.json',),
    ),
    # --- paths
    M(
        'no such JSON',
        ('trian.json', 'ann_file'),
        options=('train_dataloader.dataset.ann_file=annotations/trian.json',),
    ),
    M(
        'no such folder',
        ('trian', 'data_prefix.img'),
        options=('train_dataloader.dataset.data_prefix.img=trian/',),
    ),
    M(
        'no such root',
        ('nowhere', 'data_root'),
        options=('train_dataloader.dataset.data_root=nowhere/',),
    ),
    M('work dir is a file', ('tiny.py',), args=('--work-dir', 'tiny.py')),
    # --- config
    M('no such config', ('nowhere.py',), args=('nowhere.py',)),
    M(
        'broken Python',
        ('broken.py', '2'),
        args=('broken.py',),
        files={'broken.py': 'a = 1\nb = (\n'},
    ),
    M(
        'no such base',
        ('nobase.py',),
        args=('child.py',),
        files={'child.py': "_base_ = 'nobase.py'\n"},
    ),
    M('no model', ('model',), args=('bare.py',), files={'bare.py': "work_dir = 'x'\n"}),
    M(
        '2.x keys',
        ('samples_per_gpu', 'train_dataloader.batch_size'),
        extra='data = dict(samples_per_gpu=2)\n',
    ),
    M(
        'unknown loss',
        ('GHMCC', 'GHMC', 'model.bbox_head.loss_cls'),
        options=('model.bbox_head.loss_cls.type=GHMCC',),
    ),
    M(
        'unknown backbone',
        ('ResNett', 'ResNet', 'model.backbone'),
        options=('model.backbone.type=ResNett',),
    ),
    M(
        'misspelt argument',
        ('binz', 'bins', 'model.bbox_head.loss_cls'),
        options=('model.bbox_head.loss_cls.binz=3',),
    ),
    M(
        'left over from the base',
        ("'bins'", '_delete_=True', 'model.bbox_head.loss_cls'),
        extra="model['bbox_head']['loss_cls'] = dict(type='FocalLoss')\n",
    ),
    M(
        'momentum 1',
        ('momentum', '1.0', 'model.bbox_head.loss_cls'),
        options=('model.bbox_head.loss_cls.momentum=1.0',),
    ),
    M('no bins', ('bins', '0'), options=('model.bbox_head.loss_cls.bins=0',)),
    M('mu 0', ('mu', '0'), options=('model.bbox_head.loss_bbox.mu=0',)),
    M('channels', ('in_channels', '128'), options=('model.neck.in_channels=[64,128,256,128]',)),
    M(
        'levels',
        ('strides', '3'),
        options=('model.bbox_head.anchor_generator.strides=[8,16,32,64]',),
    ),
    M('lr as text', ('lr', 'fast'), options=('optim_wrapper.optimizer.lr=fast',)),
    M('lr below 0', ('lr', '-1'), options=('optim_wrapper.optimizer.lr=-1',)),
    M('unknown optimizer', ('SDG', 'SGD'), options=('optim_wrapper.optimizer.type=SDG',)),
    M('batch size 0', ('batch_size', '0'), options=('train_dataloader.batch_size=0',)),
    M('workers below 0', ('num_workers', '-1'), options=('train_dataloader.num_workers=-1',)),
    M('no epochs', ('max_epochs', '0'), options=('train_cfg.max_epochs=0',)),
    M('empty pipeline', ('pipeline',), options=('train_dataloader.dataset.pipeline=[]',)),
    M(
        'no packing',
        ('PackDetInputs', 'pipeline'),
        extra="train_dataloader['dataset']['pipeline'] = train_pipeline[:3]\n",
    ),
    M(
        'no annotations loaded',
        ('LoadAnnotations',),
        extra="train_dataloader['dataset']['pipeline'] = "
        '[train_pipeline[0], *train_pipeline[2:]]\n',
    ),
    M(
        'unknown transform',
        ('Resizee', 'Resize', 'train_dataloader'),
        options=('train_dataloader.dataset.pipeline.2.type=Resizee',),
    ),
    M(
        'best by an unknown key',
        ('mAP51', 'coco/bbox_mAP'),
        options=('default_hooks.checkpoint.save_best=coco/bbox_mAP51',),
    ),
    M(
        'unknown key, strict',
        ('modle', 'model'),
        args=('--strict',),
        extra='modle = dict(type=1)\n',
    ),
    M(
        'misspelt option, strict',
        ('bbox_hed', 'bbox_head'),
        args=('--strict',),
        options=('model.bbox_hed.num_classes=3',),
    ),
    M('option without =', ('train_cfg.max_epochs',), options=('train_cfg.max_epochs',), code=2),
    M('unknown argument', ('--workdir',), args=('--workdir', 'x'), code=2),
    M(
        'no base batch size',
        ('base_batch_size',),
        args=('--auto-scale-lr',),
        extra='auto_scale_lr = dict(_delete_=True)\n',
    ),
    # --- while training
    M(
        'diverges',
        ('finite', 'loss_cls'),
        options=(
            'optim_wrapper.optimizer.lr=1e30',
            'train_cfg.max_epochs=6',
            'train_cfg.val_interval=9',
            'optim_wrapper.clip_grad=None',
        ),
    ),
    # --- checkpoints
    M('no such checkpoint', ('nowhere.pth',), options=('load_from=nowhere.pth',)),
    M('a config as checkpoint', ('tiny.py', 'not a checkpoint'), options=('load_from=tiny.py',)),
    M('resume of nothing', ('nowhere.pth',), args=('--resume', 'nowhere.pth')),
    M(
        'resume of another model',
        ('{checkpoint}', 'load_from'),
        args=('--resume', '{checkpoint}'),
        options=('model.bbox_head.stacked_convs=2',),
    ),
    M(
        'test with other classes',
        ('num_classes', '3'),
        program='ghmdet.test',
        args=('{checkpoint}',),
        options=(
            'model.bbox_head.num_classes=2',
            'test_dataloader.dataset.metainfo.classes=(circle,square)',
        ),
    ),
    M(
        'test with another order',
        ('circle', 'square', '{checkpoint}'),
        program='ghmdet.test',
        args=('{checkpoint}',),
        options=('test_dataloader.dataset.metainfo.classes=(square,circle,triangle)',),
    ),
    M(
        'test of a cut checkpoint',
        ('cut.pth', 'truncated'),
        program='ghmdet.test',
        args=('cut.pth',),
    ),
    M('test without checkpoint', ('nowhere.pth',), program='ghmdet.test', args=('nowhere.pth',)),
    M('test without a checkpoint named', ('checkpoint',), program='ghmdet.test', code=2),
    M(
        'detections to text',
        ('--out', 'found.txt'),
        program='ghmdet.test',
        args=('{checkpoint}', '--out', 'found.txt'),
        code=2,
    ),
]


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
    return [arg.format(checkpoint=checkpoint, root=root) for arg in args]


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob('*') if file.is_file()}


@pytest.mark.parametrize('mistake', MISTAKES, ids=lambda mistake: mistake.name)
def test_is_told(mistake, server, shapes, trained, tmp_path):
    args = prepare(mistake, shapes, trained, tmp_path)
    before = contents(tmp_path)
    done = server(mistake.program, args, tmp_path)
    assert done['code'] == mistake.code, done['stderr'][-3000:]
    assert 'Traceback' not in done['stderr'] + done['stdout']
    words = done['stderr'][done['stderr'].rindex('error: ') :]
    for text in mistake.told:
        assert text.format(checkpoint=trained) in words
    after = contents(tmp_path)
    assert {file: after.get(file) for file in before} == before
    if mistake.name != 'diverges':  # which ends in the fourth epoch, with finite weights
        assert not [file for file in after if file.suffix == '.pth' and file not in before]


RIGHT = [
    (
        'missing area and iscrowd',
        edit(
            lambda d: [(a.pop('area', 0), a.pop('iscrowd', 0)) for a in d['annotations']] and None
        ),
    ),
    (
        'string ids',
        edit(
            lambda d: (
                [i.update(id=f'i{i["id"]}') for i in d['images']]
                and [a.update(image_id=f'i{a["image_id"]}') for a in d['annotations']]
                and None
            )
        ),
    ),
    (
        'huge ids',
        edit(
            lambda d: (
                [i.update(id=10**25 + i['id']) for i in d['images']]
                and [a.update(image_id=10**25 + a['image_id']) for a in d['annotations']]
                and None
            )
        ),
    ),
    ('one box empty', annotation(bbox=[3, 3, 0, 0])),
    ('all boxes empty', all_annotations(bbox=[3, 3, 0, 0])),
    ('no objects', edit(lambda d: d.update(annotations=[]))),
    ('grey', image(lambda f: cv2.imwrite(str(f), cv2.imread(str(f), 0)))),
    ('UTF-8 mark', raw(lambda text: b'\xef\xbb\xbf' + text)),
]


@pytest.mark.parametrize(('name', 'data'), RIGHT, ids=[name for name, _ in RIGHT])
def test_trains_all_the_same(name, data, server, shapes, trained, tmp_path):
    mistake = Mistake(name, (), data)
    done = server('ghmdet.train', prepare(mistake, shapes, trained, tmp_path), tmp_path, 60)
    assert done['code'] == 0, done['stderr'][-3000:]
    weights = torch.load(tmp_path / 'work_dirs/tiny/epoch_1.pth', weights_only=False)['state_dict']
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    assert np.isfinite(weights['bbox_head.retina_cls.weight'].sum().item())
