"""Seconds of a step alone and beside busy processes, each run in a process of its own.

A run has two parts of at least 20 steps; busy processes come at the start or between the parts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle, product
from pathlib import Path
from statistics import median

from mmengine.config import Config
from mmengine.hooks import Hook

from ghmdet import Detector, get_config
from ghmdet.datasets import draw_shapes
from ghmdet.engine import build_runner, get_model
from ghmdet.models.threads import SETTINGS

from .measure import Rates, Report, Row, quiet_log

_ROOT = Path(__file__).parents[3]
_CONFIG = 'retinanet_ghm_r18_fpn_shapes'
_DEFAULT = "torch's default"
VARIANTS = {
    'as it is': {},
    _DEFAULT: {'GOMP_SPINCOUNT': '300000'},  # libgomp's own number; ours is off where it is set
    'PASSIVE': {'OMP_WAIT_POLICY': 'PASSIVE'},
}
# Number of busy processes during each part, by name.
_LOADS = {
    'alone': (0, 0),
    'one busy': (1, 1),
    'two busy': (2, 2),
    'one at step 20': (0, 1),
    'two at step 20': (0, 2),
    'two until step 20': (2, 0),
}
_MOST = {'one busy': 1.8, 'two busy': 3.0, 'one at step 20': 1.8, 'two at step 20': 3.0}
_CHILD = 'import sys; from benchmarks.load import main; main(*sys.argv[1:])'
_STEPS, _MOST_SECONDS = 20, 30
_MOST_NOISE = 0.15  # cores that programs other than ours may use before a run is repeated
_ATTEMPTS = 4


class _End(Exception):
    """The last step has been timed."""


def run(args: argparse.Namespace, rates: Rates) -> Report:
    """Run each program with each load, the variants in turns."""
    report = Report('load', [])
    with tempfile.TemporaryDirectory() as folder:
        draw_shapes(folder, dict(train=40, val=8 * (2 * _STEPS + 2)), seed=0)
        for program in args.programs:
            seconds: dict[tuple[str, str], list[float]] = {
                key: [] for key in product(_LOADS, VARIANTS)
            }
            noise = dict.fromkeys(seconds, 0.0)
            for _, (load, variant) in product(range(args.runs), seconds):
                found, others = _run_quietly(program, load, variant, folder, args)
                text = f'{program}, {load}, {variant}: {median(found):.3g} s per step'
                print(text, file=sys.stderr, flush=True)  # a run takes up to a minute
                seconds[load, variant] += found
                noise[load, variant] = max(noise[load, variant], others)
            report.rows += _make_rows(program, seconds, noise)
            report.checks |= _compare(program, seconds)
    report.remarks.append("other cores: the most that programs other than the benchmark's used")
    return report


def _make_rows(program: str, seconds: dict, noise: dict) -> Iterator[Row]:
    for (load, variant), values in seconds.items():
        reference = f'{program}, {load}: {_DEFAULT}'
        row = Row(f'{program}, {load}: {variant}', values, reference=reference)
        alone = median(seconds['alone', variant])
        row.notes = {'x alone': row.median / alone, 'other cores': noise[load, variant]}
        yield row


def _compare(program: str, seconds: dict) -> dict[str, bool]:
    """Compare the tool as it is with the targets."""
    medians = {load: median(seconds[load, 'as it is']) for load in _LOADS}
    ratio = medians['alone'] / median(seconds['alone', _DEFAULT])
    checks = {f'{program} alone: {ratio:.2f} x {_DEFAULT}, at most 1.1': ratio <= 1.1}
    for load, most in _MOST.items():
        ratio = medians[load] / medians['alone']
        checks[f'{program}, {load}: {ratio:.2f} x alone, at most {most}'] = ratio <= most
    return checks


def _run_quietly(
    program: str, load: str, variant: str, folder: str, args: argparse.Namespace
) -> tuple[list[float], float]:
    """Return seconds and noise of a run during which no other program was busy, if there is one."""
    found = []
    for _ in range(_ATTEMPTS):
        found.append(_run_child(program, load, variant, folder, args))
        if found[-1][1] <= _MOST_NOISE:
            break
        time.sleep(2)
    return min(found, key=lambda each: each[1])


def _run_child(
    program: str, load: str, variant: str, folder: str, args: argparse.Namespace
) -> tuple[list[float], float]:
    env = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    paths = [str(_ROOT), str(_ROOT / 'tools/analysis_tools'), env.get('PYTHONPATH', '')]
    env |= {**VARIANTS[variant], 'PYTHONPATH': os.pathsep.join(filter(None, paths))}
    busy = _LOADS[load]
    words = [program, folder, *busy, args.workers, args.seconds]
    command = [sys.executable, '-c', _CHILD, *map(str, words)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    parts, noise = json.loads(done.stdout.splitlines()[-1])
    # The first steps of a process are slow.
    return (parts[0][5:] if busy[0] == busy[1] else parts[1]), noise


# --- the process that is measured -------------------------------------------------------------


class Clock(Hook):
    """Times steps, and starts and ends busy processes at the beginning of each part.

    Args:
        plan: number of busy processes during each part.
        seconds: that a part takes at least.
    """

    priority = 'LOWEST'

    def __init__(self, plan: list[int], seconds: float) -> None:
        self.plan, self.seconds = plan, seconds
        self.parts: list[list[float]] = []
        self.busy: list[subprocess.Popen] = []

    def begin(self) -> None:
        """Begin a part."""
        if not self.parts:
            self.used, self.began = self.count_used(), time.perf_counter()
        self.stop()
        for _ in range(self.plan[len(self.parts)]):
            self.busy.append(subprocess.Popen([sys.executable, '-c', 'while 1: pass']))
        self.parts.append([])
        self.start = self.last = time.perf_counter()

    def stop(self) -> None:
        """End the busy processes."""
        while self.busy:
            self.busy[-1].kill()
            self.busy.pop().wait()

    def tick(self, *_: object, **__: object) -> None:
        """End a step, and maybe a part."""
        now, part = time.perf_counter(), self.parts[-1]
        part.append(now - self.last)
        self.last, spent = now, now - self.start
        if spent > _MOST_SECONDS or (spent > self.seconds and len(part) >= _STEPS):
            if len(self.parts) == len(self.plan):
                raise _End
            self.begin()

    after_train_iter = after_test_iter = tick

    def count_used(self) -> float:
        """Seconds of the machine's cores, without this process and its children that have ended."""
        fields = [int(field) for field in Path('/proc/stat').read_text().split(maxsplit=9)[1:9]]
        used = (sum(fields) - fields[3] - fields[4]) / os.sysconf('SC_CLK_TCK')  # but idle, iowait
        return used - sum(os.times()[:4])


