"""How a program ends when something is wrong."""

import os
import signal
import subprocess
import sys
import time

import pytest
from torch.utils.data import DataLoader

from ghmdet.config import cli

PROGRAM = """
import argparse, sys
from ghmdet.config import cli
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--need', required=True)
    cli.add_debug_argument(parser)
    parser.parse_args()
    print('begun', flush=True)
    {body}
cli.run(main)
"""
SHOWN = '(--debug shows where in the code)'


def run(body, *words, **env):
    env = {key: value for key, value in os.environ.items() if key != 'RANK'} | env
    words = words or ('--need=1',)
    command = [sys.executable, '-c', PROGRAM.format(body=body), *words]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_the_message_is_all():
    done = run("raise ValueError('expected 3, got 4')")
    assert (done.returncode, done.stdout) == (1, 'begun\n')
    assert done.stderr == f'error: expected 3, got 4\n{SHOWN}\n'


def test_debug_shows_the_traceback():
    done = run("raise ValueError('expected 3, got 4')", '--need=1', '--debug')
    assert done.returncode == 1
    assert done.stderr.startswith('Traceback (most recent call last):')
    assert done.stderr.endswith('\nerror: expected 3, got 4\n')


def test_the_traceback_goes_to_a_file_beside_the_log(tmp_path):
    log = tmp_path / 'run' / '1.log'
    log.parent.mkdir()
    body = f"""from mmengine.logging import MMLogger
    MMLogger.get_instance('x', log_file={str(log)!r})
    raise ValueError('expected 3, got \\udcff')"""
    for _ in range(2):
        done = run(body)
    file = log.with_name('error.log')
    assert done.stderr.splitlines()[-1] == f'{SHOWN[:-1]}; the traceback is in {file})'
    assert file.read_text().count('ValueError: expected 3') == 2
    assert file.read_text().count('--need=1\nTraceback') == 2


def test_each_process_of_several_keeps_its_traceback():
    done = run("raise ValueError('expected 3, got 4')", RANK='2')
    assert done.returncode == 1
    assert 'Traceback (most recent call last):' in done.stderr
    assert done.stderr.endswith('\nerror: rank 2: expected 3, got 4\n')


def test_wrong_arguments_and_exits_of_its_own():
    done = run('pass', '--nead=1')
    assert done.returncode == 2
    assert done.stderr.endswith('error: the following arguments are required: --need\n')
    done = run('raise SystemExit(7)')
    assert (done.returncode, done.stderr) == (7, '')
    assert run('pass').returncode == 0


def test_interrupt():
    command = [sys.executable, '-c', PROGRAM.format(body='import time; time.sleep(60)'), '--need=1']
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout.readline() == 'begun\n'
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == 'interrupted\n'


class Own(Exception):
    pass


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (KeyError('img'), "KeyError: 'img'"),
        (KeyError('steps.2: a list of 2 items'), 'steps.2: a list of 2 items'),
        (IndexError(3), 'IndexError: 3'),
        (IndexError('list index out of range'), 'IndexError: list index out of range'),
        (AttributeError("'A' has no attribute 'b'"), "AttributeError: 'A' has no attribute 'b'"),
        (AssertionError(), 'AssertionError'),
        (RuntimeError('CUDA out of memory, 3 MB free'), 'CUDA out of memory, 3 MB free'),
        (ValueError('bad'), 'ValueError: bad'),
        (Own('GHMCC is wrong'), 'GHMCC is wrong'),
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
        (ValueError('image 7.jpg\nis cut off'), 'image 7.jpg\nis cut off'),
        (KeyError('img'), "KeyError: 'img'"),
        (ZeroDivisionError('division by zero'), 'ZeroDivisionError: division by zero'),
    ],
)
def test_an_error_of_a_loader_worker_is_its_own_message(error, expected):
    with pytest.raises(type(error), match='Original Traceback') as caught:
        list(DataLoader(Broken(error), num_workers=1))
    assert cli.describe(caught.value) == expected
