"""Overrides of a config from the command line."""

import argparse

import pytest
from mmengine.config import Config

from ghmdet.config.cfg_options import add_cfg_options, merge_options, parse_value
from ghmdet.config.parts import value_at


def make():
    return Config(
        dict(
            model=dict(type='A', widths=[1, 2, 3], sizes=((4, 5), (6, 7))),
            steps=[dict(type='Load'), dict(type='Resize', scale=(8, 9))],
        )
    )


def parse(*words):
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    return parser.parse_args(['--cfg-options', *words] if words else []).cfg_options


CASES = [
    (['model.type=B'], 'model.type', 'B'),
    (['model.deep.new.key=1e-3'], 'model.deep.new.key', 0.001),
    (['model.widths=[4,5]'], 'model.widths', [4, 5]),
    (['model.widths="(4,5)"'], 'model.widths', (4, 5)),
    (['model.widths=4,5'], 'model.widths', [4, 5]),
    (['model.widths="[(1,2),[a,None],True]"'], 'model.widths', [(1, 2), ['a', None], True]),
    (['model.widths.1=7'], 'model.widths', [1, 7, 3]),
    (['model.widths.0=7', 'model.widths.2=9'], 'model.widths', [7, 2, 9]),
    (['model.widths="[4,5]"', 'model.widths.0=7'], 'model.widths', [7, 5]),
    (['model.widths.1="[7,8]"'], 'model.widths', [1, [7, 8], 3]),
    (['model.sizes.1.0=0'], 'model.sizes', ((4, 5), (0, 7))),
    (['steps.1.scale="(1,2)"'], 'steps', [dict(type='Load'), dict(type='Resize', scale=(1, 2))]),
    (['steps.1.scale.0=1'], 'steps', [dict(type='Load'), dict(type='Resize', scale=(1, 9))]),
    (['steps.0.deep.new=1'], 'steps.0', dict(type='Load', deep=dict(new=1))),
    (['model._delete_=True', 'model.type=B'], 'model', dict(type='B')),
]


@pytest.mark.parametrize(('words', 'key', 'expected'), CASES, ids=lambda case: str(case)[:40])
def test_override(words, key, expected):
    cfg, before = make(), make().to_dict()
    merge_options(cfg, parse(*words))
    after = cfg.to_dict()
    found = value_at(after, key)
    assert (found, type(found)) == (expected, type(expected))
    other = 'steps' if key.startswith('model') else 'model'
    assert after[other] == before[other]


@pytest.mark.parametrize(
    ('option', 'error', 'told'),
    [
        ('steps.2.scale=1', KeyError, 'steps.2.scale: a list of 2 items, numbered from 0, has no'),
        ('model.widths.3=1', KeyError, "model.widths.3: a list of 3 items.*has no '3'"),
        ('model.widths.-1=1', KeyError, "has no '-1'"),
        ('steps.first.scale=1', KeyError, "has no 'first'"),
        ('model.widths.0.x=1', TypeError, "model.widths.0.x: cannot set 'x' in 1, which is"),
        ('model=net', TypeError, 'model=net: model is a dict, set one of its keys: model.type, '),
        ('model.type.x=1', TypeError, "x.*cannot inherit from base|type.*is of type <class 'str'>"),
    ],
)
def test_keys_that_lead_nowhere(option, error, told):
    with pytest.raises(error, match=told):
        merge_options(make(), parse(option))


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ("('traffic light', 'car')", ('traffic light', 'car')),
        ('(traffic light,car)', ('traffic light', 'car')),
        ("{'type': 'GN', 'num_groups': 4}", dict(type='GN', num_groups=4)),
        ('(a,b),(c,d)', [('a', 'b'), ('c', 'd')]),
        ("[a, 'b, c', 1e3]", ['a', 'b, c', 1000.0]),
        ('(cat)', ('cat',)),
        ('[(cat)]', [('cat',)]),
        ("['1', 2]", ['1', 2]),
        ("it's", "it's"),
        ('data/(old)/x', 'data/(old)/x'),
        ('1,', [1]),
        ('()', ()),
        ('', ''),
        ("'None'", None),
        ('s3://bucket/x', 's3://bucket/x'),
    ],
)
def test_value(text, expected):
    found = parse_value(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ('word', 'told'),
    [
        ('foo', "--cfg-options expects KEY=VALUE without blanks around =, got 'foo'"),
        ('=3', "got '=3'"),
        ('a..b=3', "got 'a..b=3'"),
        ('a =3', "got 'a =3'"),
        ('a=[1,2', "--cfg-options a=[1,2: cannot read '[1,2': each bracket must be closed"),
        ('a=1,2)', "--cfg-options a=1,2): cannot read '1,2)'"),
        ('a=(b),c(d)', 'texts with brackets need quotes'),
        ('a={b:c}', "cannot read '{b:c}'"),
    ],
)
def test_words_that_cannot_be_read(word, told, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(word)
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


def test_several_options_add_up():
    assert parse('a=1', '--cfg-options', 'b=2', 'a=3') == dict(a=3, b=2)
    assert parse() == {}


def test_none_gives_way_to_a_dict_and_a_dict_to_none():
    for words in (['norm.type=GN', 'norm.groups=4'], ["norm={'type': 'GN', 'groups': 4}"]):
        cfg = Config(dict(norm=None, other=1))
        merge_options(cfg, parse(*words))
        assert cfg.to_dict() == dict(norm=dict(type='GN', groups=4), other=1)
    merge_options(cfg, parse('norm=None'))
    assert cfg.norm is None
