"""On a GPU, within ten minutes and without a network: what tests on a CPU cannot show.

    python tools/dev/gpu_checks.py --out FOLDER
    python tools/dev/gpu_checks.py --out FOLDER --device cpu --small   # the same code anywhere

It checks that the compiled GHM losses equal the plain ones and a literal loop, are 20 times as fast
as the loop and never wait for the GPU; that a training that was killed and resumed ends with the
same bits; that two processes learn what one learns, on one card. It measures training and
inference of the published models in float32, low precision, compiled and as ONNX. Nothing is
downloaded: weights are random, images are drawn.

A line for each result is printed when it is known; FOLDER/results.json has them all, FOLDER/*.log
what the programs printed. What the time did not suffice for is named. The exit code is 1 if
a check failed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import crash_test

from ghmdet import engine
from ghmdet.config.cli import LazyModule, run, user_path

cv2 = LazyModule('cv2')
np = LazyModule('numpy')
torch = LazyModule('torch')
ghmdet = LazyModule('ghmdet')
TOOLS = Path(__file__).parents[1]
PUBLISHED_GB = {  # model_zoo of MMDetection: training memory, 2 images per GPU
    'retinanet_ghm_r50_fpn_1x_coco': 4.0,
    'retinanet_ghm_r101_fpn_1x_coco': 6.0,
    'retinanet_ghm_x101_32x4d_fpn_1x_coco': 7.2,
    'retinanet_ghm_x101_64x4d_fpn_1x_coco': 10.3,
}
FASTER_THAN_THE_LOOP = 20
TOLERANCE = 1e-3  # two processes round sums in another order
TIME_IS_OVER = 124  # as coreutils' timeout
IMAGES = 5
EXTRAS = ('onnx', 'onnxscript', 'onnxruntime')


class Session:
    """Runs programs until the time is over, and keeps what was found."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder = args, args.out
        self.end = time.monotonic() + 60 * args.minutes
        self.results: list[dict[str, Any]] = []
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, what: str, outcome: str, **figures: float) -> None:
        """Print a result and write all so far."""
        numbers = ', '.join(f'{value:.4g} {key}' for key, value in figures.items())
        print(f'{outcome}: {what}' + (f': {numbers}' if numbers else ''), flush=True)
        self.results.append(dict(what=what, outcome=outcome, **figures))
        content = dict(device=self.args.device, torch=torch.__version__, results=self.results)
        (self.folder / 'results.json').write_text(json.dumps(content, indent=2))

    def check(self, what: str, passed: bool, **figures: float) -> None:
        """Add the result of a check."""
        self.add(what, 'ok' if passed else 'FAILED', **figures)

    def start(self, name: str, *command: object, **environment: str) -> subprocess.Popen:
        """Start a program of `tools`, which prints to a log."""
        if self.args.device == 'cpu':
            environment['CUDA_VISIBLE_DEVICES'] = ''
        with (self.folder / f'{name}.log').open('w') as log:
            return subprocess.Popen(
                [sys.executable, *map(str, command)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )

    def wait(self, process: subprocess.Popen, seconds: float = math.inf) -> int:
        """Return the exit code; 124 if the time is over, and then all it started is killed."""
        try:
            return process.wait(max(0.1, min(seconds, self.end - time.monotonic())))
        except subprocess.TimeoutExpired:
            for pid in [process.pid, *crash_test.descendants(process.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            return TIME_IS_OVER

    def run(self, name: str, *command: object, **environment: str) -> int:
        """Start a program and wait for it."""
        return self.wait(self.start(name, *command, **environment))

    def benchmark(self, name: str, task: str, *options: object) -> dict[str, Any] | None:
        """Run a task of benchmark.py and add its checks; None if it did not end."""
        json_file = self.folder / f'{name}.json'
        json_file.unlink(missing_ok=True)
        command = (TOOLS / 'analysis_tools/benchmark.py', task, '--device', self.args.device)
        code = self.run(name, *command, '--json', json_file, *options)
        if code not in (0, 1) or not json_file.exists():
            self.add(f'{name}: exit code {code}', 'not run' if code == TIME_IS_OVER else 'FAILED')
            return None
        (report,) = json.loads(json_file.read_text())['reports']
        for what, passed in report['checks'].items():
            self.check(what, passed)
        return {row['name']: row for row in report['rows']}


def check_losses(session: Session) -> None:
    """(a) GHM losses: fused, plain and as a literal loop."""
    size = ('--images', 16)
    if session.args.small:
        size = ('--size', 64, 96, '--classes', 4, '--runs', 1)  # type: ignore[assignment]
    rows = session.benchmark('losses', 'loss', '--levels', 'all', '--compile', *size) or {}
    for name, row in rows.items():
        session.add(f'{name}, forward and backward', 'measured', seconds=row['median'])
    if rows and not session.args.small:
        what = f'GHMC is {FASTER_THAN_THE_LOOP} times as fast as the literal loop'
        session.check(what, rows['GHMC']['ratio'] >= FASTER_THAN_THE_LOOP, x=rows['GHMC']['ratio'])


def check_runs(session: Session) -> None:
    """(d) 50 steps at equal seeds, one of the two trainings killed and resumed."""
    epochs = 1 if session.args.small else 4  # of 13 steps
    # With this seed it is killed right after the first checkpoint.
    options = ('--kills', 1, '--seed', 38, '--images', 52, '--epochs', epochs, '--every', 5)
    code = session.run('runs', TOOLS / 'dev/crash_test.py', *options)
    what = f'{13 * epochs} steps, and the same killed and resumed, end with the same bits'
    session.check(what, code == 0) if code != TIME_IS_OVER else session.add(what, 'not run')


def check_two_processes(session: Session) -> None:
    """(e) Two processes on one card learn what one process learns."""
    folder = (session.folder / 'two').resolve()
    folder.mkdir(exist_ok=True)
    options = ['--processes', '1', '2', '--images', '8', '--epochs', '1']
    crash_test.Trial(folder, crash_test.parse_args(options))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get('PYTHONPATH')]))
    environment = dict(PYTHONPATH=path, OMP_NUM_THREADS='1')
    command = (TOOLS / 'train.py', folder / 'processes1.py', '--work-dir', folder / 'one')
    code = session.run('one_process', *command, **environment)
    for backend in ('nccl', 'gloo') if session.args.device != 'cpu' else ('gloo',):
        codes = [code, *_train_on_one_card(session, folder, backend, environment)]
        what = f'two processes on one card ({backend}) learn what one learns'
        if not any(codes):
            pair = [_last_checkpoint(folder / name) for name in ('one', backend)]
            different = list(crash_test.compare(*pair, TOLERANCE))
            return session.check(what, not different)
        if backend == 'nccl':
            session.add(f'{what}: exit codes {codes}, see nccl_*.log', 'not run')
    session.add(f'{what}: exit codes {codes}', 'not run' if TIME_IS_OVER in codes else 'FAILED')


