"""A hook that calls a function after each iteration of a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner


class StepHook(Hook):
    """Calls `on_step` with the number of each iteration, counted from 1, once it is done."""

    priority = 'LOWEST'  # and registered last: after all others

    def __init__(
        self, on_step: Callable[[int], None], on_start: Callable[[], None] = lambda: None
    ) -> None:
        self.on_step, self.on_start = on_step, on_start

    def before_train(self, runner: Runner) -> None:
        """Call `on_start`."""
        self.on_start()

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Call `on_step`."""
        self.on_step(runner.iter + 1)
