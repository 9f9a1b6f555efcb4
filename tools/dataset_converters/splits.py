"""Splits images into training, validation and test, groups of them together."""

from __future__ import annotations

import argparse
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

SPLIT_NAMES = ('train', 'val', 'test')
_ROBOFLOW = re.compile(r'(.+)\.rf\.\w+(\.\w+)')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says how images are split, besides `--split` itself."""
    parser.add_argument('--seed', type=int, default=0, help='of the split (%(default)s)')
    parser.add_argument(
        '--stratify', action='store_true', help='give each split its share of each class'
    )
    parser.add_argument(
        '--group-by',
        metavar='PATTERN',
        help='regular expression; images whose names have the '
        'same text for it, or for its first group, stay in one split',
    )


def read_shares(text: str) -> list[float]:
    """Read `--split`: two or three numbers that add up to 1; a ValueError says what is wrong."""
    try:
        shares = [float(part) for part in text.split(',')]
    except ValueError:
        shares = []
    if len(shares) not in (2, 3) or not all(0 < share < 1 for share in shares):
        raise ValueError(
            f'--split needs the shares of train,val or train,val,test, each above 0, such as '
            f'0.8,0.2, got {text!r}'
        )
    if not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f'the shares of --split must add up to 1, got {text}: {sum(shares):g}')
    return shares


def find_original(name: str) -> str:
    """Return the name without what Roboflow adds to copies of an image: `.rf.` and a hash."""
    base = PurePosixPath(name).name
    match = _ROBOFLOW.fullmatch(base)
    return match[1] + match[2] if match else name


def name_groups(names: Sequence[str], pattern: str | None) -> list[str]:
    """Return the group of each image; Roboflow's copies of an image are always of one group.

    Args:
        names: file names.
        pattern: regular expression that is searched in the names; its first group, or else all of
            it, is the name of the group. An image in whose name it is not found is its own group.

    Raises:
        ValueError: it is no regular expression, or is in no name.
    """
    originals = [find_original(name) for name in names]
    if pattern is None:
        return originals
    try:
        matches = [re.search(pattern, name) for name in originals]
    except re.error as error:
        raise ValueError(f'--group-by {pattern!r} is no regular expression: {error}') from None
    if not any(matches):
        raise ValueError(f'--group-by {pattern!r} is in no file name, such as {names[0]!r}')
    pairs = zip(matches, originals, strict=True)
    # The prefix keeps the two kinds apart.
    return [f'group {m[m.re.groups > 0] or m[0]}' if m else f'image {name}' for m, name in pairs]


def split_groups(
    groups: Sequence[str],
    labels: Sequence[Iterable[str]],
    shares: Sequence[float],
    seed: int,
    stratify: bool,
) -> list[int]:
    """Return the number of the split of each image, such that a group is never divided.

    Without `stratify` each split gets its share of the images, as nearly as the groups allow. With
    it, each split gets its share of the boxes of each class, the rarest class first (iterative
    stratification, Sechidis et al. 2011), and of the images without boxes.

    Args:
        groups: of each image.
        labels: the classes of the boxes of each image.
        shares: of each split; they add up to 1.
        seed: of the order in which groups of the same size are taken.
        stratify: see above.

    Raises:
        ValueError: there are fewer groups than splits.
    """
    sizes = Counter(groups)
    if len(sizes) < len(shares):
        raise ValueError(
            f'{len(groups)} images in {len(sizes)} groups cannot fill {len(shares)} splits: leave '
            'out --split or --group-by'
        )
    boxes: dict[str, Counter[str]] = {group: Counter() for group in sizes}
    for group, names in zip(groups, labels, strict=True):
        boxes[group].update(names)
    order = sorted(sizes)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda group: -sizes[group])
    split_of = _assign(order, sizes, boxes if stratify else {}, shares)
    _fill_empty(split_of, sizes, len(shares))
    return [split_of[group] for group in groups]


def _assign(
    order: Sequence[str],
    sizes: Mapping[str, int],
    boxes: Mapping[str, Counter[str]],
    shares: Sequence[float],
) -> dict[str, int]:
    """Give each group to the split that lacks most of its rarest class, then most images."""
    totals = sum(boxes.values(), Counter[str]())
    lacking = [{name: share * count for name, count in totals.items()} for share in shares]
    images = [share * sum(sizes.values()) for share in shares]
    split_of: dict[str, int] = {}
    left = dict.fromkeys(order)

    def give(group: str, name: str | None) -> None:
        numbers = range(len(shares))
        best = max(numbers, key=lambda i: (lacking[i][name] if name else 0, images[i]))
        images[best] -= sizes[group]
        for label, count in boxes.get(group, {}).items():
            lacking[best][label] -= count
            totals[label] -= count
        split_of[group] = best
        del left[group]

    while any(totals.values()):
        name = min((count, name) for name, count in totals.items() if count)[1]
        having = [group for group in left if boxes[group][name]]
        for group in sorted(having, key=lambda group: -boxes[group][name]):
            give(group, name)
    for group in list(left):
        give(group, None)
    return split_of


def _fill_empty(split_of: dict[str, int], sizes: Mapping[str, int], count: int) -> None:
    """Give each empty split the smallest group of the split with most groups."""
    for number in range(count):
        counts = Counter(split_of.values())
        if not counts[number]:
            (largest, _), *_ = counts.most_common(1)
            of_largest = [group for group, split in split_of.items() if split == largest]
            split_of[min(of_largest, key=lambda group: sizes[group])] = number
