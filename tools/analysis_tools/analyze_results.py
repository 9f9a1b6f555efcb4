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
from typing import Any, NamedTuple

import marked_pictures
import results_arguments
from marked_pictures import GOOD, UNCOUNTED, WRONG, Mark

from ghmdet.config.cli import LazyModule, run, user_path
from ghmdet.files import write_table

matplotlib: Any = LazyModule('matplotlib')
np: Any = LazyModule('numpy')

_SHOWN_IMAGES = 10


class ImageScore(NamedTuple):
    """What an image has; `f1` is in [0, 1]."""

    rank: int  # from 1, the worst
    image_id: Any
    file_name: str | None
    f1: float
    objects: int
    found: int
    missed: int
    detections: int
    false_positives: int


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
    scores = score_images(matches, results.truth)
    rows = count_classes(matches)
    args.show_dir.mkdir(parents=True, exist_ok=True)
    write_table(args.show_dir / 'images.csv', [ImageScore._fields, *scores])
    write_table(args.show_dir / 'classes.csv', [_CLASS_COLUMNS, *rows])
    print('\n'.join([*format_classes(rows), '', *format_images(scores)]))
    pictures = marked_pictures.Pictures(results.img_dir, args.show, args.wait_time)
    bad = [score for score in scores if score.missed or score.false_positives][: args.topk]
    left = scores[len(bad) :][::-1][: args.topk]
    for name, chosen in (('bad', bad), ('good', left)):
        marked_pictures.clear_pictures(args.show_dir / name)
        for rank, score in enumerate(chosen, 1):
            draw_image(matches, score, rank, pictures, args.show_dir / name)
    print(f'\nwritten to {args.show_dir}: images.csv, classes.csv; {pictures.report()}')


def score_images(matches: Any, truth: Any) -> list[ImageScore]:
    """Return all images, the worst first; equal ones in the order of the annotation file."""
    found, objects = matches.detections, matches.objects
    size = len(matches.image_ids)
    totals, hits, false = (
        np.bincount(images, minlength=size)
        for images in (
            objects.image[~objects.ignored],
            found.image[found.is_true],
            found.image[found.is_false],
        )
    )
    shown = totals + hits + false
    f1 = np.where(shown > 0, 2 * hits / np.maximum(shown, 1), 1.0)
    order = np.lexsort((-(totals - hits + false), f1)).tolist()
    columns = [column.tolist() for column in (f1, totals, hits, totals - hits, hits + false, false)]
    scores = []
    for rank, index in enumerate(order, 1):
        id_ = matches.image_ids[index]
        values = (column[index] for column in columns)
        scores.append(ImageScore(rank, id_, truth.images[id_].file_name, *values))
    return scores


_CLASS_COLUMNS = 'class', 'objects', 'found', 'missed', 'detections', 'false_positives'


def count_classes(matches: Any) -> list[tuple[str, int, int, int, int, int]]:
    """Return the counts of each class, and of all."""
    found, size = matches.detections, len(matches.classes)
    totals = matches.count_objects()
    hits, false = (
        np.bincount(found.label[chosen], minlength=size)
        for chosen in (found.is_true, found.is_false)
    )
    table = np.stack([totals, hits, totals - hits, hits + false, false], axis=1)
    names = [*matches.classes, 'all']
    rows = [*table.tolist(), table.sum(axis=0).tolist()]
    return [(name, *row) for name, row in zip(names, rows, strict=True)]


def format_classes(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the table of classes, those with most errors first, and the sum."""
    total = rows[-1]
    rows = [row for row in rows[:-1] if any(row[1:])]
    rows = sorted(rows, key=lambda row: -(row[3] + row[5]))
    width = max(len(row[0]) for row in [*rows, _CLASS_COLUMNS])
    heading = f'{_CLASS_COLUMNS[0]:{width}}' + ''.join(f'{name:>17}' for name in _CLASS_COLUMNS[1:])
    table = [f'{row[0]:{width}}' + ''.join(f'{n:>17,}' for n in row[1:]) for row in [*rows, total]]
    return [heading, *table]


def format_images(scores: Sequence[ImageScore]) -> list[str]:
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


def draw_image(matches: Any, score: ImageScore, rank: int, pictures: Any, folder: Path) -> None:
    """Draw one image with what was found, missed and false."""
    found, objects, classes = matches.detections, matches.objects, matches.classes
    index = matches.image_ids.index(score.image_id)
    left, right = [], []
    for i in np.flatnonzero(objects.image == index).tolist():
        text = classes[objects.label[i]]
        if objects.ignored[i]:
            mark = f'not counted: {text}', UNCOUNTED
        elif objects.detection[i] >= 0:
            mark = text, GOOD
        else:
            mark = f'missed {text}', WRONG
        left.append(Mark(objects.bbox[i], *mark))
    of_image = np.flatnonzero(found.image == index)
    for i in of_image[np.argsort(found.score[of_image], kind='stable')].tolist():
        text = f'{classes[found.label[i]]} {found.score[i]:.2f}'
        if found.ignored[i]:
            mark = f'not counted: {text}', UNCOUNTED
        else:
            mark = (text, GOOD) if found.is_true[i] else (f'false {text}', WRONG)
        right.append(Mark(found.bbox[i], *mark))
    name = marked_pictures.picture_name(f'{rank:03}', f'{score.f1:.3f}', score.file_name or '')
    pictures.draw(score.file_name, left, right, folder / name)


if __name__ == '__main__':
    run(main)
