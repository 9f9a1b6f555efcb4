"""What the losses get of an image, and its annotations and background with the largest norms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import mmcv
import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from ghmdet.boxes.delta_xywh_bbox_coder import clip_bboxes
from ghmdet.boxes.max_iou_assigner import bbox_overlaps
from ghmdet.coco.box_filter import check_boxes
from ghmdet.datasets.transforms.loading import LoadImageFromFile
from ghmdet.inference.detector import find_classes
from ghmdet.models.retina_head import by_prior, scale_factor_of
from ghmdet.visualization.marked_pictures import clear_pictures, picture_name

_CANDIDATES = 1000  # anchors of a level of which the background of an image is chosen
_SAME_SPOT = 0.5  # IoU
_TILE, _GAP, _LINE = 240, 8, 18  # pixels
_BLACK, _YELLOW = (0, 0, 0), (0, 255, 255)
_COLUMNS = 6  # of the sheet
_CONTEXT = 3  # side of a picture, in sides of the box


class LevelEntries(NamedTuple):
    """What the losses of a RetinaHead get of one level: n anchors, those of all images in order."""

    scores: Tensor  # logits (n, C)
    deltas: Tensor  # (n, 4)
    priors: Tensor  # (n, 4)
    labels: Tensor  # from here on as in `Targets`
    label_weights: Tensor
    bbox_targets: Tensor
    bbox_weights: Tensor
    gt_inds: Tensor


@torch.no_grad()
def read_levels(model: Any, batch: Mapping[str, Any]) -> list[LevelEntries]:
    """Run a RetinaNet, in the mode that it is in, on a batch of a pipeline, with annotations."""
    data, head = model.data_preprocessor(batch, False), model.bbox_head
    scores, deltas = head(model.extract_feat(data['inputs']))
    *targets, _ = head.get_targets(scores, data['data_samples'])
    sizes = [tuple(level.shape[-2:]) for level in scores]
    priors = head.prior_generator.grid_priors(sizes, device=scores[0].device)
    priors = [level.repeat(len(data['inputs']), 1) for level in priors]
    scores = [by_prior(level, head.num_classes).flatten(0, 1) for level in scores]
    deltas = [by_prior(level, 4).flatten(0, 1) for level in deltas]
    return [LevelEntries(*level) for level in zip(scores, deltas, priors, *targets, strict=True)]


class Outliers:
    """Collects them image by image.

    Args:
        model: the detector.
        top: how many of each kind to keep.
    """

    def __init__(self, model: Any, top: int) -> None:
        self.head, self.classes, self.top = model.bbox_head, find_classes(model), top
        self.without_anchor = 0
        self._annotations: list[dict[str, Any]] = []
        self._background: list[dict[str, Any]] = []

    @torch.no_grad()
    def add(self, dataset: int, info: dict[str, Any], levels: Sequence[Any], sample: Any) -> None:
        """Add an image: the number of its dataset, its dict there, its levels and its sample."""
        about = {'dataset': dataset, 'image': info['img_path'], 'image_id': info.get('img_id')}
        for rows, found in (
            (self._annotations, self._find_annotations(info, levels, sample)),
            (self._background, self._find_background(levels, sample)),
        ):
            rows += [about | row for row in found]
            rows.sort(key=lambda row: -row['norm'])
            del rows[self.top :]

    def _find_annotations(
        self, info: dict[str, Any], levels: Sequence[Any], sample: Any
    ) -> list[dict[str, Any]]:
        """Return the norm of each object of an image, and what the model sees there."""
        objects = [
            (number, each)
            for number, each in enumerate(info['instances'])
            if not each.get('ignore_flag')
        ]
        if len(objects) != (given := len(sample.gt_instances)):
            raise ValueError(
                f'{info["img_path"]}: the test pipeline makes {given} boxes of {len(objects)}'
            )
        scores = torch.cat([level.scores[level.gt_inds > 0] for level in levels]).float().sigmoid()
        matched = torch.cat([level.gt_inds[level.gt_inds > 0] for level in levels]) - 1
        counts = matched.bincount(minlength=len(objects))
        sums = scores.new_zeros(len(objects), scores.size(1)).index_add_(0, matched, scores)
        means = (sums / counts.clamp(min=1)[:, None]).cpu()
        rows = []
        for (number, each), count, mean in zip(objects, counts.tolist(), means, strict=True):
            if count == 0:
                self.without_anchor += 1
                continue
            best = int(mean.argmax())
            row = {'norm': 1 - mean[each['bbox_label']].item(), 'anchors': count}
            row |= {'class': self.classes[each['bbox_label']]}
            row |= {'seen_class': self.classes[best], 'seen_score': mean[best].item()}
            row |= {'bbox': each['bbox'], 'instance': (number, len(info['instances']))}
            rows.append(row)
        return rows

    def _find_background(self, levels: Sequence[Any], sample: Any) -> list[dict]:
        """Return the background anchors of an image with the largest norms, one for each spot.

        The box is the one predicted there. Those on an annotated object, whose anchors lie beside
        it, and those in regions to ignore are left out.
        """
        found = []
        for level in levels:
            is_used = (level.labels == level.scores.size(1)) & (level.label_weights > 0)
            (chosen,) = is_used.nonzero(as_tuple=True)
            norms, labels = level.scores[chosen].float().sigmoid().max(1)
            norms, order = norms.topk(min(_CANDIDATES, len(norms)))
            chosen, labels = chosen[order], labels[order]
            boxes = self.head.bbox_coder.decode(level.priors[chosen], level.deltas[chosen].float())
            found.append((norms, labels, boxes))
        norms, labels, boxes = map(torch.cat, zip(*found, strict=True))
        boxes = clip_bboxes(boxes, torch.tensor([sample.img_shape[:2]]).to(boxes))
        free = torch.ones_like(norms, dtype=torch.bool)
        for name, mode in (('gt_instances', 'iou'), ('ignored_instances', 'iof')):
            known = sample.get(name, {}).get('bboxes', boxes[:0]).to(boxes)
            if len(known):
                free &= bbox_overlaps(boxes, known, mode).amax(1) < _SAME_SPOT
        norms, labels, boxes = norms[free], labels[free], boxes[free]
        kept = nms(boxes, norms, _SAME_SPOT)[: self.top]
        boxes = (boxes[kept] / boxes.new_tensor(scale_factor_of(sample)).repeat(2)).tolist()
        return [
            {'norm': norm, 'seen_class': self.classes[label], 'seen_score': norm, 'bbox': box}
            for norm, label, box in zip(
                norms[kept].tolist(), labels[kept].tolist(), boxes, strict=True
            )
        ]

    def content(self, datasets: Sequence[Any]) -> dict[str, Any]:
        """Return both lists as JSON, with the ids of the annotations."""
        known = {number: _find_ids(dataset) for number, dataset in enumerate(datasets)}
        for row in self._annotations:
            number, count = row.pop('instance')
            ids = known[row['dataset']].get(row['image_id'], [])
            row['annotation_id'] = ids[number] if len(ids) == count else None
        return {
            'without_positive_anchor': self.without_anchor,
            'annotations': self._annotations,
            'background': self._background,
        }


def _find_ids(dataset: Any) -> dict[Any, list[Any]]:
    """Return the ids of the used annotations of each image, in the order of its instances."""
    if not hasattr(dataset, 'read_records') or not hasattr(dataset, 'cat2label'):
        return {}
    records = dataset.read_records()
    check = check_boxes(records, dataset.cat2label, dataset.test_mode)
    found: dict[Any, list[Any]] = {}
    for index in check.used.tolist():
        id_ = records.annotations.ids[index]
        owner = records.images[check.owner[index]].id
        found.setdefault(owner, []).append(id_.item() if isinstance(id_, np.generic) else id_)
    return found


def draw(rows: Sequence[dict[str, Any]], steps: Sequence[Any], folder: Path, kind: str) -> None:
    """Write a picture of each outlier into the folder `kind`, and all on a sheet, `kind`.jpg."""
    clear_pictures(folder / kind)
    (folder / f'{kind}.jpg').unlink(missing_ok=True)
    loader = next((s for s in steps if isinstance(s, LoadImageFromFile)), LoadImageFromFile())
    tiles = []
    for rank, row in enumerate(rows, 1):
        seen = f'{row["seen_class"]} {row["seen_score"]:.2f}'
        texts = f'{rank}: {row["norm"]:.3f}', f'{row["class"]}? {seen}' if 'class' in row else seen
        tiles.append(_draw_tile(loader.read(row['image'], in_color=True), row['bbox'], texts))
        name = picture_name(f'{rank:03}', f'{row["norm"]:.3f}', row['image'])
        mmcv.imwrite(tiles[-1], str(folder / kind / name))
    if tiles:
        tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % _COLUMNS)
        lines = [np.hstack(tiles[i : i + _COLUMNS]) for i in range(0, len(tiles), _COLUMNS)]
        mmcv.imwrite(np.vstack(lines), str(folder / f'{kind}.jpg'))


def _draw_tile(image: np.ndarray, bbox: Sequence[float], texts: Sequence[str]) -> np.ndarray:
    """Return the box in its surroundings of three times its size, below the texts."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = bbox
    side = min(max(_CONTEXT * max(x2 - x1, y2 - y1), 48), max(height, width))
    left, top = (round((low + high - side) / 2) for low, high in ((x1, x2), (y1, y2)))
    left, top = max(0, min(left, round(width - side))), max(0, min(top, round(height - side)))
    crop = image[top : top + math.ceil(side), left : left + math.ceil(side)]
    scale = _TILE / max(crop.shape[:2])
    size_wh = [max(1, round(length * scale)) for length in crop.shape[1::-1]]
    crop = cv2.resize(crop, size_wh, interpolation=cv2.INTER_LINEAR)
    corners = [round((v - start) * scale) for v, start in zip(bbox, (left, top) * 2, strict=True)]
    for color, thickness in ((_BLACK, 4), (_YELLOW, 2)):  # visible on any colour
        cv2.rectangle(crop, corners[:2], corners[2:], color, thickness)
    tile = np.full((_TILE + 2 * _LINE + _GAP, _TILE + _GAP, 3), 255, np.uint8)
    tile[2 * _LINE : 2 * _LINE + size_wh[1], : size_wh[0]] = crop
    for line, text in enumerate(texts, 1):
        plain = text.encode('ascii', 'replace').decode()
        corner = 2, line * _LINE - 5
        cv2.putText(tile, plain, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 0, 1, cv2.LINE_AA)
    return tile
