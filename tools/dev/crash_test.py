"""Kill a small training again and again, and check that nothing is lost.

A reference training runs without interruption. Then it is run again, killed with SIGKILL at a
random moment of a random phase (start-up, step, save, validation), resumed with --resume, killed
again, until it ends; and so on until there were as many kills as asked for. Each time the final
weights, optimizer, schedules, moving averages, GHM counts and random generators must equal those of
the reference bit for bit, and after each kill the checkpoint that `last_checkpoint` names must be
readable. One tenth of the kills are SIGTERMs, which must end with exit code 75 and a checkpoint.

    python tools/dev/crash_test.py --kills 30 --seed 0 --workers 0
    python tools/dev/crash_test.py --kills 10 --processes 2
    python tools/dev/crash_test.py --kills 10 --processes 1 2

With several numbers of processes each start picks one of them at random, and the final weights
must be close to the reference (--tolerance), since sums are rounded in another order.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ghmdet import engine
from ghmdet.config.cli import LazyModule, run

torch = LazyModule('torch')
datasets = LazyModule('ghmdet.datasets')
TRAIN = Path(__file__).parents[1] / 'train.py'
STOPPED = 75
LIMIT = 1800  # seconds for one training
PHASES = {  # the log line that begins each, and the longest delay before the kill in seconds
    'start-up': ('', 5.0),
    'step': (r'\(train\)', 0.3),
    'save': ('Saving checkpoint', 0.15),
    'validation': ('Saved ', 0.3),
}
CONFIG = """
_base_ = 'ghmdet::retinanet_ghm_r18_fpn_shapes.py'
custom_imports = dict(imports=['crash_test_noise'])
data_root = {root!r}
model = dict(
    backbone=dict(num_stages=2, out_indices=(0, 1), norm_eval={mixed}),
    neck=dict(
        in_channels=[64, 128], start_level=0, add_extra_convs='on_output', out_channels=16,
        norm_cfg=None,
    ),
    bbox_head=dict(
        in_channels=16, feat_channels=16, stacked_convs=1, norm_cfg=None,
        anchor_generator=dict(strides=[4, 8, 16]),
        loss_cls=dict(sync=True), loss_bbox=dict(sync=True),
    ),
)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=(64, 64), ratio_range=(0.8, 1.2), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
loader = dict(num_workers={workers}, persistent_workers={workers} > 0)
train_dataloader = dict(
    batch_size={batch_size}, dataset=dict(data_root=data_root, pipeline=pipeline), **loader
)
val_dataloader = dict(dataset=dict(data_root=data_root), **loader)
train_cfg = dict(max_epochs={epochs}, val_interval=1)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.002, momentum=0.9))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=6),
    dict(type='MultiStepLR', milestones=[2], gamma=0.5, by_epoch=True),
]
custom_hooks = [dict(type='EMAHook', momentum=0.1, priority=49), dict(type='NoiseHook')]
default_hooks = dict(logger=dict(interval=1), checkpoint={checkpoint})
randomness = dict(seed=11)
"""
NOISE = """
import random
import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class NoiseHook(Hook):
    def after_train_iter(self, runner, *args, **kwargs):
        model = getattr(runner.model, 'module', runner.model)
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        if runner.world_size > 1:
            values = [None] * runner.world_size
            torch.distributed.all_gather_object(values, noise)
            noise = values[0]
        if {noisy}:
            model.bbox_head.retina_reg.bias.data.add_(1e-4 * noise)
