"""Measure what users wait for, against a named reference in the same run.

python tools/analysis_tools/benchmark.py TASK [--device cuda] [--amp] [--compile] [--json FILE]

--help lists the tasks; `all` runs one after the other. Nothing is downloaded: weights are random,
images and annotations are drawn.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.arguments import TASKS as NAMES
from benchmarks.arguments import make_parser

from ghmdet.config.cli import LazyModule, run

torch = LazyModule('torch')
measure = LazyModule('benchmarks.measure')
TASKS = {name: LazyModule(f'benchmarks.{name}') for name in NAMES}


def parse_args(argv: Sequence[str]) -> list[argparse.Namespace]:
    """Return the arguments of each task that is to be run."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.runs < 1:
        parser.error(f'--runs must be at least 1, got {args.runs}')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device}: torch {torch.__version__} finds no CUDA device')
    if args.task != 'all':
        return [args]
    rest = list(argv)
    rest.remove('all')
    return [parser.parse_args([name, *rest]) for name in TASKS]


def print_heading(machine: dict[str, Any], versions: dict[str, str]) -> None:
    print('; '.join(f'{key} {value}' for key, value in machine.items() if key != 'rates'))
    print(', '.join(f'{package} {number}' for package, number in versions.items()))
    rates = machine['rates']
    flop = ', '.join(f'{r / 1e9:.0f} GFLOP/s {t}' for t, r in rates['flop_per_second'].items())
    print(f'measured here: copies {rates["bytes_per_second"] / 1e9:.1f} GB/s, computes {flop}')


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the tasks; the exit code is 1 where a check failed."""
    tasks = parse_args(sys.argv[1:] if argv is None else argv)
    first = tasks[0]
    rates = measure.measure_rates(first.device)
    machine = {**measure.describe_machine(first.device), 'rates': rates._asdict()}
    print_heading(machine, measure.list_versions())
    reports = []
    for args in tasks:
        with measure.quiet_log():
            report = TASKS[args.task].run(args, rates)
        report.print()
        reports.append({**report.to_dict(), 'arguments': vars(args)})
        if first.json:  # after each, so that what was measured is kept whatever happens next
            content = dict(machine=machine, versions=measure.list_versions(), reports=reports)
            first.json.write_text(json.dumps(content, indent=2, default=str))
    return reports


if __name__ == '__main__':
    run(lambda: sys.exit(not all(all(report['checks'].values()) for report in main())))
