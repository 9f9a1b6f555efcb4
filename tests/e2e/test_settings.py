"""Each setting in turn gets a value of another kind: it works, or the error has its dotted key."""

import re

import pytest

from ghmdet import get_config
from ghmdet.config.parts import TOP_LEVEL_KEYS
from tests.e2e.conftest import write_config

VALUES = (None, 'x', 3, -1, [], {}, ('a', 'b'))
SECTIONS = ('train_dataloader', 'val_', 'model', 'default_hooks|custom_hooks', 'optim|param_', '')
EXTRA = """
train_cfg['max_epochs'] = 1
custom_hooks = [dict(type='PeakMemoryHook')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
"""


def keys_in(node, key=()):
    """The path of each value, except the items of lists of plain values."""
    if isinstance(node, list | tuple) and any(isinstance(each, dict) for each in node):
        node = dict(enumerate(node))
    for name, value in node.items() if isinstance(node, dict) else ():
        yield (*key, name)
        yield from keys_in(value, (*key, name))


def replace(node, key, value):
    """A copy with another value at a path."""
    if not key:
        return value
    name, *rest = key
    if isinstance(node, dict):
        return {**node, name: replace(node[name], rest, value)}
    return [replace(each, rest, value) if i == name else each for i, each in enumerate(node)]


def mistakes(values):
    """Every key with one of the values, so that neighbours have different ones."""
    skipped = ('work_dir', 'load_from', 'tta_model', 'tta_pipeline')
    keys = [key for key in keys_in(values) if key[0] in TOP_LEVEL_KEYS and key[0] not in skipped]
    for number, key in enumerate(key for key in keys if not key[0].startswith('test_')):
        yield key, VALUES[number % len(VALUES)]


def section_of(key):
    return next(each for each in SECTIONS if re.match(each, key[0]))


def is_named(key, told):
    """Whether a message has the key, that of the dict it is in, or the ends of either."""
    words = [*map(str, key)]
    names = [words, words[:-1] or words, words[-2:], words[-3:-1]]
    both = words[0] in told and words[-1] in told
    return both or any(len(name) > 1 and '.'.join(name) in told for name in names)


@pytest.mark.long
@pytest.mark.parametrize('section', SECTIONS)
def test_any_setting(section, shapes, server, tmp_path):
    values = get_config(write_config(tmp_path / 'tiny.py', shapes, EXTRA)).to_dict()
    wrong = []
    for key, value in mistakes(values):
        if section_of(key) != section:
            continue
        changed = replace(values, key, value)
        text = '\n'.join(f'{name} = {each!r}' for name, each in changed.items())
        (tmp_path / 'mine.py').write_text(text + '\n')
        done = server('train.py', ['mine.py', '--work-dir', 'out'], tmp_path)
        told = done['stderr'].rpartition('error: ')[2].partition('\n')[0]
        if done['code'] == 0 or (done['code'] == 1 and is_named(key, told)):
            continue
        wrong.append(f'{".".join(map(str, key))} = {value!r}: {done["code"]} {told}')
    assert not wrong, '\n'.join(wrong)


def test_the_home_folder(shapes, server, tmp_path):
    home, here = tmp_path / 'home', tmp_path / 'here'
    here.mkdir()
    home.mkdir()
    (home / 'data').symlink_to(shapes)
    write_config(home / 'tiny.py', '~/data', EXTRA)

    def run(program, *args):
        (done,) = server.run_together(program, args, here, [dict(HOME=str(home))])
        assert done['code'] == 0, done['stderr'][-2000:]

    run('train.py', '~/tiny.py', '--work-dir=~/runs/a')
    checkpoint = '~/runs/a/epoch_1.pth'
    run('test.py', '~/tiny.py', checkpoint, '--out=~/found.pkl', '--work-dir=~/b', '--show-dir=~/s')
    run('test.py', '~/tiny.py', checkpoint, '--images=~/data/val', '--work-dir=~/b')
    run('train.py', '~/tiny.py', '--work-dir=~/c', f'--resume={checkpoint}', '--data-root=~/data')
    run('check_dataset.py', '~/tiny.py', '--out=~/report', '--workers=0')
    run('model_converters/publish_model.py', checkpoint, '~/published.pth')
    run('dataset_converters/shapes.py', '--out=~/more', '--train=1', '--val=1')
    assert not list(here.rglob('~'))
    made = [file for file in home.iterdir() if file.name != '.cache']  # of the libraries
    assert sorted(file.name.partition('-')[0] for file in made) == sorted(
        ['data', 'tiny.py', 'runs', 'found.pkl', 'b', 's', 'c', 'report', 'published', 'more']
    )
