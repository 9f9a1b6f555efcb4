"""Config files in any encoding, and dumps that can be read back."""

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.config import config as config_module

from ghmdet import get_config
from ghmdet.config.arguments import read_config

CONFIG = "_base_ = []\nname = 'été'\nmodel = dict(names=['naïve', name])\n"
READ = dict(name='été', model=dict(names=['naïve', 'été']))
CODING = '# -*- coding: cp1252 -*-\n'


@pytest.mark.parametrize(
    'content',
    [
        CONFIG.encode('utf-8-sig'),
        CONFIG.encode('utf-16'),
        CONFIG.encode('utf-16-le'),
        CONFIG.replace('\n', '\r\n').encode(),
        (CODING + CONFIG).encode('cp1252'),
        ('#!/usr/bin/env python\n' + CODING + CONFIG).encode('cp1252'),
        ('# vim: set fileencoding=latin-1 :\n' + CONFIG).encode('latin-1'),
    ],
)
@pytest.mark.parametrize('inherited', [False, True])
def test_encodings(content, inherited, tmp_path):
    file = tmp_path / 'a.py'
    file.write_bytes(content)
    if inherited:
        file = tmp_path / 'b.py'
        file.write_text("_base_ = 'a.py'\n", encoding='utf-16')
    assert read_config(str(file)).to_dict() == READ


def test_encodings_of_lazy_configs_json_and_yaml(tmp_path):
    (tmp_path / 'a.py').write_text("model = dict(name='é')\n", encoding='utf-16')
    lazy = 'from mmengine.config import read_base\nwith read_base():\n    from .a import *\n'
    (tmp_path / 'b.py').write_text(lazy + "other = 'ü'\n", encoding='utf-8-sig')
    (tmp_path / 'c.json').write_text('{"model": {"name": "é"}}', encoding='utf-16')
    (tmp_path / 'd.yaml').write_bytes(b'\xef\xbb\xbfmodel:\r\n  name: \xc3\xa9\r\n')
    assert read_config(str(tmp_path / 'b.py')).to_dict() == dict(model=dict(name='é'), other='ü')
    for name in ('c.json', 'd.yaml'):
        assert read_config(str(tmp_path / name)).to_dict() == dict(model=dict(name='é'))


@pytest.mark.parametrize('first', ['', '# coding: nonsense\n'])
def test_advice_to_save_as_utf_8(first, tmp_path):
    file = tmp_path / 'a.py'
    file.write_bytes((first + CONFIG).encode('cp1252'))
    with pytest.raises(ValueError, match=rf'^{file}: ') as caught:
        read_config(str(file))
    assert 'nonsense' in str(caught.value) if first else 'save' in str(caught.value)
    file.write_text(CONFIG, encoding='utf-8')
    assert read_config(str(file)).to_dict() == READ


def test_the_home_folder_in_base(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'base.py').write_text('model = dict(a=1)\n')
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub/a.py').write_text("_base_ = '~/base.py'\n")
    assert get_config('~/sub/a.py').to_dict() == dict(model=dict(a=1))


VALUES = dict(
    model=dict(
        inf=math.inf,
        numbers=[-math.inf, (math.nan, 1e300, -0.0), 1e-320, 10**30, 1j, True, None, ...],
        keywords={'class': 1, 'lambda': 2, 'None': 3},
        keys={"it's": 1, 'a"b': 2, 'new\nline': 3, 'back\\slash': 4, '': 5, 'é': 6},
        mixed={1: 'a', '1': 'b', None: 'c', (1, 2): 'e', 2.5: 'f'},
        texts=[
            "it's",
            '"',
            'a\nb\n',
            '\\',
            '\\n',
            'é\u2028\x00',
            '{{ fileBasename }',
            '日本',
            '\ud800',
        ],
        nested=[[], (), {}, [()], ((1,),), [dict(a=[dict(b=())])]],
        sets=[{1, 2}, set(), frozenset('a'), {('a', 1)}],
        others=[b'a\x00', range(3)],
    ),
    data_root='C:\\new\\data',
)


@pytest.mark.parametrize('formatted', [True, False])
@pytest.mark.parametrize('part', [*VALUES['model'], None])
def test_a_dump_is_read_back(part, formatted, tmp_path):
    values = VALUES if part is None else dict(model={part: VALUES['model'][part]})
    Config(values, format_python_code=formatted).dump(tmp_path / 'a.py')
    read = get_config(tmp_path / 'a.py')
    assert repr(sorted(map(repr, flatten(read.to_dict())))) == repr(
        sorted(map(repr, flatten(values)))
    )


def flatten(node, key=()):
    """Every value with its path, whatever the order of the keys."""
    if isinstance(node, dict):
        yield key, 'dict', len(node)
        for name, value in node.items():
            yield from flatten(value, (*key, name))
    elif isinstance(node, list | tuple):
        yield key, type(node).__name__, len(node)
        for number, value in enumerate(node):
            yield from flatten(value, (*key, number))
    else:
        yield key, sorted(node, key=repr) if isinstance(node, set | frozenset) else node


def test_classes_are_written_by_name(tmp_path):
    cfg = Config(dict(model=dict(type=torch.nn.Linear, init=torch.zeros)))
    cfg.dump(tmp_path / 'a.py')
    assert get_config(tmp_path / 'a.py').model.type == 'torch.nn.modules.linear.Linear'


def test_where_the_formatter_fails(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise TypeError('unexpected keyword')

    monkeypatch.setattr(config_module, 'FormatCode', fail)
    Config(VALUES).dump(tmp_path / 'a.py')
    assert get_config(tmp_path / 'a.py').model.keywords == VALUES['model']['keywords']
