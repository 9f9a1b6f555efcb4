"""Train or detect for a while, and check that memory, files, threads and processes do not grow.

python tools/dev/soak.py train [--iters 300] [--workers 4] [--epochs 1] [--varied] ...
python tools/dev/soak.py infer [--calls 500] [--varied] ...

Prints samples of memory, open files, threads, child processes, shared memory and the time per step.
The last line is PASS, or FAIL with exit code 1: if memory has grown by more than --limit percent
from the end of the warm-up to the end of the run, or one of the counts at all. The warm-up is the
first tenth of all steps, with several epochs at least the first two, and half of all steps with
--varied, since memory grows until all sizes have been seen. Images are drawn, weights are random,
nothing is downloaded. Linux only, as it reads /proc.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ghmdet import engine, get_config
from ghmdet.config.cli import LazyModule, add_debug_argument, run

cv2 = LazyModule('cv2')
torch = LazyModule('torch')
datasets = LazyModule('ghmdet.datasets')
step_hook = LazyModule('step_hook')
# Of --varied: times --size in training, times the width of images to detect in.
_FACTORS = [0.6 + 0.05 * i for i in range(17)]


@dataclass
class Sample:
    """What the process and its children use at one moment, and the time per step since the last."""

    step: int
    """Iterations or calls so far."""
    main_mb: float
    """Resident memory of this process, in MB (2**20 bytes)."""
    anon_mb: float
    """Of that, anonymous memory: without libraries and data shared with workers."""
    children_mb: float
    """Private memory of all child processes, in MB."""
    files: int
    """Open file descriptors of this process, without shared memory."""
    threads: int
    """Threads of this process."""
    children: int
    """Running child processes."""
    shm: int
    """Shared memory segments: batches of this process, and files left in /dev/shm."""
    ms: float
    """Median milliseconds per iteration or call since the last sample."""
    cpu_ms: float
    """Median CPU time of this process per iteration or call, in milliseconds."""

    @property
    def total_mb(self) -> float:
        """Memory of the run; shared memory is counted once."""
        return self.main_mb + self.children_mb


class Meter:
    """Takes samples of this process.

    Args:
        every: steps from one sample to the next.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.samples: list[Sample] = []
        self._pids = {os.getpid()}
        self._times: list[tuple[float, float]] = []
        self.start()

    def start(self) -> None:
        """Begin to measure the time of a step."""
        self._last = time.perf_counter(), time.process_time()

    def step(self, number: int) -> None:
        """Note that step `number`, counted from 1, is done."""
        now = time.perf_counter(), time.process_time()
        self._times.append((now[0] - self._last[0], now[1] - self._last[1]))
        if number == 1 or number % self.every == 0:
            self.samples.append(self.measure(number))
            if number == 1:
                print('  '.join(field.name.rjust(11) for field in fields(Sample)))
            print('  '.join(_show(getattr(self.samples[-1], f.name)) for f in fields(Sample)))
            self._times.clear()
        self.start()

    def measure(self, number: int = 0) -> Sample:
        """Look at the process now."""
        children = _list_children()
        self._pids.update(children)
        memory = read_memory('self')
        left = [name for name in os.listdir('/dev/shm') if name.startswith('torch_')]
        files = _list_files()
        held = sum(name.startswith('/dev/shm/torch_') for name in files)
        times = zip(*self._times or [(0.0, 0.0)], strict=True)
        ms, cpu_ms = (statistics.median(seconds) * 1e3 for seconds in times)
        return Sample(
            step=number,
            main_mb=memory['Rss'],
            anon_mb=memory['Anonymous'],
            children_mb=sum(_private_mb(pid) for pid in children),
            files=len(files) - held,
            threads=len(os.listdir('/proc/self/task')),
            children=len(children),
            shm=held + sum(int(name.split('_')[1]) in self._pids for name in left),
            ms=ms,
            cpu_ms=cpu_ms,
        )


def read_memory(pid: int | str) -> dict[str, float]:
    """Return the lines of a process's smaps_rollup, such as Rss and Private_Dirty, in MB."""
    lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()[1:]
    pairs = (line.split() for line in lines)
    return {name.rstrip(':'): int(size) / 1024 for name, size, _ in pairs}


