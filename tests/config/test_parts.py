"""Values of a config that can be written and read back, and arguments that are not as annotated."""

import argparse
import datetime
import logging
import math
import re
from collections import OrderedDict, namedtuple
from enum import Enum, IntEnum
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import torch
from mmengine.config import Config

from ghmdet.config.arguments import read_config
from ghmdet.config.cfg_options import merge_options
from ghmdet.config.origins import origins_of
from ghmdet.config.parts import _warn, find_mismatches, make_plain
from ghmdet.registry import MODELS


class Colour(Enum):
    RED = 'red'


class Level(IntEnum):
    HIGH = 3


Size = namedtuple('Size', 'width height')


@pytest.mark.parametrize(
    ('value', 'plain'),
    [
        (PurePosixPath('data/coco'), 'data/coco'),
        (PureWindowsPath('D:/data'), 'D:\\data'),
        (Colour.RED, 'red'),
        (Level.HIGH, 3),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.bool_(True), True),
        (np.str_('a'), 'a'),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (torch.tensor([1.5, 2]), [1.5, 2.0]),
        (torch.tensor(7), 7),
        (torch.bfloat16, 'bfloat16'),
        (np.dtype('float32'), 'float32'),
        (torch.device('cuda:1'), 'cuda:1'),
        (Size(3, 4), (3, 4)),
        ({Colour.RED}, {'red'}),
        ([(Path('a'), [np.int8(1)])], [('a', [1])]),
    ],
)
def test_plain_equivalents(value, plain):
    found = make_plain(dict(model=dict(x=value)))['model']['x']
    assert found == plain
    assert type(found) is type(plain)


def test_plain_values_stay_the_same_objects():
    values = dict(
        *([('a', [1, (2.5, None, True, 'x')])],),
        b={'c', 1},
        d=frozenset('e'),
        f=...,
        g=b'h',
        i=1j,
        j=range(3),
        k=dict(type=torch.optim.SGD),
        m=OrderedDict(n=math.inf),
    )
    before = dict(values)
    make_plain(values)
    assert all(values[key] is before[key] for key in before)


@pytest.mark.parametrize('home', ['~', '~/data', '~/data/train.json'])
def test_the_home_folder(home, monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    expected = home.replace('~', str(tmp_path))
    cfg = Config(dict(model=dict(init_cfg=[dict(checkpoint='x')])))
    merge_options(cfg, {'model.init_cfg.0.checkpoint': home, 'work_dir': home})
    assert (cfg.model.init_cfg[0].checkpoint, cfg.work_dir) == (expected, expected)
    assert make_plain(dict(model=Path(home)))['model'] == expected


@pytest.mark.parametrize('text', ['~x', 'a~/b', '~~', ' ~/a', 's3://~/a'])
def test_other_texts_with_a_tilde_stay(text):
    assert make_plain(dict(model=text))['model'] == text


def local():
    """A function of this module."""


@pytest.mark.parametrize(
    'value',
    [
        lambda: 1,
        datetime.date(2020, 1, 1),
        re.compile('a'),
        object(),
        iter([1]),
        argparse.Namespace(lr=1),
        local,
        torch.nn.ReLU(),
    ],
)
def test_what_cannot_be_written_is_refused(value):
    told = r'^model\.steps\.1\.x: expected a text, number, list, dict or None.* got the '
    with pytest.raises(TypeError, match=told + type(value).__name__):
        make_plain(dict(model=dict(steps=[1, dict(x=value)])))


def test_advice_to_give_a_part_by_name():
    with pytest.raises(TypeError, match=r"a part is given by name: dict\(type='\.\.\.'\)"):
        make_plain(dict(model=torch.nn.ReLU()))
    assert make_plain(dict(model=dict(type='ReLU'))) == dict(model=dict(type='ReLU'))
    assert isinstance(MODELS.build(dict(type='ReLU')), torch.nn.ReLU)


@pytest.mark.parametrize('part', [lambda: 1, type('Inner', (), {})])
def test_a_type_must_be_importable(part):
    with pytest.raises(TypeError, match=r'^model\.type: '):
        make_plain(dict(model=dict(type=part)))


def test_variables_that_cannot_be_written_are_removed(tmp_path):
    file = tmp_path / 'a.py'
    file.write_text(
        '_base_ = []\n'
        'from pathlib import Path\nimport re, os\nfrom enum import Enum\n'
        'class Mine: pass\n'
        "here = Path('data')\npattern = re.compile('a')\n"
        "model = dict(type='X', path=here / 'x', Path=1)\n"
    )
    cfg = read_config(str(file))
    assert cfg.to_dict() == dict(here='data', model=dict(type='X', path='data/x', Path=1))
    found = {key: origin for key, _, origin in origins_of(cfg).list_leaves(cfg, 'changed')}
    assert found == dict.fromkeys(['here', 'model.Path', 'model.path', 'model.type'], str(file))


def test_capital_names_of_the_release_candidates(monkeypatch, tmp_path):
    warned = []
    monkeypatch.setattr(
        'ghmdet.config.parts.print_log', lambda text, **kw: warned.append((text, kw))
    )
    _warn.cache_clear()
    file = tmp_path / 'a.py'
    file.write_text(
        "metainfo = dict(CLASSES=('dog',), PALETTE=[(1, 2, 3)])\n"
        'train_dataloader = dict(dataset=dict(metainfo=metainfo, CLASSES=1))\n'
        "val_dataloader = dict(dataset=dict(metainfo=dict(CLASSES=('cat',), classes=('dog',))))\n"
    )
    cfg = read_config(str(file))
    assert cfg.train_dataloader.dataset == dict(
        metainfo=dict(classes=('dog',), palette=[(1, 2, 3)]), CLASSES=1
    )
    assert cfg.val_dataloader.dataset.metainfo == dict(classes=('dog',))
    assert [text for text, _ in warned] == [
        'metainfo.CLASSES is taken as metainfo.classes, its name since 3.0',
        'metainfo.PALETTE is taken as metainfo.palette, its name since 3.0',
    ]
    assert all(each['level'] == logging.WARNING for _, each in warned)
    list(origins_of(cfg).list_leaves(cfg, 'changed'))


class Base:
    def __init__(self, width: int, names: list[str] | None = None) -> None: ...


class Part(Base):
    def __init__(self, scale: float, other: 'NoSuchName' = 1, **kwargs: object) -> None: ...  # noqa: F821


class Annotated(Base):
    def __init__(self, scale: float = 1, path: str | Path = '', **kwargs) -> None: ...


def test_arguments_that_are_not_as_annotated():
    given = dict(scale='x', width=[1], names=('a',), path=Path(), extra=object())
    assert dict(find_mismatches(Annotated, given)) == dict(
        scale='float', width='int', names='list[str] | None'
    )
    assert dict(find_mismatches(Annotated, dict(scale=3, width=True, names=None, path='x'))) == {}
    assert dict(find_mismatches(Part, dict(scale='x', width='x'))) == dict(width='int')
    assert dict(find_mismatches(local, dict(a=1))) == {}
    for names in ('ab', ['a', 1]):
        assert dict(find_mismatches(Base, dict(names=names))) == dict(names='list[str] | None')
