"""The metric: COCO's average precision on boxes that are in no COCO file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from cellcount.table import read_table
from ghmdet.evaluation import CocoMetric
from ghmdet.registry import METRICS


@METRICS.register_module()
class CellMetric(CocoMetric):
    """`CocoMetric` with a table in place of the COCO JSON, which is what it reads."""

    def __init__(self, ann_file: str, classes: tuple[str, ...], **kwargs: Any) -> None:
        images = read_table(ann_file, classes)
        annotations = [
            dict(
                image_id=image['img_id'],
                category_id=cell['bbox_label'],
                bbox=[x1, y1, x2 - x1, y2 - y1],
            )
            for image in images
            for cell in image['instances']
            for x1, y1, x2, y2 in [cell['bbox']]
        ]
        content = dict(
            images=[dict(id=image['img_id']) for image in images],
            categories=[dict(id=label, name=name) for label, name in enumerate(classes)],
            annotations=[dict(id=number, **each) for number, each in enumerate(annotations)],
        )
        with tempfile.TemporaryDirectory() as folder:
            coco_file = Path(folder, 'cells.json')
            coco_file.write_text(json.dumps(content))
            super().__init__(str(coco_file), **kwargs)
