"""Draw images that look like those of a microscope: python -m cellcount.draw FOLDER."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from cellcount.table import write_table

COLOURS = dict(red=(90, 80, 200), white=(230, 225, 235))  # blue, green, red


def draw_cells(folder: str | Path, counts: dict[str, int], seed: int = 0, size: int = 96) -> None:
    """Draw images `<split>/000.png` and write `<split>.csv` for each split.

    Args:
        folder: created if it does not exist.
        counts: number of images of each split.
        seed: equal seeds give equal images.
        size: width and height in pixels.
    """
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        images = Path(folder, split)
        images.mkdir(parents=True, exist_ok=True)
        rows: list[tuple] = []
        for number in range(count):
            image = rng.normal(150, 6, (size, size, 3)).clip(0, 255).astype(np.uint8)
            name = f'{number:03}.png'
            for kind in rng.choice(list(COLOURS), rng.integers(1, 4)):
                radius = int(rng.integers(9, 15))
                x, y = rng.integers(radius, size - radius, 2).tolist()
                cv2.circle(image, (x, y), radius, COLOURS[str(kind)], -1, cv2.LINE_AA)
                box = (x - radius, y - radius, x + radius + 1, y + radius + 1)
                rows.append((name, size, size, kind, *box))
            cv2.imwrite(str(images / name), image)
        write_table(f'{images}.csv', rows)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Draw images of cells and their tables.')
    parser.add_argument('folder')
    draw_cells(parser.parse_args().folder, dict(train=64, val=16))
