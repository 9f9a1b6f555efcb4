"""Measure what users wait for, against a named reference in the same run.

python tools/analysis_tools/benchmark.py TASK [--device cuda] [--amp] [--compile] [--json FILE]

`loss`: GHM-C and GHM-R, forward and backward, against literal loops over the bins.
`step`: a training step and its parts, against torchvision's RetinaNet.
`inference`: detecting, against torchvision's RetinaNet.
`dataloader`: a training pipeline, against mmcv's transforms in a row.
`dataset`: reading an annotation file of train2017's size, against pycocotools.
`evaluation`: COCO's twelve numbers, against pycocotools.
`startup`: `--help` of the tools, against `import torch`.
`all`: one after the other.

Nothing is downloaded: weights are random, images and annotations are drawn.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from benchmarks import dataloader, dataset, evaluation, inference, loss, startup, step
from benchmarks.machine import describe_machine, list_versions, measure_rates
from benchmarks.measure import quiet_log

from ghmdet.config.cli import add_debug_argument, run, user_path

TASKS = {
    'loss': loss,
    'step': step,
    'inference': inference,
    'dataloader': dataloader,
    'dataset': dataset,
    'evaluation': evaluation,
    'startup': startup,
}


def make_parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N')
    common.add_argument('--amp', action='store_true', help='step, inference: also mixed precision')
    common.add_argument('--compile', action='store_true', help='step, inference: also compiled')
    common.add_argument('--runs', type=int, default=5, help='timed runs of each variant')
    add_debug_argument(common)
    common.add_argument('--json', type=user_path, help='also write the figures here')
    parser = argparse.ArgumentParser(description='Measure against a reference.')
    tasks = parser.add_subparsers(dest='task', required=True)
    for name, task in TASKS.items():
        task.add_arguments(tasks.add_parser(name, parents=[common], help=task.__doc__))
    tasks.add_parser('all', parents=[common], help='all tasks, each with its defaults')
    return parser


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
    rates = measure_rates(first.device)
    machine = {**describe_machine(first.device), 'rates': rates._asdict()}
    print_heading(machine, list_versions())
    reports = []
    for args in tasks:
        with quiet_log():
            report = TASKS[args.task].run(args, rates)
        report.print()
        reports.append({**report.to_dict(), 'arguments': vars(args)})
        if first.json:  # after each, so that what was measured is kept whatever happens next
            content = dict(machine=machine, versions=list_versions(), reports=reports)
            first.json.write_text(json.dumps(content, indent=2, default=str))
    return reports


if __name__ == '__main__':
    run(lambda: sys.exit(not all(all(report['checks'].values()) for report in main())))