"""


class Trial:
    """A folder with a config, in which trainings are run."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.folder, self.args = folder, args
        datasets.draw_shapes(folder / 'data', dict(train=args.images, val=4), seed=0)
        (folder / 'crash_test_noise.py').write_text(
            NOISE.replace('{noisy}', str(len(set(args.processes)) == 1))
        )
        for count in set(args.processes):
            checkpoint: dict[str, Any] = dict(max_keep_ckpts=2, save_best='auto')
            if args.every:
                checkpoint.update(interval=args.every, by_epoch=False)
            text = CONFIG.format(
                mixed=len(set(args.processes)) > 1,  # batch norms depend on the share of a process
                root=f'{folder}/data/',
                workers=args.workers,
                batch_size=4 // count,
                epochs=args.epochs,
                checkpoint=checkpoint,
            )
            (folder / f'processes{count}.py').write_text(text)

    def start(self, work_dir: Path, count: int, *options: str) -> subprocess.Popen:
        """Start a training in a session of its own."""
        command = [sys.executable]
        if count > 1:
            command += ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={count}']
        command += [str(TRAIN), str(self.folder / f'processes{count}.py'), *options]
        command += ['--work-dir', str(work_dir), '--deterministic']  # which is for CUDA
        command += ['--launcher', 'pytorch'] if count > 1 else []
        path = os.pathsep.join(filter(None, [str(self.folder), os.environ.get('PYTHONPATH')]))
        environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=path)
        return subprocess.Popen(
            command,
            env=environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


class Reader(threading.Thread):
    """Reads what a process prints."""

    def __init__(self, process: subprocess.Popen) -> None:
        super().__init__(daemon=True)
        self.process, self.lines = process, list[str]()
        self.start()

    def run(self) -> None:
        """Read to the end."""
        for line in self.process.stdout or ():
            self.lines.append(line)

    def wait_for(self, pattern: str, times: int) -> bool:
        """Wait until so many lines matched; False if the process ended first."""
        end = time.monotonic() + LIMIT
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise TimeoutError(f'no {times} lines like {pattern!r} in {LIMIT} s')
            if sum(bool(re.search(pattern, line)) for line in self.lines) >= times:
                return True
            time.sleep(0.005)
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trials; return 1 if anything was lost."""
    args = parse_args(arguments)
    rng = random.Random(args.seed)
    folder = Path(args.folder or tempfile.mkdtemp(prefix='crash_test_'))
    trial = Trial(folder, args)
    reference = folder / 'reference'
    begin = time.monotonic()
    process = trial.start(reference, args.processes[0])
    out = Reader(process)
    if process.wait(LIMIT):
        sys.exit(''.join(out.lines))
    last = time.monotonic() - begin
    expected = engine.load_checkpoint_file((reference / 'last_checkpoint').read_text())
    print(f'reference: {last:.1f} s, {(reference / "last_checkpoint").read_text()}', flush=True)
    kills: Counter[str] = Counter()
    faults: list[str] = []
    number = 0
    while kills.total() < args.kills:
        number += 1
        work_dir = folder / f'run{number}'
        faults += run_killed(trial, work_dir, rng, kills)
        found = engine.load_checkpoint_file((work_dir / 'last_checkpoint').read_text())
        exact = len(set(args.processes)) == 1
        differences = list(compare(expected, found, 0.0 if exact else args.tolerance))
        faults += [f'run {number}: {difference}' for difference in differences]
        result = f'{len(differences)} differences' if differences else 'equal'
        print(f'run {number}: {result}; kills so far {dict(kills)}', flush=True)
        shutil.rmtree(work_dir)
    print('\n'.join(faults[:20]))
    how = 'bit for bit' if len(set(args.processes)) == 1 else f'to {args.tolerance}'
    print(f'{kills.total()} kills in {number} runs ({dict(kills)}), {len(faults)} faults, {how}')
    if not args.folder:
        shutil.rmtree(folder)
    return int(bool(faults))


def run_killed(
    trial: Trial, work_dir: Path, rng: random.Random, kills: Counter[str]
) -> Iterator[str]:
    """Run a training to its end, however often it is killed; yield what went wrong."""
    attempts = 0
    while True:
        phase = rng.choice(list(PHASES))
        count = rng.choice(trial.args.processes)
        terminate = rng.random() < 0.1 and phase != 'start-up'
        begins, seconds = PHASES[phase]
        times, delay = rng.randint(1, 4), rng.random() * seconds
        finish = kills.total() >= trial.args.kills or attempts > 12
        process = trial.start(work_dir, count, *(['--resume'] if attempts else []))
        out = Reader(process)
        attempts += 1
        if finish or not out.wait_for(begins, times if begins else 0):
            code = process.wait(LIMIT)
        else:
            time.sleep(delay)
            kill(process, terminate, rng)
            code = process.wait(LIMIT)
        if code == 0:
            return
        name = f'SIGTERM in {phase}' if terminate else phase
        kills[name] += 1
        out.join(10)
        log = ''.join(out.lines)
        if finish or (terminate and code not in (STOPPED, 1 if count > 1 else STOPPED)):
            yield f'exit code {code} after {name}:\n{log[-3000:]}'
        if not terminate and 'error:' in log and count == 1:
            yield f'an error after {name}:\n{log[-3000:]}'
        if finish:
            return
        pointer = work_dir / 'last_checkpoint'
        if pointer.exists():
            try:
                engine.load_checkpoint_file(pointer.read_text())
            except Exception as error:  # any error counts
                yield f'after {name}: {pointer} names no readable checkpoint: {error}'


def kill(process: subprocess.Popen, terminate: bool, rng: random.Random) -> None:
    """Kill the process and all it has started, or one of several ranks, or only terminate it."""
    with suppress(ProcessLookupError):
        if terminate:
            process.terminate()
            return
        pids = [process.pid, *descendants(process.pid)]
        ranks = ranks_of(process.pid)
        if ranks and rng.random() < 0.5:
            pids = [rng.choice(ranks)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def ranks_of(pid: int) -> list[int]:
    """Process ids of the processes that a torchrun has started; none if it is no torchrun."""
    if 'torch.distributed.run' not in command_of(pid):
        return []
    found = [child for child in descendants(pid) if 'train.py' in command_of(child)]
    return [child for child in found if not any(child in descendants(other) for other in found)]


def descendants(pid: int) -> list[int]:
    """Process ids of children and theirs."""
    try:
        text = Path(f'/proc/{pid}/task/{pid}/children').read_text()
    except OSError:
        return []
    children = [int(child) for child in text.split()]
    return [*children, *(below for child in children for below in descendants(child))]


def command_of(pid: int) -> str:
    """Command line of a process, '' if it is gone."""
    try:
        return Path(f'/proc/{pid}/cmdline').read_text().replace('\0', ' ')
    except OSError:
        return ''


def compare(expected: Any, found: Any, tolerance: float) -> Iterator[str]:
    """Yield where two checkpoints differ, log histories and times aside."""
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        yield from differences(expected.get(key), found.get(key), key, tolerance)
    for key in ('epoch', 'iter', 'seed'):
        yield from differences(expected['meta'][key], found['meta'][key], key, 0)
    if not tolerance:
        yield from differences(expected['run_state'], found['run_state'], 'run_state', 0)
        best = [c['message_hub']['runtime_info'].get('best_score') for c in (expected, found)]
        yield from differences(best[0], best[1], 'best_score', 0)


def differences(expected: Any, found: Any, name: str, tolerance: float) -> Iterator[str]:
    """Yield where two structures differ."""
    if isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor):
        same = expected.shape == found.shape and expected.dtype == found.dtype
        if same and tolerance and expected.is_floating_point():
            far = (expected - found).norm() > tolerance * expected.norm() + 1e-7
            same = not far
        elif same:
            same = torch.equal(expected, found)
        if not same:
            yield f'{name} differs'
    elif isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            yield f'{name} has other keys: {sorted(map(str, expected.keys() ^ found.keys()))}'
        for key in expected.keys() & found.keys():
            yield from differences(expected[key], found[key], f'{name}.{key}', tolerance)
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        if len(expected) != len(found):
            yield f'{name} has another length'
        for i, pair in enumerate(zip(expected, found, strict=False)):
            yield from differences(*pair, f'{name}.{i}', tolerance)
    elif expected != found:
        yield f'{name}: {expected!r} and {found!r}'


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--kills', type=int, default=30)
    parser.add_argument('--seed', type=int, default=0, help='of phases and moments')
    parser.add_argument('--workers', type=int, default=0, help='loader workers')
    parser.add_argument('--processes', type=int, nargs='+', default=[1], help='1, 2 or 4')
    parser.add_argument('--every', type=int, help='save every so many iterations, not each epoch')
    parser.add_argument('--epochs', type=int, default=4)
    parser.add_argument('--images', type=int, default=13)
    parser.add_argument('--tolerance', type=float, default=1e-3, help='relative, for mixed numbers')
    parser.add_argument('--folder', help='work in this folder and keep it')
    return parser.parse_args(arguments)


if __name__ == '__main__':
    run(lambda: sys.exit(main()))
