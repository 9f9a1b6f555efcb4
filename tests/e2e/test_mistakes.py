"""Common mistakes through the command line: each ends in a message that names what is wrong.

A mistake is a change of the data, lines added to the tiny config, or arguments.
"""

import json
import shutil
import struct
import zlib
from dataclasses import dataclass, field

import cv2
import pytest
import torch

from tests.e2e.conftest import scalars, write_config

LIMIT = 20  # seconds


@dataclass
class Mistake:
    name: str
    facts: tuple
    """What the message must contain."""
    data: object = None
    """Changes the copied data set in a folder."""
    extra: str = ''
    """Lines added to the config."""
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
        replaced = change(content)
        file.write_text(json.dumps(content if replaced is None else replaced))

    return act


def raw(change):
    """Change the bytes of the annotation file."""

    def act(root):
        file = root / 'annotations' / 'train.json'
        file.write_bytes(change(file.read_bytes()))

    return act


def image(change, name='train/00003.jpg'):
    return lambda root: change(root / name)


def all_annotations(**values):
    return edit(lambda data: [ann.update(values) for ann in data['annotations']] and None)


def annotation(**values):
    return edit(lambda data: data['annotations'][4].update(values))


def picture(**values):
    return edit(lambda data: data['images'][2].update(values))


def category(split='train', **values):
    return edit(lambda data: data['categories'][1].update(values), split)


def without(key):
    return edit(lambda data: data.pop(key) and None)


def png_header(width, height):
    """A PNG of this size, with one chunk of zeros."""

    def chunk(kind, content):
        sum_ = struct.pack('>I', zlib.crc32(kind + content))
        return struct.pack('>I', len(content)) + kind + content + sum_

    head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    body = chunk(b'IDAT', zlib.compress(bytes(100)))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + body + chunk(b'IEND', b'')


M = Mistake


