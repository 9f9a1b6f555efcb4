"""Count the files of ghmdet that a training enters: count_files.py CONFIG [options].

A file is entered if one of its functions is called. Two numbers, of one process without loader
workers, once everything is built:

- a training step: a batch is read, and `model.train_step(batch, optim_wrapper)` called with it;
- a training iteration: from the end of the first iteration of `runner.train()` to the end of the
  second, hence also the loop and all hooks, but no validation and no saving.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import ghmdet
from ghmdet import engine
from ghmdet.config.arguments import add_common_arguments, load_config
from ghmdet.config.cli import LazyModule, run

if TYPE_CHECKING:
    from mmengine.runner import Runner

step_hook = LazyModule('step_hook')
ROOT = Path(ghmdet.__file__).parent


class Counted(Exception):
    """Ends the training."""


class Profile:
    """Counts calls of functions of ghmdet by file."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def start(self) -> None:
        """Count from here on, in this thread."""
        sys.setprofile(self._note)

    def stop(self) -> None:
        """Count no more."""
        sys.setprofile(None)

    def print(self, name: str) -> None:
        """Print the files and how many there are."""
        for file, calls in self.calls.items():
            print(f'{calls:7d} calls  {file}')
        print(f'{len(self.calls)} files of ghmdet in {name}\n')

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == 'call' and path.is_relative_to(ROOT):
            self.calls[str(path.relative_to(ROOT))] += 1


def profile_step(runner: Runner) -> Profile:
    """Profile reading a batch and a training step."""
    optim_wrapper = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
    profile = Profile()
    for start in (lambda: None, profile.start):  # what is built on first use is built
        start()
        runner.model.train_step(next(iter(runner.train_dataloader)), optim_wrapper)
    profile.stop()
    return profile


def profile_iteration(runner: Runner) -> Profile:
    """Profile the second iteration of a training, which then ends."""
    profile = Profile()

    def on_step(number: int) -> None:
        if number == 1:
            profile.start()
            return
        profile.stop()
        raise Counted

    runner.register_hook(step_hook.StepHook(on_step))
    with suppress(Counted):
        runner.train()
    return profile


def main() -> None:
    parser = argparse.ArgumentParser(description='Count the files that a training enters.')
    parser.add_argument('config')
    add_common_arguments(parser)
    cfg = load_config(parser.parse_args())
    # In this process, where the profiler sees it.
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        runner = engine.build_runner(cfg)
        profile_step(runner).print('a training step')
        profile_iteration(runner).print('a training iteration')


if __name__ == '__main__':
    run(main)
