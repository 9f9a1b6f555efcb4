"""Which lines of a log the console shows, and the bar on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ghmdet.engine import build_runner
from tests.fork_server import ROOT
from tests.number_runs import number_cfg, own_scope

HIDDEN = (
    *('System environment', 'optim_wrapper = dict', 'Hooks will be executed', 'Exp name'),
    'Saving checkpoint at',
)


@RUNNERS.register_module(force=True)
class OtherRunner(Runner):
    """Logs like mmengine's, but is another package's."""

    def train(self):
        self.logger.info('of OtherRunner')
        return super().train()


def cfg_of(folder, **changes):
    cfg = number_cfg(folder, [1] * 4, epochs=2, log_level='INFO', **changes)
    cfg.val_dataloader, cfg.val_cfg = cfg.train_dataloader, dict()
    cfg.val_evaluator = dict(type='RisingMetric')
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=2)
    return cfg


def run(cfg, **arguments):
    with own_scope():
        runner = build_runner(cfg, **arguments)
        runner.train()
    return runner


def file_of(runner):
    return os.path.join(runner.log_dir, f'{runner.timestamp}.log')


@pytest.mark.parametrize('kind', ['Runner', 'OtherRunner'])
def test_the_console_has_what_a_person_needs_and_the_file_has_all(tmp_path, capsys, kind):
    runner = run(cfg_of(tmp_path, runner_type=kind))
    shown = capsys.readouterr().out
    with open(file_of(runner)) as file:
        log = file.read()
    for text in ('Training begins', 'Epoch(train) [1][2/4]', 'up: 1 ', 'Saved epoch_1.pth'):
        assert text in shown
        assert text in log
    for text in HIDDEN:
        assert text not in shown
        assert text in log
    assert ('of OtherRunner' in shown) == (kind == 'OtherRunner')
    assert shown.index('Epoch(train)') > 0
    assert len(shown[: shown.index('Epoch(train)')].splitlines()) <= 40


def test_verbose_shows_the_whole_file(tmp_path, capsys):
    runner = run(cfg_of(tmp_path), verbose=True)
    shown = re.sub(r'\x1b\[\d+m', '', capsys.readouterr().out)
    with open(file_of(runner)) as file:
        log = re.sub(r'^\d{4}/', '', file.read(), flags=re.MULTILINE)
    # mmengine writes how the parameters were initialised to the file only.
    assert set(shown.splitlines()) <= set(log.splitlines())
    for text in HIDDEN:
        assert text in shown


def test_warnings_of_mmengine_are_shown(tmp_path, capsys):
    with own_scope():
        runner = build_runner(cfg_of(tmp_path))
    capsys.readouterr()
    source = "def log(logger):\n    logger.info('told')\n    logger.warning('warned')\n"
    of_servers = 'mmengine.visualization.vis_backend'  # also where the server answers
    names = {'mmengine.runner.runner': 1, 'mmcv.cnn': 1, 'mmengineer': 2, of_servers: 0}
    for name, lines in names.items():
        scope = dict(__name__=name)
        exec(source.replace('ed', f'ed by {name}'), scope)
        scope['log'](runner.logger)
        assert len(capsys.readouterr().out.splitlines()) == lines


@pytest.mark.parametrize('loop', [{}, dict(by_epoch=False, max_iters=8, val_interval=4)])
def test_metrics_are_logged_at_the_iteration(tmp_path, loop):
    cfg = cfg_of(tmp_path)
    cfg.train_cfg = loop or cfg.train_cfg
    runner = run(cfg)
    with open(os.path.join(runner.log_dir, 'vis_data', 'scalars.json')) as file:
        records = [json.loads(line) for line in file]
    assert [record['step'] for record in records if 'up' in record] == [4, 8]
    assert [record['step'] for record in records if 'loss' in record] == [2, 4, 6, 8]


def test_a_set_log_metric_by_epoch_counts(tmp_path):
    cfg = cfg_of(tmp_path)
    cfg.default_hooks.logger.log_metric_by_epoch = True
    runner = run(cfg)
    with open(os.path.join(runner.log_dir, 'vis_data', 'scalars.json')) as file:
        records = [json.loads(line) for line in file]
    assert [record['step'] for record in records if 'up' in record] == [1, 2]


def test_a_validation_alone_is_logged_at_iteration_0(tmp_path):
    cfg = cfg_of(tmp_path)
    with own_scope():
        runner = build_runner(cfg, splits=('val',))
        runner.val()
    with open(os.path.join(runner.log_dir, 'vis_data', 'scalars.json')) as file:
        assert [json.loads(line)['step'] for line in file] == [0]


PROGRAM = """
import os, sys, time
from mmengine.hooks import Hook
from ghmdet import engine
from ghmdet.config import cli
from tests.engine.test_console import cfg_of

