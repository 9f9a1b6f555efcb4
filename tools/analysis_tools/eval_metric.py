"""Evaluate detections in a file: the figures of the test that wrote it.

python tools/analysis_tools/eval_metric.py CONFIG RESULTS [--out JSON] [--classwise]
python tools/analysis_tools/eval_metric.py RESULTS ANN

With a config the settings of its test_evaluator are used; without, COCO's.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from results.arguments import (
    Results,
    add_results_arguments,
    check_json,
    read_results,
    write_json,
)

from ghmdet.config.cli import LazyModule, run

coco_metric = LazyModule('ghmdet.evaluation.coco_metric')


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate detections in a file.')
    add_results_arguments(parser)
    parser.add_argument('--classwise', action='store_true', help='also AP of each class')
    parser.add_argument('--out', type=check_json, metavar='JSON', help='write the figures here')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    results = read_results(args)
    figures = evaluate(results, **({'classwise': True} if args.classwise else {}))
    print('\n'.join(f'{name}: {value:.4f}' for name, value in figures.items()))
    if args.out:
        values = {name: None if math.isnan(value) else value for name, value in figures.items()}
        write_json(args.out, values)
        print(f'written to {args.out}')


def evaluate(results: Results, **changes: Any) -> dict[str, float]:
    """Return the figures by the metric of the results, with some of its arguments changed."""
    # mmengine sets _scope_ where the _base_ is that of a package.
    unused = 'type', '_scope_'
    settings = {key: value for key, value in results.metric.items() if key not in unused}
    settings |= dict(format_only=False, outfile_prefix=None, **changes)
    metric = coco_metric.CocoMetric(**settings)
    metric.dataset_meta = {'classes': results.classes}
    metric.results.extend(results.images)
    return metric.evaluate(len(results.images))


if __name__ == '__main__':
    run(main)
