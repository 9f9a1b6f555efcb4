"""Detections as COCO results JSON, see docs/judge/test_results.md."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from ghmdet.files import replacing


def results_path(outfile_prefix: str) -> Path:
    """Return `<outfile_prefix>.bbox.json`, or the prefix if it ends in `.json`."""
    path = os.path.expanduser(outfile_prefix)
    return Path(path if str(path).endswith('.json') else f'{path}.bbox.json')


def write_results(
    path: Path,
    images: Sequence[dict],
    category_ids: Sequence[Hashable],
    names: Sequence[str] | None = None,
) -> int:
    """Write the detections of images (see `detection_rows`), and return their number.

    The folder is created if needed; the file never exists in part. `names` are those of the labels,
    written too if given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    results = [
        {'image_id': image_id, 'category_id': category_ids[label], 'bbox': box, 'score': score}
        | ({'category_name': names[label]} if names else {})
        for image_id, label, box, score in detection_rows(images)
    ]
    with replacing(path) as draft:
        draft.write_bytes(msgspec.json.encode(results))
    return len(results)


def detection_rows(images: Sequence[dict]) -> Iterator[tuple[Hashable, int, list[float], float]]:
    """Yield image id, label, box as x, y, w, h, and score of each detection.

    `images` are dicts with `img_id` and the arrays `bboxes` (n, 4) x1, y1, x2, y2 in pixels,
    `scores` (n,) and `labels` (n,).
    """
    for image in images:
        boxes = image['bboxes'].astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        scores, labels = image['scores'].tolist(), image['labels'].tolist()
        for label, box, score in zip(labels, boxes.tolist(), scores, strict=True):
            yield image['img_id'], label, box, score


def number_detections(images: Sequence[dict]) -> list[dict]:
    """Return the detections as COCOeval reads them, images numbered in their order."""
    rows = detection_rows([image | {'img_id': number} for number, image in enumerate(images)])
    return [
        {'id': i, 'image_id': number, 'category_id': label, 'bbox': box, 'score': score}
        | {'area': box[2] * box[3], 'iscrowd': 0}
        for i, (number, label, box, score) in enumerate(rows, 1)
    ]
