"""Trackers: what reaches them, and that their faults cost one warning and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.visualization import LocalVisBackend
from mmengine.visualization.vis_backend import BaseVisBackend

import ghmdet.train
from ghmdet import engine
from ghmdet.engine import build_runner
from ghmdet.registry import VISBACKENDS
from ghmdet.visualization import trackers
from ghmdet.visualization.trackers import TrackerVisBackend, add_tracker, protect_trackers
from tests.fork_server import ROOT
from tests.number_runs import number_cfg, own_scope

STEPS = ('__init__', 'add_config', 'add_scalars', 'add_image', 'experiment', 'close')


@VISBACKENDS.register_module(force=True)
class StandIn(BaseVisBackend):
    """Records what it gets; in one method it fails, or waits for an answer that never comes."""

    made: list = []

    def __init__(self, save_dir, fails_in='', hangs_in=''):
        super().__init__(save_dir)
        self.fails_in, self.hangs_in, self.got = fails_in, hangs_in, []
        StandIn.made.append(self)
        self.act('__init__')

    def act(self, name, *args):
        self.got.append((name, *args))
        if name == self.fails_in:
            raise ConnectionError('no server')
        if name == self.hangs_in:
            threading.Event().wait()

    def _init_env(self):
        pass

    @property
    def experiment(self):
        self.act('experiment')
        return self.got

    def add_config(self, config, **kwargs):
        self.act('add_config')

    def add_image(self, name, image, step=0, **kwargs):
        self.act('add_image', name, step)

    def add_scalars(self, scalar_dict, step=0, file_path=None, **kwargs):
        self.act('add_scalars', scalar_dict, step)

    def add_histogram(self, *args):
        raise AssertionError('not for this kind')

    def of_a_user(self, number):
        self.act('of_a_user', number)

    def close(self):
        self.act('close')


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    monkeypatch.setattr(StandIn, 'made', [])
    monkeypatch.setattr(trackers, '_PATIENCE_S', 0.6)
    monkeypatch.setattr(trackers, '_START_S', 0.2)
    monkeypatch.setattr(trackers, '_limit_exit', lambda ended: None)  # would end the tests
    yield
    if isinstance(sys.stdin, trackers._Stdin):
        sys.stdin = sys.stdin._stream


def train(folder, **arguments):
    """Train 4 iterations with the stand-in and a picture; return runner, warnings, scalars."""
    cfg = number_cfg(folder, [1] * 4)
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    backends = [dict(type='LocalVisBackend'), dict(type='StandIn', **arguments)]
    cfg.visualizer = dict(type='DetLocalVisualizer', vis_backends=backends)
    with own_scope():
        runner = build_runner(cfg)
        lines = []
        runner.logger.addFilter(lambda record: lines.append(record) or True)
        runner.visualizer.add_image('drawn', np.zeros((2, 2, 3), np.uint8), 7)
        runner.visualizer.get_backend('StandIn').experiment  # noqa: B018
        runner.train()
    path = os.path.join(runner.log_dir, 'vis_data', 'scalars.json')
    with open(path) as file:
        steps = [json.loads(line)['step'] for line in file]
    return runner, [each.getMessage() for each in lines if 'StandIn' in each.getMessage()], steps


def test_a_tracker_gets_what_the_local_log_gets(tmp_path):
    runner, warned, steps = train(tmp_path)
    (made,) = StandIn.made
    assert [each[0] for each in made.got] == [
        *('__init__', 'add_config', 'add_image', 'experiment'),
        *['add_scalars'] * 4,
        'close',
    ]
    assert made.got[2] == ('add_image', 'drawn', 7)
    assert [each[2] for each in made.got if each[0] == 'add_scalars'] == steps == [1, 2, 3, 4]
    assert warned == []
    backend = runner.visualizer.get_backend('StandIn')
    assert backend.experiment is made.got
    backend.of_a_user(3)
    assert backend.experiment[-2:] == [('of_a_user', 3), ('experiment',)]


@pytest.mark.parametrize('step', STEPS)
def test_a_failure_costs_one_warning(tmp_path, step):
    _, warned, steps = train(tmp_path, fails_in=step)
    assert steps == [1, 2, 3, 4]
    if step not in ('__init__', 'add_config'):  # those come while the Runner is made
        (text,) = warned
        assert 'ConnectionError: no server' in text
        assert 'vis_data/scalars.json' in text
    # After another failure than that of the constructor all else is still tried.
    (made,) = StandIn.made
    assert (made.got[-1][0] == 'close') == (step != '__init__')


@pytest.mark.parametrize('step', STEPS)
def test_a_server_that_never_answers_costs_one_warning_and_its_time(tmp_path, step):
    begin = time.monotonic()
    runner, warned, steps = train(tmp_path, hangs_in=step)
    seconds = time.monotonic() - begin
    assert steps == [1, 2, 3, 4]
    (text,) = warned
    assert 'did not answer in 0.6 s' in text
    assert seconds < 5
    begin = time.monotonic()
    runner.visualizer.get_backend('StandIn').experiment.add_text('a', 'b')  # does nothing
    runner.visualizer.close()
    assert time.monotonic() - begin < 0.3


def test_scalars_never_wait_and_images_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, '_MAX_CALLS', 60)
    backend = TrackerVisBackend(dict(type='StandIn', hangs_in='add_scalars'), str(tmp_path))
    begin = time.monotonic()
    for step in range(100):
        backend.add_scalars(dict(loss=1.0), step)
    assert time.monotonic() - begin < 0.5
    assert backend._calls.qsize() <= 60
    for _ in range(3):
        backend.add_image('a', np.zeros((2, 2, 3), np.uint8))
    assert 0.5 < time.monotonic() - begin < 2


def test_what_is_changed_later_is_logged_as_it_was(tmp_path):
    backend = TrackerVisBackend(dict(type='StandIn'), str(tmp_path))
    scalars = dict(loss=1.0)
    backend.add_scalars(scalars, 1)
    scalars['loss'] = 2.0
    backend.close()
    assert StandIn.made[0].got[1] == ('add_scalars', dict(loss=1.0), 1)


def test_a_tracker_cannot_ask_the_user(tmp_path, monkeypatch):
    """A thread that waits for stdin would block every forked loader worker."""
    asked = []
    monkeypatch.setattr(StandIn, 'of_a_user', lambda *_: asked.append(sys.stdin.readline()))
    monkeypatch.setattr(sys, 'stdin', types.SimpleNamespace(readline=lambda: 'typed'))
    backend = TrackerVisBackend(dict(type='StandIn'), str(tmp_path))
    backend.of_a_user()
    backend.close()
    assert asked == ['']
    assert sys.stdin.readline() == 'typed'


PROGRAM = """
import atexit, sys, threading
from ghmdet.config import cli
from ghmdet.visualization import trackers
from tests.visualization.test_trackers import StandIn
trackers._PATIENCE_S = 0.3
def main():
    backend = trackers.TrackerVisBackend(dict(type='StandIn', hangs_in='add_scalars'), '.')
    backend.add_scalars(dict())
    atexit.register(threading.Event().wait)  # as mlflow ends its run
    backend.close()
    {end}
{run}
"""


@pytest.mark.parametrize(
    ('end', 'run', 'code'),
    [
        ('pass', 'cli.run(main)', 0),
        ('raise SystemExit(75)', 'cli.run(main)', 75),
        ('raise ValueError', 'main()', 1),
    ],
)
def test_the_process_ends_although_an_exit_function_waits(end, run, code):
    program = PROGRAM.format(end=end, run=run)
    ended = subprocess.run([sys.executable, '-c', program], cwd=ROOT, timeout=60)
    assert ended.returncode == code


def config(*kinds, **visualizer):
    return Config(dict(visualizer=dict(visualizer, vis_backends=[dict(type=k) for k in kinds])))


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        ([], ['LocalVisBackend', 'StandIn']),
        (['LocalVisBackend'], ['LocalVisBackend', 'StandIn']),
        (['StandIn'], ['StandIn', 'LocalVisBackend']),
        (['AimVisBackend'], ['AimVisBackend', 'LocalVisBackend', 'StandIn']),
    ],
)
def test_a_tracker_is_added(before, after):
    cfg = config(*before, type='Visualizer')
    add_tracker(cfg, 'StandIn', fails_in='close')
    assert [each.type for each in cfg.visualizer.vis_backends] == after
    (added,) = (each for each in cfg.visualizer.vis_backends if each.type == 'StandIn')
    assert added.fails_in == 'close'
    assert cfg.visualizer.type == 'Visualizer'


def test_a_config_without_visualizer_gets_one():
    cfg = Config({})
    add_tracker(cfg, 'StandIn')
    assert cfg.visualizer.type == 'DetLocalVisualizer'
    assert [each.type for each in cfg.visualizer.vis_backends] == ['LocalVisBackend', 'StandIn']


def test_protected_once_and_under_the_same_name():
    cfg = config('LocalVisBackend', 'StandIn')
    cfg.visualizer.vis_backends.append(dict(type='StandIn', name='second', fails_in='close'))
    for _ in range(2):  # as for the config in a work dir
        protect_trackers(cfg)
    local, *others = cfg.visualizer.vis_backends
    assert local == dict(type=LocalVisBackend.__name__)
    assert others == [
        dict(type='ghmdet.TrackerVisBackend', name='StandIn', backend=dict(type='StandIn')),
        dict(
            type='ghmdet.TrackerVisBackend',
            name='second',
            backend=dict(type='StandIn', fails_in='close'),
        ),
    ]


def test_a_wrong_argument_is_an_error_at_once():
    cfg = config('LocalVisBackend', 'StandIn')
    cfg.visualizer.vis_backends[1].port = 1
    with pytest.raises(ValueError, match=r'vis_backends\.1: StandIn: .*port'):
        protect_trackers(cfg)


@pytest.mark.follows('cannot be imported ({}): pip install')
def test_a_missing_package_is_an_error_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(
        ModuleNotFoundError, match='WandbVisBackend cannot be imported .* pip install wandb'
    ):
        protect_trackers(config('WandbVisBackend'))
    monkeypatch.setitem(sys.modules, 'wandb', types.ModuleType('wandb'))  # installed
    cfg = config('WandbVisBackend')
    protect_trackers(cfg)
    assert cfg.visualizer.vis_backends[0].backend.type == 'WandbVisBackend'


def test_pictures_of_mlflow_have_a_suffix_and_their_own_names(tmp_path, monkeypatch):
    class MLflowVisBackend(StandIn):
        pass

    monkeypatch.setitem(VISBACKENDS.module_dict, 'MLflowVisBackend', MLflowVisBackend)
    backend = TrackerVisBackend(dict(type='MLflowVisBackend'), str(tmp_path))
    for step in (1, 2):
        backend.add_image('val_img', np.zeros((2, 2, 3), np.uint8), step)
    backend.close()
    names = [each[1] for each in StandIn.made[0].got if each[0] == 'add_image']
    assert names == ['val_img_1.png', 'val_img_2.png']
    assert os.environ['MLFLOW_ALLOW_FILE_STORE'] == 'true'


def test_the_histogram_of_tensorboard(tmp_path, monkeypatch):
    """Two bins with centres 1/4 and 3/4: 3 and 1 entries, sum 1.5, of squares 0.75."""
    monkeypatch.setattr(trackers, '_PATIENCE_S', 30)
    reader = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    backend = TrackerVisBackend(dict(type='TensorboardVisBackend'), str(tmp_path))
    backend.add_histogram('ghm/loss_cls/bins', [3, 1], 5)
    backend.add_scalars({'loss': 2.0}, 5)
    backend.close()
    events = reader.EventAccumulator(str(tmp_path))
    events.Reload()
    (event,) = events.Histograms('ghm/loss_cls/bins')
    value = event.histogram_value
    assert (event.step, value.min, value.max) == (5, 0, 1)
    assert (value.num, value.sum, value.sum_squares) == (4, 1.5, 0.75)
    assert (value.bucket_limit, value.bucket) == ([0.5, 1.0], [3.0, 1.0])
    assert [(each.step, each.value) for each in events.Scalars('loss')] == [(5, 2.0)]


class Built(Exception):
    """Ends a program when its config is complete."""


def test_the_flags_of_train(tmp_path, monkeypatch):
    def stop(cfg, verbose):
        raise Built(cfg.visualizer.vis_backends, verbose)

    monkeypatch.setattr(engine, 'build_runner', stop, raising=False)
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'http://127.0.0.1:5')
    flags = '--mlflow --tensorboard --verbose --wandb shapes'
    given = ['train.py', 'retinanet_ghm_r18_fpn_shapes', *flags.split(), '--work-dir', tmp_path]
    monkeypatch.setattr(sys, 'argv', [str(each) for each in given])
    with pytest.raises(Built) as caught:
        ghmdet.train.main()
    backends, verbose = caught.value.args
    assert verbose
    assert [dict(backend) for backend in backends] == [
        dict(type='LocalVisBackend'),
        dict(type='TensorboardVisBackend'),
        dict(type='MLflowVisBackend', tracking_uri='http://127.0.0.1:5'),
        dict(type='WandbVisBackend', init_kwargs=dict(project='shapes')),
    ]
