"""Count the files of ghmdet that one training step enters: count_files.py CONFIG [options]."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import ghmdet
from ghmdet.config.cli import run
from ghmdet.engine import add_common_arguments, build_runner, load_config

ROOT = Path(ghmdet.__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description='Count the files that a training step enters.')
    parser.add_argument('config')
    add_common_arguments(parser)
    cfg = load_config(parser.parse_args())
    # In this process, where the profiler sees it.
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    runner = build_runner(cfg)
    model, loader = runner.model, runner.train_dataloader
    optim_wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    model.train_step(next(iter(loader)), optim_wrapper)  # what is built on first use is built

    entered: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == 'call' and path.is_relative_to(ROOT):
            entered[str(path.relative_to(ROOT))] += 1

    sys.setprofile(note)
    model.train_step(next(iter(loader)), optim_wrapper)
    sys.setprofile(None)
    for file, calls in entered.items():
        print(f'{calls:7d} calls  {file}')
    print(f'{len(entered)} files of ghmdet in one training step')


if __name__ == '__main__':
    run(main)
