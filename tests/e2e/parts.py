"""Hooks for the processes that tests start: `custom_imports` of their configs."""

import json
import os
import signal

from mmengine.dist import get_rank
from mmengine.hooks import Hook

from ghmdet.registry import HOOKS


@HOOKS.register_module()
class WriteMetricsHook(Hook):
    """Each rank writes what it has measured."""

    def after_val_epoch(self, runner, metrics=None):
        with open(f'metrics_{get_rank()}.json', 'w') as file:
            json.dump(metrics, file)

    after_test_epoch = after_val_epoch


@HOOKS.register_module()
class FailHook(Hook):
    """Rank 1 raises or is killed before the third iteration."""

    def __init__(self, how):
        self.how = how

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 2 and get_rank() == 1:
            open('failed', 'w').close()
            if self.how == 'kill':
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError('the hook of rank 1 gives up')
