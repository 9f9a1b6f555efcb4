"""Evaluate detections in a file: the figures of the test that wrote it.

python tools/analysis_tools/eval_metric.py CONFIG RESULTS [--out JSON] [--classwise]
python tools/analysis_tools/eval_metric.py RESULTS ANN

With a config the settings of its test_evaluator are used; without, COCO's.
"""

from __future__ import annotations

import argparse
import json
import math

from results_arguments import add_results_arguments, read_results

from ghmdet.config.cli import LazyModule, run, user_path
from ghmdet.files import replacing

coco_metric = LazyModule('ghmdet.evaluation.coco_metric')


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate detections in a file.')
    add_results_arguments(parser)
    parser.add_argument('--classwise', action='store_true', help='also AP of each class')
    parser.add_argument('--out', type=user_path, metavar='JSON', help='write the figures here')
    args = parser.parse_args(argv)
    if args.out and args.out.suffix != '.json':
        parser.error(f'--out is a JSON file, its name must end in .json, got {args.out}')
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    results = read_results(args)
    settings = {key: value for key, value in results.metric.items() if key != 'type'}
    settings |= dict(format_only=False, outfile_prefix=None)
    if args.classwise:
        settings['classwise'] = True
    metric = coco_metric.CocoMetric(**settings)
    metric.dataset_meta = {'classes': results.classes}
    metric.results.extend(results.images)
    figures = metric.evaluate(len(results.images))
    print('\n'.join(f'{name}: {value:.4f}' for name, value in figures.items()))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        values = {name: None if math.isnan(value) else value for name, value in figures.items()}
        with replacing(args.out) as draft:
            draft.write_text(json.dumps(values, indent=1), encoding='utf-8')
        print(f'written to {args.out}')


if __name__ == '__main__':
    run(main)
