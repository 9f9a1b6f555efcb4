"""Where to cut: precision, recall and F1 over the score, and the best threshold of each class.

python tools/analysis_tools/threshold.py RESULTS ANN [--out thresholds.json] [--curves DIR]
python tools/analysis_tools/threshold.py CONFIG RESULTS [--iou-thr 0.5]

The best threshold has the highest F1; of equal ones it is the highest. Detections with a score of
at least the threshold count. `python -m ghmdet.predict --class-thr @thresholds.json` uses the file.
"""

from __future__ import annotations

import argparse

from results.arguments import (
    add_results_arguments,
    check_json,
    check_share,
    read_results,
    write_json,
)

from ghmdet.config.cli import LazyModule, run, user_path

thresholds = LazyModule('ghmdet.evaluation.thresholds')


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Find the best score threshold of each class.')
    add_results_arguments(parser)
    parser.add_argument(
        '--iou-thr', type=check_share, default=0.5, help='IoU from which a detection is true (0.5)'
    )
    parser.add_argument('--out', type=check_json, metavar='JSON', help='write the thresholds here')
    parser.add_argument(
        '--curves', type=user_path, metavar='DIR', help='write curves.csv and curves.png there'
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    curves = thresholds.make_curves(read_results(args).match(iou_thr=args.iou_thr))
    best = thresholds.best_thresholds(curves, args.iou_thr)
    print(thresholds.format_thresholds(best))
    if args.out:
        write_json(args.out, best)
        print(f'written to {args.out}')
    if args.curves:
        thresholds.write_curves(args.curves, curves)
        print(f'curves written to {args.curves}')


if __name__ == '__main__':
    run(main)