class Act(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        time.sleep(0.3)
        if runner.iter == 5:
            print('printed by a user')
            {act}

def main():
    runner = engine.build_runner(cfg_of(sys.argv[1]))
    runner.register_hook(Act())
    engine.show_live_line(runner)
    stop = engine.StopHook()
    runner.register_hook(stop)
    try:
        runner.train()
    finally:
        stop.release()

cli.run(main)
"""


def run_on_terminal(folder, act, term='xterm-256color'):
    """Return what a program wrote to its terminal, without colours, and its exit code."""
    ours, theirs = pty.openpty()
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'TERM': term, 'COLUMNS': '100'}
    code = PROGRAM.format(act=act)
    process = subprocess.Popen(
        [sys.executable, '-c', code, str(folder)],
        stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=ROOT,
    )  # fmt: skip
    os.close(theirs)
    written = b''
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # the terminal is closed
        pass
    os.close(ours)
    return re.sub(r'\x1b\[[\d;]*m', '', written.decode()), process.wait(60)


def screen_lines(written):
    """The lines of the terminal at the end: text, line feeds, up, erase a line."""
    lines, row, column = [''], 0, 0
    for part in re.findall(r'\x1b\[\??\d*[a-zA-Z]|\r|\n|[^\x1b\r\n]+', written):
        if part == '\n':
            row += 1
        elif part == '\r':
            column = 0
        elif part == '\x1b[2K':
            lines[row] = ''
        elif part[-1] == 'A' and part[0] == '\x1b':
            row -= int(part[2:-1])
        elif part[0] != '\x1b':
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
        lines += [''] * (row + 1 - len(lines))
    return lines


@pytest.mark.parametrize(
    ('act', 'code', 'last'),
    [
        ('pass', 0, 'Saved epoch_2.pth'),
        ('raise ValueError("a fault of the user")', 1, 'error: a fault of the user'),
        (f'os.kill(os.getpid(), {int(signal.SIGTERM)}); time.sleep(0.5)', 75, 'SIGTERM: stopped'),
    ],
)
def test_a_terminal_gets_a_bar_and_is_left_clean(tmp_path, act, code, last):
    written, exit_code = run_on_terminal(tmp_path, act)
    assert exit_code == code
    assert re.search(r'epoch 2/2 \S+ [56]/8  eta 0:00:0\d  loss -?\d+\.\d{4}', written)
    assert 'Epoch(train)' not in written  # the file has it
    assert written.count('up: 1 ') == 1  # the result of a validation
    assert 'val ' in written
    hides, shows = written.count('\x1b[?25l'), written.rfind('\x1b[?25h')
    assert hides == 0 or shows > written.rfind('\x1b[?25l')
    lines = [line.rstrip() for line in screen_lines(written)]
    assert lines[-1] == ''  # where the prompt comes next
    assert 'printed by a user' in lines
    text = [line for line in lines if line and not line.startswith('(')]
    assert not any('eta 0:' in line for line in text)
    assert any(last in line for line in text[-6:])


def test_a_dumb_terminal_gets_plain_lines(tmp_path):
    written, code = run_on_terminal(tmp_path, 'pass', term='dumb')
    assert code == 0
    assert 'Epoch(train) [2][4/4]' in written
    assert 'eta 0:00' not in written
