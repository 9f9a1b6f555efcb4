"""Draw the demo dataset of coloured shapes.

python tools/dataset_converters/shapes.py --out data/shapes --train 300 --val 60 --seed 0
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ghmdet.config.cli import LazyModule, add_debug_argument, run, user_path

datasets = LazyModule('ghmdet.datasets')


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description='Draw COCO-format images of coloured shapes.')
    parser.add_argument(
        '--out', type=user_path, default='data/shapes', help='folder to write to (%(default)s)'
    )
    parser.add_argument('--train', type=int, default=300, help='images to train on (%(default)s)')
    parser.add_argument('--val', type=int, default=60, help='images to validate on (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='same seed, same bytes (%(default)s)')
    add_debug_argument(parser)
    args = parser.parse_args(argv)
    on_image = show_progress if sys.stdout.isatty() else None
    counts = {'train': args.train, 'val': args.val}
    files = datasets.draw_shapes(args.out, counts, args.seed, on_image=on_image)
    for split, file in files.items():
        print(f'{split}: {file}')


def show_progress(split: str, done: int, total: int) -> None:
    print(f'\r{split} {done}/{total}', end='\n' if done == total else '', flush=True)


if __name__ == '__main__':
    run(main)
