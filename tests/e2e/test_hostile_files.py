"""Every way into the tools refuses a hostile file: its class is named and nothing is done."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from ghmdet.checkpoint.reader import TRUST_VARIABLE
from tests.hostile import HOSTILE, write

TOOLS = Path(__file__).parents[2] / 'tools'

# The tool, its arguments after the config, and one attack; tests/checkpoint/test_reader.py has all.
WAYS = {
    'test': ('test.py', '{}', 'os.system'),
    'resume': ('train.py', '--resume {}', 'subprocess'),
    'load_from': ('train.py', '--cfg-options load_from={}', 'eval'),
    'init_cfg': (
        'train.py',
        '--cfg-options model.init_cfg.type=Pretrained model.init_cfg.checkpoint={}',
        'open',
    ),
}


@pytest.fixture
def evil(tmp_path, monkeypatch):
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    marker = tmp_path / 'marker'

    def make(attack):
        content, told = HOSTILE[attack]
        return write(tmp_path / 'evil.pth', {'state_dict': {}, 'x': content(marker)}), told

    yield make
    assert not marker.exists()


def command(way, config, file):
    tool, arguments, _ = WAYS[way]
    work_dir = ['--work-dir', str(config.parent / 'work')]
    return [str(TOOLS / tool), str(config), *work_dir, *arguments.format(file).split()]


@pytest.mark.parametrize('way', WAYS)
def test_hostile_file_is_refused(config, evil, monkeypatch, capsys, way):
    """In this process, for speed."""
    file, told = evil(WAYS[way][2])
    argv = command(way, config, file)
    monkeypatch.setattr(sys, 'argv', argv)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(argv[0], run_name='__main__')
    assert caught.value.code == 1
    message = capsys.readouterr().err.rpartition('error: ')[2]
    assert f'{file} was refused: loading it would use ' in message
    assert told in message
    assert not list(config.parent.glob('work/*.pth'))


def test_the_exit_code_and_the_last_words(config, evil):
    file, _ = evil('os.system')
    done = subprocess.run(
        [sys.executable, *command('test', config, file)], capture_output=True, text=True
    )
    assert done.returncode == 1
    last_words, hint = done.stderr.strip().splitlines()[-2:]
    assert last_words.startswith('error: ')
    assert hint.startswith('(--debug shows where in the code; the traceback is in ')
    assert f'{file} was refused: loading it would use posix.system, and only' in last_words
    assert f'set {TRUST_VARIABLE}=1 in the environment' in last_words