def in_json(name, change, *facts):
    """A mistake in the annotation file, which the message names."""
    return Mistake(name, ('train.json', *facts), change)


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
    # --- the annotation file
    in_json(
        'all boxes empty',
        all_annotations(bbox=[3, 3, 0, 0]),
        *('train_dataloader has no box to learn from', 'width or height is 0', 'placeholders'),
    ),
    in_json('no objects', edit(lambda d: d.update(annotations=[])), 'the file has no annotations'),
    in_json('all crowd', all_annotations(iscrowd=1), 'set iscrowd to 0 for single objects'),
    in_json('no area', all_annotations(area=0), "the key 'area' is 0", 'write width x height'),
    in_json('truncated', raw(lambda text: text[:200]), 'JSON', 'line 1'),
    in_json('empty', raw(lambda text: b'')),
    in_json('not UTF-8', raw(lambda text: text.replace(b'circle', b'c\xff\xferc'))),
    in_json('nested', raw(lambda text: b'[' * 100_000)),
    in_json(
        'nested in an image',
        raw(lambda t: t.replace(b'"images": [', b'"images": [' + b'[' * 100_000 + b'], ', 1)),
    ),
    in_json('a list', edit(lambda data: data['images']), 'list'),
    in_json('no images', without('images'), 'images'),
    in_json('no categories', without('categories'), 'categories'),
    in_json('no annotations', without('annotations'), 'annotations'),
    in_json('zero images', edit(lambda data: data.update(images=[], annotations=[]))),
    in_json('unknown image id', annotation(image_id=777), '777'),
    in_json('unknown category id', annotation(category_id=777), '777'),
    in_json('two images with one id', picture(id=1), 'id'),
    in_json('two annotations with one id', annotation(id=1), 'id'),
    in_json('two categories with one id', category(id=1)),
    in_json('two categories with one name', category(name='circle'), 'circle'),
    in_json('three numbers', annotation(bbox=[1, 2, 3]), 'bbox'),
    in_json('a box of text', annotation(bbox=['1', '2', '3', '4']), 'bbox'),
    in_json('a box of nothing', annotation(bbox=None), 'bbox'),
    in_json('NaN in a box', annotation(bbox=[float('nan'), 1, 5, 5]), 'bbox'),
    in_json('infinity in a box', annotation(bbox=[1, 1, float('inf'), 5]), 'bbox'),
    in_json('a box at 1e308', annotation(bbox=[1e308, 1, 5, 5]), 'annotation id 5'),
    in_json('no width', edit(lambda d: d['images'][2].pop('width') and None), 'width'),
    in_json('width as text', picture(width='160'), 'width'),
    in_json('width below 0', picture(width=-160), 'width'),
    in_json('no file name', picture(file_name=None), 'file_name'),
    M('outside by ..', ('../', 'allow'), picture(file_name='../../secret.jpg')),
    M('absolute', ('/etc/passwd',), picture(file_name='/etc/passwd')),
    in_json('a class renamed', category(name='squares'), "'square' (did you mean 'squares'?)"),
    M('a class missing in val', ('square', 'val.json'), category('val', name='box')),
    # --- images
    M('missing image', ('00003.jpg',), image(lambda file: file.unlink())),
    M('empty image', ('00003.jpg',), image(lambda file: file.write_bytes(b''))),
    M('cut image', ('train/00003.jpg',), image(lambda f: f.write_bytes(f.read_bytes()[:-600]))),
    M('text for an image', ('00003.jpg',), image(lambda file: file.write_text('hello' * 99))),
    M('huge header', ('00003.jpg',), image(lambda f: f.write_bytes(png_header(40_000, 30_000)))),
    M('another size', ('00003.jpg', 'annotation file says 80x'), picture(width=80)),
    M(
        'sides swapped',
        ('00003.jpg',),
        edit(lambda d: [i.update(width=111, height=99) for i in d['images']] and None),
    ),
    M('corrupt in val', ('00002.jpg',), image(lambda f: f.write_text('x'), 'val/00002.jpg')),
    # --- classes and head
    option(
        '80 classes',
        'model.bbox_head.num_classes=80',
        *('num_classes is 80', '3 classes', 'circle'),
        extra='#',
    ),
    option('4 classes', 'model.bbox_head.num_classes=4', 'num_classes', '4', '3'),
    option('no classes at all', 'model.bbox_head.num_classes=0', 'num_classes', '0'),
    option('a class as text', f'{TRAIN}.metainfo.classes=circle', "'circle'", 'str', 'comma'),
    M(
        'val in another order',
        ('circle', 'train_dataloader', 'val_dataloader'),
        extra="val_dataloader['dataset']['metainfo'] = dict("
        "classes=('square', 'circle', 'triangle'))\n",
    ),
    option(
        'evaluator reads another file',
        'val_evaluator.ann_file={root}/annotations/train.json',
        *('val_evaluator', 'CocoMetric', 'annotations/train.json', 'val_dataloader'),
    ),
    # --- paths
    option('no such JSON', f'{TRAIN}.ann_file=annotations/trian.json', 'trian.json', 'ann_file'),
    option('no such folder', f'{TRAIN}.data_prefix.img=trian/', 'trian', 'data_prefix.img'),
    option('no such root', f'{TRAIN}.data_root=nowhere/', 'nowhere', 'data_root'),
    M('work dir is a file', ('tiny.py',), args=('--work-dir', 'tiny.py')),
    # --- config
    M('no such config', ('nowhere.py', 'retinanet_ghm_r50_fpn_1x_coco'), args=('nowhere.py',)),
    M('broken', ('broken.py', '2'), args=('broken.py',), files={'broken.py': 'a = 1\nb = (\n'}),
    M('no base', ('no.py',), args=('child.py',), files={'child.py': "_base_ = 'no.py'\n"}),
    M('no model', ('model',), args=('bare.py',), files={'bare.py': "work_dir = 'x'\n"}),
    M(
        '2.x keys',
        ('samples_per_gpu', 'train_dataloader.batch_size'),
        extra='data = dict(samples_per_gpu=2)\n',
    ),
    option('unknown loss', f'{LOSS}.type=GHMCC', 'GHMCC', 'GHMC', LOSS, 'ghmdet::model'),
    option(
        'unknown backbone', 'model.backbone.type=ResNett', 'ResNett', 'ResNet', 'model.backbone'
    ),
    option('misspelt argument', f'{LOSS}.binz=3', "'binz'", 'bins', f'{LOSS} (GHMC)'),
    M(
        'left over from the base',
        ("'bins'", '_delete_=True', LOSS),
        extra="model['bbox_head']['loss_cls'] = dict(type='FocalLoss')\n",
    ),
    option('momentum 1', f'{LOSS}.momentum=1.0', 'momentum', 'got 1.0', f'{LOSS} (GHMC)'),
    option('no bins', f'{LOSS}.bins=0', 'bins', '0'),
    option('mu 0', 'model.bbox_head.loss_bbox.mu=0', 'mu', '0'),
    option('channels', 'model.neck.in_channels=[64,128,256,128]', 'in_channels', '128'),
    option('levels', 'model.bbox_head.anchor_generator.strides=[8,16,32,64]', 'strides', '3'),
    option('lr as text', 'optim_wrapper.optimizer.lr=fast', 'lr', 'fast'),
    option('lr below 0', 'optim_wrapper.optimizer.lr=-1', 'lr', '-1'),
    option('unknown optimizer', 'optim_wrapper.optimizer.type=SDG', 'SDG', 'SGD'),
    option('batch size 0', 'train_dataloader.batch_size=0', 'batch_size', '0'),
    option('workers below 0', 'train_dataloader.num_workers=-1', 'num_workers', '-1'),
    option('no epochs', 'train_cfg.max_epochs=0', 'max_epochs', '0'),
    option('empty pipeline', f'{TRAIN}.pipeline=[]', 'pipeline'),
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
    option(
        'unknown transform',
        f'{TRAIN}.pipeline.2.type=Resizee',
        *('Resizee', 'Resize', 'train_dataloader'),
    ),
    option(
        'best by an unknown key',
        'default_hooks.checkpoint.save_best=coco/bbox_mAP51',
        *('mAP51', 'coco/bbox_mAP'),
    ),
    M(
        'unknown key, strict',
        ('modle', 'model'),
        args=('--strict',),
        extra='modle = dict(type=1)\n',
    ),
    option(
        'misspelt option, strict',
        'model.bbox_hed.num_classes=3',
        *('bbox_hed', 'bbox_head'),
        args=('--strict',),
    ),
    option('option without =', 'train_cfg.max_epochs', 'train_cfg.max_epochs', code=2),
    M('unknown argument', ('--workdir',), args=('--workdir', 'x'), code=2),
    M(
        'no base batch size',
        ('base_batch_size',),
        args=('--auto-scale-lr',),
        extra='auto_scale_lr = dict(_delete_=True)\n',
    ),
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
        'test with other classes',
        *('num_classes', '3'),
        options=(
            'model.bbox_head.num_classes=2',
            'test_dataloader.dataset.metainfo.classes=(circle,square)',
        ),
    ),
    in_testing(
        'test with another order',
        *('{checkpoint}', "2 of 3 classes differ: number 0 is 'circle' in the file, 'square' in"),
        options=('test_dataloader.dataset.metainfo.classes=(square,circle,triangle)',),
    ),
    in_testing('test of a cut checkpoint', 'cut.pth', 'truncated', args=('cut.pth',)),
    in_testing('test without checkpoint', 'nowhere.pth', args=('nowhere.pth',)),
    in_testing('test without a checkpoint named', 'checkpoint', args=(), code=2),
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
    return [arg.format(checkpoint=checkpoint, root=root) for arg in args]


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


