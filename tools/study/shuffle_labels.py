"""Give a share of the training boxes a wrong class, to measure what wrong labels do to a training.

python tools/study/shuffle_labels.py ROOT OUT [--share 0.2] [--seed 0]

ROOT has annotations/{train,val}.json and images/. OUT gets train.json with the wrong classes, the
same val.json and a link to the images.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from typing import Any

from ghmdet.argument_checks import check_range
from ghmdet.coco.classes import find_classes, match_classes
from ghmdet.coco.reader import read_coco_json
from ghmdet.config import cli
from ghmdet.files import explain_look_alike, replacing


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Give a share of the boxes a wrong class.')
    parser.add_argument('root', type=cli.user_path, help='folder of annotations/ and images/')
    parser.add_argument('out', type=cli.user_path, help='folder to write')
    parser.add_argument('--share', type=float, default=0.2, help='of the boxes (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the random choice (%(default)s)')
    cli.add_debug_argument(parser)
    return parser.parse_args()


def shuffle(data: dict[str, Any], ids: list[Any], share: float, seed: int) -> tuple[int, int]:
    """Change `category_id` of a share of the annotations in place.

    The new one is drawn evenly from the others of `ids`, at least two. Regions to ignore stay.

    Returns:
        How many were changed, share x n rounded, and n.
    """
    drawn = random.Random(seed)
    boxes = [a for a in data['annotations'] if not a.get('iscrowd') and not a.get('ignore')]
    chosen = drawn.sample(boxes, round(share * len(boxes)))
    for box in chosen:
        box['category_id'] = drawn.choice([id_ for id_ in ids if id_ != box['category_id']])
    return len(chosen), len(boxes)


def main() -> None:
    args = parse_args()
    check_range('--share', args.share, 0, 1)
    train, images = args.root / 'annotations' / 'train.json', args.root / 'images'
    records, data = read_coco_json(str(train))
    if not images.is_dir():
        raise FileNotFoundError(f'no folder {images}{explain_look_alike(images)}')
    classes, annotated = find_classes(records).classes, set(records.annotations.category_ids)
    if len(classes) < 2:
        raise ValueError(f'{train}: expected at least two classes, got {", ".join(classes)}')
    if args.out.exists() and args.out.samefile(args.root):
        raise ValueError(f'OUT is ROOT, whose files would be lost: {args.out}')
    ids = match_classes(classes, records.categories, str(train), annotated)
    changed, count = shuffle(data, ids, args.share, args.seed)
    folder, link = args.out / 'annotations', args.out / 'images'
    folder.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(images.resolve(), target_is_directory=True)
    elif not link.samefile(images):
        raise FileExistsError(f'{link} is not a link to {images}')
    shutil.copyfile(train.with_name('val.json'), folder / 'val.json')
    with replacing(folder / 'train.json') as draft:
        draft.write_text(json.dumps(data, ensure_ascii=False), encoding='utf-8')
    print(f'{folder / "train.json"}: {changed:,} of {count:,} boxes have another class')


if __name__ == '__main__':
    cli.run(main)
