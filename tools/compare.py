"""Compare settings by trainings over several seeds, with intervals.

python tools/compare.py CONFIG --variant ghm --variant focal KEY=VALUE --data NAME=ROOT --out DIR

Trains the config with each variant (settings as in --cfg-options) on each data with each seed, and
writes runs.csv, curves.csv, comparison.csv, comparison.md and comparison.html into DIR: mean,
standard deviation and 95 % interval over the seeds, and the differences to the first variant, seed
by seed. ROOT has annotations/train.json, annotations/val.json and images/. Each run is a training
of its own in DIR/DATA/VARIANT/seed_N. Called again with the same settings, it resumes what was
interrupted, tries failed runs again, and adds runs that are new. Results are those of the last
validation. The exit code is 1 if a run failed; it is named and left out.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from ghmdet.config.arguments import read_count
from ghmdet.config.cli import LazyModule, add_debug_argument, outlive_readers, run, user_path

runs_of: Any = LazyModule('comparison.runs')
processes: Any = LazyModule('comparison.processes')
tables: Any = LazyModule('comparison.tables')
torch: Any = LazyModule('torch')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Compare settings by trainings over several seeds, with intervals.'
    )
    add = parser.add_argument
    add('config', help='config file, or the name of a config that ghmdet ships')
    add(
        '--variant',
        nargs='+',
        action='append',
        metavar=('NAME', 'KEY=VALUE'),
        help='a name and its settings, as in --cfg-options; the first is what others are compared '
        'with. Default: the config as it is',
    )
    add(
        '--data',
        nargs='+',
        action='append',
        metavar=('NAME=ROOT', 'KEY=VALUE'),
        help='a name, a folder with annotations/{train,val}.json and images/, and settings for '
        'these data. Default: the data of the config',
    )
    add(
        '--cfg-options',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=VALUE',
        help='settings of all runs',
    )
    add('--seeds', type=read_count, default=3, metavar='N', help='number of seeds (3)')
    add('--first-seed', type=int, default=0, metavar='SEED', help='the first of them (0)')
    add(
        '--jobs',
        type=read_count,
        metavar='N',
        help='trainings at a time (half of the cores; 1 with a GPU)',
    )
    add('--threads', type=read_count, metavar='N', help='threads of each (cores / jobs)')
    add('--out', type=user_path, help='folder of runs and tables (work_dirs/compare_CONFIG)')
    add_debug_argument(parser)
    args = parser.parse_args()
    for name, *_ in args.variant or ():
        if '=' in name and '.' in name.partition('=')[0]:
            parser.error(f'--variant expects a name before its settings, got {name!r}')
    for word, *_ in args.data or ():
        if not all(word.partition('=')):
            parser.error(f'--data expects NAME=ROOT, e.g. cells=data/cells, got {word!r}')
    if args.first_seed < 0:
        parser.error(f'--first-seed expects an integer of at least 0, got {args.first_seed}')
    args.out = args.out or Path('work_dirs', f'compare_{Path(args.config).stem}')
    return args


def main() -> None:
    """Run the program."""
    args = parse_args()
    outlive_readers()
    variants = [runs_of.Settings(name, rest) for name, *rest in args.variant or [['base']]]
    data = [_read_data(*words) for words in args.data or [['data']]]
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    out = args.out
    runs = runs_of.plan_runs(args.config, args.cfg_options, variants, data, seeds, out)
    cores = os.cpu_count() or 1
    jobs = args.jobs or (1 if torch.cuda.is_available() else max(1, cores // 2))
    threads = args.threads or max(1, cores // jobs)
    done = sum(each.state == 'finished' for each in runs)
    print(
        f'{len(runs)} runs: {len(data)} data x {len(variants)} variants x {len(seeds)} seeds; '
        f'{done} finished; {jobs} at a time with {threads} threads each',
        flush=True,
    )
    report = Report(args, runs)
    try:
        processes.Processes(jobs, threads).run(runs, report.add)
    finally:
        report.write()
    print(f'tables: {out / "comparison.md"}, comparison.html, comparison.csv')
    failed = [each for each in runs if each.state != 'finished']
    if failed:
        print(f'{len(failed)} of {len(runs)} runs failed and are left out', file=sys.stderr)
        raise SystemExit(1)


def _read_data(word: str, *options: str) -> Any:
    name, equals, root = word.partition('=')
    return runs_of.Settings(name, list(options), os.path.expanduser(root) if equals else None)


class Report:
    """Prints a line for each run that has ended, and writes the tables."""

    def __init__(self, args: argparse.Namespace, runs: list[Any]) -> None:
        self._args, self._runs = args, runs
        self._told = set[tuple[str, str, str]]()
        self._started, self._before = time.monotonic(), [each.progress() for each in runs]

    def add(self, ended: Any) -> None:
        """Print how a run ended, and when all will have; write the tables so far."""
        if not ended.state:  # interrupted
            return
        row, _ = ended.rows()
        key = next((key for key in row if key.endswith('mAP')), None)
        result = f'{key} {row[key]:.3f}, {row["minutes"]:.1f} minutes' if key else ended.state
        count, gained, rest = sum(bool(each.state) for each in self._runs), 0.0, 0.0
        for each, before in zip(self._runs, self._before, strict=True):
            if not each.state.startswith('failed'):
                progress = each.progress()
                gained, rest = gained + progress - before, rest + 1 - progress
        left = timedelta(seconds=int((time.monotonic() - self._started) * rest / max(gained, 0.01)))
        eta = f'; the rest takes about {left}' if left and gained > 0.01 else ''
        print(f'{count}/{len(self._runs)} {ended}: {result}{eta}', flush=True)
        for text in ended.read_warnings():
            if (ended.data, ended.variant, text) not in self._told:
                self._told.add((ended.data, ended.variant, text))
                print(f'  warning: {text}', flush=True)
        self.write()

    def write(self) -> None:
        """Write the tables of the runs that have finished."""
        data = list(dict.fromkeys(each.data for each in self._runs))
        variants = list(dict.fromkeys(each.variant for each in self._runs))
        ordered = sorted(
            self._runs,
            key=lambda each: (data.index(each.data), variants.index(each.variant), each.seed),
        )
        found = [each.rows() for each in ordered]
        ended = sum(bool(each.state) for each in self._runs)
        heading = {
            'config': self._args.config,
            'command': shlex.join(['python', 'tools/compare.py', *sys.argv[1:]]),
            'runs': f'{ended} of {len(found)} have ended',
        }
        curves = [row for _, rows in found for row in rows]
        tables.write_comparison(self._args.out, [row for row, _ in found], curves, heading)


if __name__ == '__main__':
    run(main)