def rename_images(data, name):
    for each in data['images']:
        each['id'] = name(each['id'])
    for each in data['annotations']:
        each['image_id'] = name(each['image_id'])


def remove_optional(data):
    for each in data['annotations']:
        each.pop('area', None), each.pop('iscrowd', None)


RIGHT = {
    'missing area and iscrowd': edit(remove_optional),
    'string ids': edit(lambda data: rename_images(data, 'i{}'.format)),
    'huge ids': edit(lambda data: rename_images(data, lambda i: 10**25 + i)),
    'one box empty': annotation(bbox=[3, 3, 0, 0]),
    'grey': image(lambda f: cv2.imwrite(str(f), cv2.imread(str(f), 0))),
    'UTF-8 mark': raw(lambda text: b'\xef\xbb\xbf' + text),
}


@pytest.mark.parametrize('name', RIGHT)
def test_trains_all_the_same(name, server, shapes, checkpoint, tmp_path):
    args = prepare(Mistake(name, (), RIGHT[name]), shapes, checkpoint, tmp_path)
    done = server('train.py', args, tmp_path)
    assert done['code'] == 0, done['stderr'][-3000:]
    weights = torch.load(tmp_path / 'work_dirs/tiny/epoch_1.pth', weights_only=False)['state_dict']
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
