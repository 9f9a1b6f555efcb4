"""Shared by all tests."""

import os

os.environ['OMP_NUM_THREADS'] = '1'  # read when torch is imported; bits depend on it

import signal
import sys

import pytest
import torch
from mmengine.config import config as config_module
from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import Visualizer

from tests.exported_model import make_exported
from tests.fork_server import close_shared_server

torch.set_num_threads(1)  # where a plugin was quicker

collect_ignore = ['data/golden/run_tide.py']  # needs tidecv

# `nohup` and `&` leave these ignored, also in the processes that tests start. With a handler,
# which a started process does not inherit, all tests find the defaults.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.platform != 'win32' and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # a hang-up does not end the tests themselves

# yapf takes half a second for a whole config, at the start and in each checkpoint of a run.
_format, _formatted = config_module.FormatCode, {}


def _format_once(text, **settings):
    if text not in _formatted:
        _formatted[text] = _format(text, **settings)
    return _formatted[text]


config_module.FormatCode = _format_once


@pytest.fixture(autouse=True)
def instances_of_its_own():
    """mmengine names them by the second, so that the next test would write to this one's folder."""
    yield
    for kind in (MMLogger, MessageHub, Visualizer):
        kind._instance_dict.clear()


@pytest.fixture(scope='session', autouse=True)
def end_of_the_fork_server():
    """Ends it before coverage is summed up."""
    yield
    close_shared_server()


@pytest.fixture(scope='session')
def exported(tmp_path_factory):
    """A folder of `make_exported`, which no test may change."""
    return make_exported(tmp_path_factory.mktemp('exported'))
