"""A training or test goes on when nobody reads its output any more: real pipes and terminals."""

import os
import subprocess
import sys

import pytest

from tests.e2e.conftest import ENV, scalars

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='its pipes have no EPIPE')


def read_one_line(program, *words, config, output='pipe', stderr=-1):
    """Run a program and read one line of its stdout; return the line, exit code and stderr."""
    reader, writer = os.openpty() if output == 'terminal' else os.pipe()
    command = [sys.executable, '-m', f'ghmdet.{program}', config, *words]
    streams = dict(stdout=writer, stderr=writer if stderr == 'too' else stderr)
    cwd = config.parent
    with subprocess.Popen(command, **streams, text=True, env=ENV, cwd=cwd) as process:
        os.close(writer)
        with os.fdopen(reader) as file:
            line = file.readline()
        return line, process.wait(120), process.stderr and process.stderr.read()


def check_complete(config):
    """The training has all its steps in its files."""
    (log,) = config.parent.glob('work_dirs/tiny/*/2*.log')
    assert 'Epoch(val) [2][2/2]' in log.read_text()
    assert len(scalars(config.parent / 'work_dirs/tiny', 'loss')) == 6
    assert (config.parent / 'work_dirs/tiny/epoch_2.pth').is_file()


def test_a_training_goes_on_when_its_reader_has_ended(config):
    line, code, error = read_one_line('train', config=config)
    assert 'ghmdet ' in line
    assert code == 0, error
    assert 'Traceback' not in error
    assert 'Broken pipe' not in error
    check_complete(config)


@pytest.mark.long
@pytest.mark.parametrize('case', ['2>&1', 'terminal', 'spawn'])
def test_of_all_kinds(config, case):
    words = []
    if case == 'spawn':
        loaders = dict(num_workers=2, persistent_workers=True, multiprocessing_context="'spawn'")
        words = ['--cfg-options']
        words += [f'train_dataloader.{key}={value}' for key, value in loaders.items()]
    stderr = 'too' if case in ('2>&1', 'terminal') else -1
    output = 'terminal' if case == 'terminal' else 'pipe'
    _, code, error = read_one_line('train', *words, config=config, output=output, stderr=stderr)
    assert code == 0, error
    assert not error or 'Traceback' not in error
    check_complete(config)


@pytest.mark.long
def test_a_test_goes_on(trained):
    config, work_dir = trained
    words = work_dir / 'epoch_2.pth', '--work-dir', config.parent / 'tested'
    _, code, error = read_one_line('test', *words, config=config)
    assert (code, error) == (0, '')
    (metrics,) = config.parent.glob('tested/*/*.json')
    assert 'coco/bbox_mAP' in metrics.read_text()