def train(cfg: Config, clock: Clock, files: list[str]) -> None:
    """Train as `tools/train.py` does."""
    cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
    runner = build_runner(cfg)
    runner.register_hook(clock)
    clock.begin()
    runner.train()


def test(cfg: Config, clock: Clock, files: list[str]) -> None:
    """Test as `tools/test.py` does, with random weights."""
    runner = build_runner(cfg, splits=('test',))
    runner.register_hook(clock)
    clock.begin()
    while True:
        runner.test()


def predict(cfg: Config, clock: Clock, files: list[str]) -> None:
    """Detect as `tools/predict.py` does, with random weights."""
    detector = Detector(get_model(cfg))
    clock.begin()
    for _ in detector.stream(cycle(files)):
        clock.tick()


PROGRAMS = dict(train=train, test=test, predict=predict)


def main(program: str, folder: str, first: str, second: str, workers: str, seconds: str) -> None:
    """Print the seconds of the steps of each part, and the cores that other programs used."""
    cfg = get_config(_CONFIG)
    cfg.work_dir = str(Path(folder, 'work_dir'))
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=int(workers), persistent_workers=int(workers) > 0)
        loader.dataset.data_root = folder
    for split in ('val', 'test'):
        cfg[f'{split}_evaluator'].ann_file = str(Path(folder, 'annotations/val.json'))
    clock = Clock([int(first), int(second)], float(seconds))
    try:
        with suppress(_End), quiet_log():
            PROGRAMS[program](cfg, clock, sorted(map(str, Path(folder, 'val').glob('*.jpg'))))
    finally:
        clock.stop()
    others = (clock.count_used() - clock.used) / (time.perf_counter() - clock.began)
    print(json.dumps([clock.parts, max(0.0, others)]))
