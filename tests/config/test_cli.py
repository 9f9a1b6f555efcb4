"""How a program ends when something is wrong."""

import argparse
import os
import signal
import subprocess
import sys
import time

import pytest
from mmengine.logging import MMLogger
from torch.utils.data import DataLoader

import ghmdet
from ghmdet.config import cli

SHOWN = '(--debug shows where in the code)'


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a program of this body; gives exit code, stdout and stderr."""

    def run(body, *words, rank=None):
        def main():
            parser = argparse.ArgumentParser()
            parser.add_argument('--need', required=True)
            cli.add_debug_argument(parser)
            parser.parse_args()
            print('begun')
            body()

        monkeypatch.setattr(sys, 'argv', ['program', *(words or ['--need=1'])])
        monkeypatch.setattr(MMLogger, '_instance_dict', dict(MMLogger._instance_dict))
        monkeypatch.delenv('RANK', raising=False)
        sys.stderr.reconfigure(errors='backslashreplace')  # as Python's own
        if rank is not None:
            monkeypatch.setenv('RANK', rank)
        try:
            cli.run(main)
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    MMLogger._instance_dict.clear()
    return run


def test_the_message_is_all(run):
    def fail():
        raise ValueError('expected 3, got 4')

    assert run(fail) == (1, 'begun\n', f'error: expected 3, got 4\n{SHOWN}\n')
    for words, rank, name in [(['--need=1', '--debug'], None, ''), ([], '2', 'rank 2: ')]:
        code, _, text = run(fail, *words, rank=rank)  # each process of several shows its traceback
        assert (code, text[:33]) == (1, 'Traceback (most recent call last)')
        assert text.endswith(f'\nerror: {name}expected 3, got 4\n')


def test_the_traceback_goes_to_a_file_beside_the_log(run, tmp_path):
    def fail():
        MMLogger.get_instance('x', log_file=str(tmp_path / '1.log'))
        raise ValueError('expected 3, got \udcff')

    file = tmp_path / 'error.log'
    for count in (1, 2):
        text = run(fail)[2]
        assert text.splitlines()[-1] == f'{SHOWN[:-1]}; the traceback is in {file})'
        assert file.read_text().count('ValueError: expected 3') == count
        assert file.read_text().count('--need=1\nTraceback') == count
    run(fail, rank='1')
    assert 'ValueError: expected 3' in (tmp_path / 'error_rank1.log').read_text()


def test_wrong_arguments_and_exits_of_its_own(run):
    code, _, text = run(lambda: None, '--nead=1')
    assert code == 2
    assert text.endswith('error: the following arguments are required: --need\n')
    assert run(lambda: sys.exit(7)) == (7, 'begun\n', '')
    assert run(lambda: None) == (0, 'begun\n', '')


def test_interrupt():
    body = "print('begun', flush=True); import time; time.sleep(60)"
    script = f'from ghmdet.config import cli\ndef main():\n    {body}\ncli.run(main)'
    command = [sys.executable, '-c', script]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout.readline() == 'begun\n'
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == 'interrupted\n'


# The module needs only the standard library; importing ghmdet itself takes half a second.
UNREAD = """
import logging, socket, sys, types
sys.modules['ghmdet'] = package = types.ModuleType('ghmdet')
package.__path__ = {path}
from ghmdet.config import cli
def main():
    {body}
