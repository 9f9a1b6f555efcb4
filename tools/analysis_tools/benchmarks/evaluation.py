"""COCO evaluation against pycocotools: 5,000 images with 100 detections each."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ghmdet.evaluation import CocoMetric

from .drawn_coco import CLASSES, draw_annotations
from .measure import Rates, Report, measure

_BOXES_PER_IMAGE = 36_781 / 5_000
# The twelve numbers of COCOeval.summarize, in its order.
_ITEMS = [
    *('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l'),
    *('AR@1', 'AR@10', 'AR@100', 'AR_s@100', 'AR_m@100', 'AR_l@100'),
]


def run(args: argparse.Namespace, rates: Rates) -> Report:
    """Measure both evaluations, each from the annotation file and the model's tensors."""
    numbers: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'instances.json'
        draw_annotations(path, args.images, round(args.images * _BOXES_PER_IMAGE), outlines=False)
        samples = _draw_detections(json.loads(path.read_text()), args.detections)

        def evaluate_ours() -> None:
            numbers['CocoMetric'] = evaluate_with_ghmdet(str(path), samples)

        def evaluate_reference() -> None:
            numbers['pycocotools'] = evaluate_with_pycocotools(str(path), samples)

        variants = {'CocoMetric': evaluate_ours, 'pycocotools': evaluate_reference}
        rows = measure(variants, args.runs, warm_ups=0)
    for row in rows.values():
        row.reference = 'pycocotools'
    equal = np.allclose(numbers['CocoMetric'], numbers['pycocotools'], rtol=0, atol=1e-12)
    values = ', '.join(f'{value:.4f}' for value in numbers['CocoMetric'])
    return Report(
        'evaluation',
        list(rows.values()),
        {'the twelve numbers are equal to 1e-12': bool(equal)},
        [f'{args.images} images, {args.images * args.detections} detections: {values}'],
    )


def evaluate_with_ghmdet(ann_file: str, samples: list[dict]) -> list[float]:
    """Return the twelve numbers as in mmengine's test loop, one image per batch."""
    metric = CocoMetric(ann_file, proposal_nums=(1, 10, 100), metric_items=_ITEMS)
    metric.dataset_meta = dict(classes=CLASSES)
    for sample in samples:
        metric.process({}, [sample])
    found = metric.evaluate(len(samples))
    return [found[f'coco/bbox_{item}'] for item in _ITEMS]


def evaluate_with_pycocotools(ann_file: str, samples: list[dict]) -> list[float]:
    """Return the twelve numbers by pycocotools, as its examples use it."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(ann_file)
        cat_ids = coco.getCatIds()
        results = []
        for sample in samples:
            instances = {key: value.numpy() for key, value in sample['pred_instances'].items()}
            for box, score, label in zip(*instances.values(), strict=True):
                x1, y1, x2, y2 = box.tolist()
                results.append(
                    {
                        'image_id': sample['img_id'],
                        'category_id': cat_ids[label],
                        'bbox': [x1, y1, x2 - x1, y2 - y1],
                        'score': float(score),
                    }
                )
        evaluation = COCOeval(coco, coco.loadRes(results), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def _draw_detections(truth: dict[str, Any], per_image: int) -> list[dict]:
    """Half of them near the ground truth, the nearer the higher the score, half anywhere."""
    generator = torch.Generator().manual_seed(0)
    of_image: dict[int, list[list[float]]] = {image['id']: [] for image in truth['images']}
    for ann in truth['annotations']:
        x, y, w, h = ann['bbox']
        of_image[ann['image_id']].append([x, y, x + w, y + h, ann['category_id'] - 1])
    samples = []
    for image in truth['images']:
        w, h = image['width'], image['height']
        corners = torch.rand(per_image, 2, 2, generator=generator) * torch.tensor([w, h])
        bboxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
        scores = torch.rand(per_image, generator=generator) * 0.5
        labels = torch.randint(0, len(CLASSES), (per_image,), generator=generator)
        gts = torch.tensor(of_image[image['id']]).reshape(-1, 5)
        num_near = per_image // 2 if len(gts) else 0
        chosen = gts[torch.randint(0, max(1, len(gts)), (num_near,), generator=generator)]
        jitter = torch.rand(num_near, generator=generator) * 0.3
        sides = (chosen[:, 2:4] - chosen[:, :2]).repeat(1, 2)
        shift = torch.randn(num_near, 4, generator=generator) * jitter[:, None] * sides
        near = chosen[:, :4] + shift
        bboxes[:num_near] = torch.cat(
            [torch.minimum(near[:, :2], near[:, 2:] - 1), near[:, 2:]], dim=1
        )
        scores[:num_near] += 0.5 - jitter
        labels[:num_near] = chosen[:, 4].long()
        found = dict(bboxes=bboxes, scores=scores, labels=labels)
        samples.append(dict(img_id=image['id'], pred_instances=found))
    return samples
