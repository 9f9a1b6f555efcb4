"""The project's own annotation format: a CSV table with one row per cell."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

COLUMNS = ('image', 'width', 'height', 'kind', 'x1', 'y1', 'x2', 'y2')


def write_table(path: str | Path, rows: Iterable[tuple]) -> None:
    """Write rows of `COLUMNS`; an image without cells has one row with an empty kind."""
    with open(path, 'w', newline='') as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def read_table(path: str | Path, classes: tuple[str, ...]) -> list[dict]:
    """Read a table in the format of ghmdet's pipeline, one dict per image, sorted by name.

    Raises:
        ValueError: a row names a kind that is not among `classes`.
    """
    images: dict[str, dict] = {}
    with open(path, newline='') as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            name, size = row['image'], (int(row['width']), int(row['height']))
            image = images.setdefault(
                name, dict(img_id=name, width=size[0], height=size[1], instances=[])
            )
            if not row['kind']:
                continue
            if row['kind'] not in classes:
                raise ValueError(f'{path}, line {number}: {row["kind"]!r} is none of {classes}')
            image['instances'].append(
                dict(
                    bbox=[float(row[side]) for side in ('x1', 'y1', 'x2', 'y2')],
                    bbox_label=classes.index(row['kind']),
                    ignore_flag=0,
                )
            )
    return [images[name] for name in sorted(images)]
