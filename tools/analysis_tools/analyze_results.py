"""Find the images that a detector gets wrong, and draw the worst and the best.

python tools/analysis_tools/analyze_results.py CONFIG RESULTS SHOW_DIR [--topk N]
python tools/analysis_tools/analyze_results.py RESULTS ANN SHOW_DIR [--img-dir DIR] [--topk N]

An image is as good as its F1, 2 x found / (objects + detections that count), at IoU 0.5 and the
score threshold. An image without objects and detections has 1. Of equal F1 the image with more
errors is worse. What matches a crowd region or an ignored box does not count.

Writes images.csv (all images, the worst first), classes.csv, and pictures named by rank, F1 and
image: bad/ has the worst images that have errors, good/ the best of the others. On the left is the
ground truth, missed objects in red, on the right are the detections, false ones in red.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results import arguments as results_arguments

from ghmdet.config.cli import LazyModule, run, user_path
from ghmdet.files import write_table

image_scores: Any = LazyModule('results.image_scores')
marked_pictures: Any = LazyModule('ghmdet.visualization.marked_pictures')
matplotlib: Any = LazyModule('matplotlib')

_SHOWN_IMAGES = 10


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Find the images that a detector gets wrong.')
    results_arguments.add_results_arguments(parser, images=True)
    parser.add_argument('show_dir', type=user_path, help='folder of the tables and pictures')
    parser.add_argument('--topk', type=int, default=20, help='how many of the worst and best (20)')
    parser.add_argument(
        '--show-score-thr',
        type=float,
        default=0.3,
        help='score from which a detection counts and is drawn (0.3)',
    )
    parser.add_argument('--show', action='store_true', help='also open a window for each picture')
    parser.add_argument(
        '--wait-time',
        type=float,
        default=0,
        help='seconds to show a window (0: until the space key is pressed)',
    )
    args = parser.parse_args(argv)
    if args.topk < 0:
        parser.error(f'--topk must not be negative, got {args.topk}')
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.show and matplotlib.get_backend().lower() == 'agg':
        raise ValueError(
            '--show cannot open a window: matplotlib found no display, or no GUI toolkit. Leave '
            'it out, the pictures are written to SHOW_DIR'
        )
    results = results_arguments.read_results(args)
    matches = results.match(score_thr=args.show_score_thr)
    scores = image_scores.score_images(matches, results.truth)
    rows = image_scores.count_classes(matches)
    args.show_dir.mkdir(parents=True, exist_ok=True)
    write_table(args.show_dir / 'images.csv', [image_scores.ImageScore._fields, *scores])
    write_table(args.show_dir / 'classes.csv', [image_scores.CLASS_COLUMNS, *rows])
    print('\n'.join([*format_classes(rows), '', *format_images(scores)]))
    pictures = marked_pictures.Pictures(results.img_dir, args.show, args.wait_time)
    bad = [score for score in scores if score.missed or score.false_positives][: args.topk]
    left = scores[len(bad) :][::-1][: args.topk]
    for name, chosen in (('bad', bad), ('good', left)):
        marked_pictures.clear_pictures(args.show_dir / name)
        for rank, score in enumerate(chosen, 1):
            draw_image(matches, score, rank, pictures, args.show_dir / name)
    print(f'\nwritten to {args.show_dir}: images.csv, classes.csv; {pictures.report()}')


def format_classes(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the table of classes, those with most errors first, and the sum."""
    columns, total = image_scores.CLASS_COLUMNS, rows[-1]
    rows = [row for row in rows[:-1] if any(row[1:])]
    rows = sorted(rows, key=lambda row: -(row[3] + row[5]))
    width = max(len(row[0]) for row in [*rows, columns])
    heading = f'{columns[0]:{width}}' + ''.join(f'{name:>17}' for name in columns[1:])
    table = [f'{row[0]:{width}}' + ''.join(f'{n:>17,}' for n in row[1:]) for row in [*rows, total]]
    return [heading, *table]


def format_images(scores: Sequence[Any]) -> list[str]:
    """Return the worst images, and how many have errors."""
    wrong = [score for score in scores if score.missed or score.false_positives]
    lines = [f'{len(wrong):,} of {len(scores):,} images have errors']
    for score in wrong[:_SHOWN_IMAGES]:
        name = score.file_name or f'image {score.image_id!r}'
        lines.append(
            f'  F1 {score.f1:.3f}  {name}: {score.found} of {score.objects} found, '
            f'{score.false_positives} false'
        )
    return lines


def draw_image(matches: Any, score: Any, rank: int, pictures: Any, folder: Path) -> None:
    """Draw one image with what was found, missed and false."""
    marks = marked_pictures.mark_image(matches, matches.image_ids.index(score.image_id))
    name = marked_pictures.picture_name(f'{rank:03}', f'{score.f1:.3f}', score.file_name or '')
    pictures.draw(score.file_name, *marks, folder / name)


if __name__ == '__main__':
    run(main)