def _train_on_one_card(
    session: Session, folder: Path, backend: str, environment: dict[str, str]
) -> list[int]:
    """Start both ranks with the same local rank; return their exit codes."""
    command = [TOOLS / 'train.py', folder / 'processes2.py', '--work-dir', folder / backend]
    command += ['--launcher', 'pytorch', '--cfg-options', f'env_cfg.dist_cfg.backend={backend}']
    environment = dict(environment, WORLD_SIZE='2', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1')
    environment['MASTER_PORT'] = str(29600 + os.getpid() % 300)
    ranks = [
        session.start(f'{backend}_{rank}', *command, RANK=str(rank), **environment)
        for rank in range(2)
    ]
    return [session.wait(process, 120) for process in ranks]


def _last_checkpoint(work_dir: Path) -> dict[str, Any]:
    return engine.load_checkpoint_file((work_dir / 'last_checkpoint').read_text())


def measure_training(session: Session, *options: str) -> None:
    """(b) img/s and memory of the four published models, 2 images of 1333x800."""
    for config, published in PUBLISHED_GB.items():
        size = ('--size', 64, 96, '--batch', 1, '--runs', 1) if session.args.small else ()
        name = '_'.join(['training', config.split('_ghm_')[1].split('_fpn')[0], *options])
        name = name.replace('--', '')
        rows = session.benchmark(name, 'step', '--config', config, '--amp', *options, *size) or {}
        for variant, row in rows.items():
            wanted = variant.startswith('ghmdet') and ('compiled' in variant or not options)
            if wanted and 'img/s' in row['notes']:
                figures = {'img/s': row['notes']['img/s'], 'published GB': published}
                if row['peak_bytes'] is not None:
                    figures['GB'] = row['peak_bytes'] / 1e9
                session.add(f'{config}, {variant}', 'measured', **figures)


def measure_compiled_training(session: Session) -> None:
    """(b) The same, compiled; last, since compiling takes minutes."""
    measure_training(session, '--compile')


def measure_inference(session: Session) -> None:
    """(c) img/s of R-50 eager, compiled and exported to ONNX, which runs on the CPU."""
    size = ('--size', 64, 96, '--runs', 1) if session.args.small else ('--compile',)
    rows = session.benchmark('inference', 'inference', '--amp', *size) or {}
    for variant, row in rows.items():
        if 'img/s' in row['notes']:
            session.add(f'inference, {variant}', 'measured', **{'img/s': row['notes']['img/s']})


def measure_onnx(session: Session) -> None:
    """(c) The same network as ONNX file."""
    missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        return session.add(f'ONNX: {", ".join(missing)} not installed', 'not run')
    config = 'retinanet_ghm_r18_fpn_shapes' if session.args.small else next(iter(PUBLISHED_GB))
    weights, image, file = (session.folder / f'onnx{end}' for end in ('.pth', '.png', '.onnx'))
    model = ghmdet.get_model(config)
    torch.save(dict(state_dict=model.state_dict()), weights)
    pixels = np.random.default_rng(0).integers(0, 256, (800, 1333, 3), dtype=np.uint8)
    cv2.imwrite(str(image), pixels)
    # With random weights the boxes may differ by more than the check of the export allows.
    possible = (file, file.with_suffix('.unchecked.onnx'))
    for earlier in possible:
        earlier.unlink(missing_ok=True)
    code = session.run(
        'onnx', TOOLS / 'export.py', config, weights, '--out', file, '--check', image
    )
    files = [path for path in possible if path.exists()]
    if not files:
        outcome = 'not run' if code == TIME_IS_OVER else 'FAILED'
        return session.add(f'export to ONNX, exit code {code}', outcome)
    detector = ghmdet.Detector(files[0])
    detector(pixels)
    begin = time.perf_counter()
    detector([pixels] * IMAGES)
    session.add(
        'inference, ONNX on the CPU, reading not included',
        'measured',
        **{'img/s': IMAGES / (time.perf_counter() - begin)},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts, the quick checks first; return 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--out', type=user_path, required=True, help='folder for results and logs')
    parser.add_argument('--device', default='cuda', help='cuda or cpu')
    parser.add_argument('--small', action='store_true', help='tiny images; figures mean nothing')
    parser.add_argument('--minutes', type=float, default=9.5, help='stop after so many')
    args = parser.parse_args(arguments)
    if args.device != 'cpu' and not torch.cuda.is_available():
        parser.error(f'--device {args.device}: torch {torch.__version__} finds no CUDA device')
    session = Session(args)
    parts = [check_losses, check_runs, check_two_processes]
    parts += [measure_training, measure_inference, measure_onnx]
    if not args.small:
        parts.append(measure_compiled_training)
    for part in parts:
        part(session)
    return int(any(result['outcome'] == 'FAILED' for result in session.results))


if __name__ == '__main__':
    run(lambda: sys.exit(main()))