cli.run(main)
"""
LOG = 'logging.StreamHandler(sys.stdout).handle(logging.makeLogRecord(dict(msg=1)))'
HINT = f'{SHOWN}\n'


@pytest.mark.skipif(sys.platform == 'win32', reason='its pipes have no EPIPE')
@pytest.mark.parametrize(
    ('body', 'output', 'code', 'error'),
    [
        ('print(1)', 'pipe', 141, ''),  # written at the end
        ('print(1); sys.exit()', 'pipe', 141, ''),
        ('print(1, flush=True); 1 / 0', 'pipe', 141, ''),
        (f'{LOG}; 1 / 0', 'pipe', 141, ''),
        ('sys.stdout.buffer.write(bytes(9000)); 1 / 0', 'pipe', 141, ''),
        ('print(1, flush=True); 1 / 0', 'terminal', 141, ''),
        ('print(1, file=sys.stderr); 1 / 0', 'both', 141, None),
        (f'cli.outlive_readers(); {LOG}; print(1, flush=True); sys.exit(7)', 'pipe', 7, ''),
        (f'cli.outlive_readers(); {LOG}; print(1, flush=True)', 'terminal', 0, ''),
        # What is no fault of stdout keeps its message.
        ('print(1); raise ValueError("at line 3")', 'pipe', 1, f'error: at line 3\n{HINT}'),
        ('print(1); raise KeyboardInterrupt', 'pipe', 130, 'interrupted\n'),
        ('print(1); sys.exit("no such")', 'pipe', 1, 'no such\n'),
        (
            'a, b = socket.socketpair(); b.close(); a.sendall(b"1")',
            *('pipe', 1, f'error: [Errno 32] Broken pipe\n{HINT}'),
        ),
        ('print(1)', 'full', 120, f'error: [Errno 28] No space left on device\n{HINT}'),
        ('print(1); raise KeyboardInterrupt', 'closed', 130, 'interrupted\n'),
    ],
)
def test_output_that_nobody_reads(body, output, code, error):
    if output == 'full':
        writer = os.open('/dev/full', os.O_WRONLY)
    else:
        reader, writer = os.openpty() if output == 'terminal' else os.pipe()
        os.close(reader)
    command = [sys.executable, '-c', UNREAD.format(path=ghmdet.__path__, body=body)]
    if output == 'closed':
        command = ['sh', '-c', '"$0" "$@" >&-', *command]
    stderr = writer if output == 'both' else subprocess.PIPE
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONUNBUFFERED'}
    done = subprocess.run(command, stdout=writer, stderr=stderr, text=True, env=env, timeout=60)
    os.close(writer)
    if output == 'full':  # Python tells of it again at its end
        assert done.stderr.startswith(error)
    else:
        assert (done.returncode, done.stderr) == (code, error)


def test_modules_of_the_current_folder_are_found_after_all_others(run, tmp_path, monkeypatch):
    """As with `ghmdet train`, also in the programs that `compare` starts."""
    monkeypatch.setattr(sys, 'path', sys.path[:])
    monkeypatch.chdir(tmp_path)
    for name in ('argparse', 'own_parts'):
        (tmp_path / f'{name}.py').write_text('here = True')
    body = "import own_parts, argparse; print(own_parts.here, hasattr(argparse, 'here'))"
    assert run(lambda: exec(body))[1] == 'begun\nTrue False\n'


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (KeyError('img'), "KeyError: 'img'"),
        (KeyError('steps.2: a list of 2 items'), 'steps.2: a list of 2 items'),
        (IndexError('list index out of range'), 'IndexError: list index out of range'),
        (AttributeError("'A' has no attribute 'b'"), "AttributeError: 'A' has no attribute 'b'"),
        (AssertionError(), 'AssertionError'),
        (RuntimeError('CUDA out of memory, 3 MB free'), 'CUDA out of memory, 3 MB free'),
        (ValueError('bad'), 'ValueError: bad'),
        (subprocess.SubprocessError('no git'), 'no git'),
        (FileNotFoundError(2, 'No such file', 'a.json'), "[Errno 2] No such file: 'a.json'"),
        (TypeError('1 + None in <a.b.Hook object at 0x7f1234>'), '1 + None'),
        (TypeError('class `A` in a/b.py: class `B` in c.py: no x there'), 'no x there'),
    ],
)
def test_description(error, expected):
    assert cli.describe(error) == expected


class Broken:
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 4

    def __getitem__(self, index):
        try:
            raise self.error
        except Exception as cause:
            raise type(self.error)(*self.error.args) from cause


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (ValueError('image 7.jpg\nis truncated'), 'image 7.jpg\nis truncated'),
        (KeyError('img'), "KeyError: 'img'"),
        (ZeroDivisionError('division by zero'), 'ZeroDivisionError: division by zero'),
    ],
)
def test_an_error_of_a_loader_worker_is_its_own_message(error, expected):
    with pytest.raises(type(error), match='Original Traceback') as caught:
        list(DataLoader(Broken(error), num_workers=1))
    assert cli.describe(caught.value) == expected