def _list_files() -> list[str]:
    """What the open descriptors of this process refer to."""
    names = []
    for number in os.listdir('/proc/self/fd'):
        with suppress(FileNotFoundError):  # that of the folder itself
            names.append(os.readlink(f'/proc/self/fd/{number}'))
    return names


def _private_mb(pid: int) -> float:
    try:
        memory = read_memory(pid)
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0.0
    return memory['Private_Clean'] + memory['Private_Dirty']


def _list_children() -> list[int]:
    tasks = Path('/proc/self/task').glob('*/children')
    return [int(pid) for file in tasks for pid in file.read_text().split()]


def _show(value: float) -> str:
    return (f'{value:.1f}' if isinstance(value, float) else str(value)).rjust(11)


def find_growth(samples: Sequence[Sample], warm_up: int, limit: float) -> list[str]:
    """Compare the last samples with the first after the warm-up.

    Args:
        samples: of one run, oldest first.
        warm_up: steps after which nothing should grow.
        limit: percent by which memory may grow.

    Returns:
        One sentence for each number that has grown.

    Raises:
        ValueError: there are not two samples to compare.
    """
    later = [sample for sample in samples if sample.step >= warm_up]
    if len(later) < 2:
        raise ValueError(f'expected two samples from step {warm_up} on, got {len(later)}')
    first, last = later[0], later[-1]
    faults = []
    for name in ('main_mb', 'anon_mb', 'total_mb'):
        before, after = getattr(first, name), getattr(last, name)
        growth = 100 * (after - before) / before
        print(
            f'{name}: {before:.1f} at step {first.step}, {after:.1f} at step {last.step}, '
            f'{growth:+.2f} %'
        )
        if growth > limit and name != 'anon_mb':
            faults.append(f'{name} has grown by {growth:.2f} %, more than {limit:g} %')
    halves = later[: len(later) // 2], later[len(later) // 2 :]
    for name in ('files', 'threads', 'children', 'shm'):
        before, after = ([getattr(sample, name) for sample in half] for half in halves)
        print(
            f'{name}: {min(before)} to {max(before)} in the first half, {min(after)} to '
            f'{max(after)} in the second'
        )
        # Batches differ in how many pieces of shared memory they are made of.
        if min(after) > min(before) + 4 if name == 'shm' else max(after) > max(before):
            faults.append(f'{name}: more in the second half than in the first')
    for name in ('ms', 'cpu_ms'):
        medians = [statistics.median(getattr(sample, name) for sample in half) for half in halves]
        print(f'{name}: median {medians[0]:.1f} in the first half, {medians[1]:.1f} in the second')
    return faults


def make_config(args: argparse.Namespace, folder: Path) -> Config:
    """Read the config and point it to drawn images, `iters` / `epochs` steps of them an epoch."""
    cfg = get_config(args.config)
    per_epoch = -(-args.iters // args.epochs)
    datasets.draw_shapes(folder, dict(train=per_epoch * args.batch, val=max(args.val, 1)))
    scale = [(args.size, args.size)]
    if args.varied:
        scale = [(int(args.size * factor), int(args.size * factor)) for factor in _FACTORS]
    for name in ('train', 'val', 'test'):
        loader = cfg[f'{name}_dataloader']
        loader.num_workers = args.workers
        loader.persistent_workers = args.workers > 0 and not args.fresh_workers
        loader.dataset.update(data_root=f'{folder}/', filter_cfg=None)
        steps = loader.dataset.pipeline
        place = next(i for i, step in enumerate(steps) if step['type'] == 'Resize')
        steps[place] = dict(type='RandomChoiceResize', scales=scale, keep_ratio=True)
    cfg.train_dataloader.batch_size = args.batch
    cfg.train_cfg = dict(by_epoch=True, max_epochs=args.epochs, val_interval=1)
    if not args.val:
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    if not (args.val and args.save):
        cfg.default_hooks.checkpoint.save_best = None
    cfg.default_hooks.checkpoint.interval = 1 if args.save else 10**6
    cfg.default_hooks.checkpoint.save_last = args.save
    cfg.work_dir = str(folder / 'work_dir')
    cfg.visualizer.name = folder.name  # one of the same name would be taken from an earlier run
    cfg.log_level = 'WARNING'
    return cfg


def train(args: argparse.Namespace, meter: Meter, folder: Path) -> None:
    """Train as tools/train.py does, without downloads."""
    cfg = make_config(args, folder)
    runner = engine.build_runner(cfg)
    runner.register_hook(step_hook.StepHook(meter.step, on_start=meter.start))
    runner.train()


def infer(args: argparse.Namespace, meter: Meter, folder: Path) -> None:
    """Detect in images by path and as arrays, in turn."""
    cfg = get_config(args.config)
    cfg.model.test_cfg.score_thr = 0.0  # weights are random: have boxes all the same
    resize = next(s for s in cfg.test_dataloader.dataset.pipeline if s['type'] == 'Resize')
    resize['scale'] = (args.size, args.size)
    file = folder / 'weights.pth'
    torch.save(dict(state_dict=engine.init_detector(cfg, fold=False).state_dict()), file)
    model = engine.init_detector(cfg, file)
    datasets.draw_shapes(folder, dict(val=20))
    images = [cv2.imread(str(path)) for path in sorted((folder / 'val').glob('*.jpg'))]
    factors = _FACTORS if args.varied else [1.0]
    inputs: list[Any] = []
    for number, factor in enumerate(factors):
        path = folder / f'{number}.png'
        cv2.imwrite(str(path), cv2.resize(images[number % len(images)], None, fx=factor, fy=1))
        inputs += [path, cv2.imread(str(path))]
    for number in range(args.calls):
        engine.inference_detector(model, inputs[number % len(inputs)])
        meter.step(number + 1)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('--config', default='retinanet_ghm_r18_fpn_shapes')
    common.add_argument('--size', type=int, default=160, help='longest side (%(default)s)')
    common.add_argument('--varied', action='store_true', help='17 sizes or forms of images')
    common.add_argument('--every', type=int, help='steps between samples (a thirtieth of all)')
    common.add_argument('--warm-up', type=int, help='steps after which to compare (see above)')
    common.add_argument('--limit', type=float, default=3.0, help='percent (%(default)s)')
    add_debug_argument(common)
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    modes = parser.add_subparsers(dest='mode', required=True)
    training = modes.add_parser('train', parents=[common], help='train')
    training.add_argument('--iters', type=int, default=300, help='in all (%(default)s)')
    training.add_argument('--epochs', type=int, default=1, help='divide them into this many epochs')
    training.add_argument('--workers', type=int, default=4, help='loader workers (%(default)s)')
    training.add_argument('--fresh-workers', action='store_true', help='new ones for each epoch')
    training.add_argument('--batch', type=int, default=4, help='batch size (%(default)s)')
    training.add_argument(
        '--val', type=int, default=0, help='validate on this many images after each epoch'
    )
    training.add_argument('--save', action='store_true', help='checkpoint after each epoch')
    inference = modes.add_parser('infer', parents=[common], help='call inference_detector')
    inference.add_argument('--calls', type=int, default=500, help='in all (%(default)s)')
    args = parser.parse_args(argv)
    steps = args.calls if args.mode == 'infer' else args.iters
    args.every = args.every or max(1, steps // 30)
    if args.warm_up is None:
        args.warm_up = steps // 2 if args.varied else steps // 10
        if args.mode == 'train' and args.epochs > 1:  # validation has been run twice by then
            args.warm_up = max(args.warm_up, 2 * -(-args.iters // args.epochs) + 1)
    return args


def soak(args: argparse.Namespace) -> list[Sample]:
    """Run in a folder that is removed afterwards."""
    meter = Meter(args.every)
    with tempfile.TemporaryDirectory(prefix='soak-') as folder:
        (train if args.mode == 'train' else infer)(args, meter, Path(folder))
    return meter.samples


def main() -> None:
    args = parse_args()
    faults = find_growth(soak(args), args.warm_up, args.limit)
    print('\n'.join([f'FAIL: {fault}' for fault in faults] or ['PASS']))
    sys.exit(bool(faults))


if __name__ == '__main__':
    run(main)
