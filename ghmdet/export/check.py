"""Compares what an exported file and the original model detect in images."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from ghmdet.argument_checks import check_integer
from ghmdet.datasets.shapes import draw_shapes
from ghmdet.evaluation import CocoMetric
from ghmdet.export.difference import find_excepted, find_pairs, measure_pairs
from ghmdet.inference import Detector, SourceImage, image_name, iterate
from ghmdet.inference.model import find_dataset
from ghmdet.registry import DATASETS
from ghmdet.structures import InstanceData

_BATCH_SIZE = 2


class Images(NamedTuple):
    """Images to compare or to calibrate on."""

    sources: list[SourceImage]
    about: str
    ids: Sequence[Any] = ()  # in the annotation file
    metric: Any = None  # a CocoMetric, if there are annotations


@dataclass
class Comparison:
    """How the detections of a file differ from those of the original."""

    detections: int = 0  # of the original
    pairs: int = 0
    wrong: int = 0  # pairs that are not equal for float32
    excepted: int = 0  # of both, see `find_excepted`
    worst_box: float = 0.0  # of the pairs, in pixels of the original image
    worst_score: float = 0.0
    alone: list[str] = field(default_factory=list)  # image and score of those without a partner
    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])  # CPU, original and file
    ap: list[float] = field(default_factory=list)  # of original and file, if there is a metric

    @property
    def is_equal(self) -> bool:
        """Whether the file detects what the original does; exceptions are few."""
        return not (self.alone or self.wrong or self.excepted > 2 + self.detections // 50)

    def add(self, name: str, a: InstanceData, b: InstanceData, test_cfg: Any = None) -> None:
        """Count an image; `test_cfg` tells which differences are excepted, None spares none."""
        pairs, scores = find_pairs(a, b), torch.cat([a.scores, b.scores])
        places, measured = pairs + torch.tensor([0, len(a)]), measure_pairs(a, b, pairs)
        alone = torch.ones_like(scores, dtype=torch.bool)
        if test_cfg is not None:
            alone[places[measured[2]]] = False
            excepted = find_excepted(a, b, alone, test_cfg)
            stays = ~excepted[places].any(dim=1)
            places, measured = places[stays], tuple(each[stays] for each in measured)
            alone = ~excepted
            self.excepted += int(excepted.sum())
        alone[places] = False
        self.detections += len(a)
        self.pairs += len(places)
        self.wrong += int((~measured[2]).sum())
        self.worst_box = max([self.worst_box, *measured[0].tolist()])
        self.worst_score = max([self.worst_score, *measured[1].tolist()])
        self.alone += [f'{name} (score {each:.4f})' for each in scores[alone].tolist()]


def build_original(model: Any, static_hw: Sequence[int] | None = None) -> Detector:
    """Return the detector of a model, which pads as a file of this static size does.

    A ValueError if the model cannot be exported.
    """
    if not hasattr(head := getattr(model, 'bbox_head', None), 'detect'):
        kinds = type(model).__name__, type(head).__name__
        raise ValueError('expected a RetinaNet with a RetinaHead, got {} with {}'.format(*kinds))
    if static_hw is not None:
        model = copy.deepcopy(model)
        padded = model.data_preprocessor.padded_size(torch.empty(3, *static_hw))
        model.data_preprocessor.padded_size = lambda image: padded
    return Detector(model)


def find_images(detector: Detector, split: str, given: Sequence[str], most: int) -> Images:
    """Return the images of sources of `iterate`, else `most` of the dataset of a split, spread.

    One source that ends in .json replaces the annotation file of the dataset.

    Raises:
        ImageError, OSError, LookupError, ValueError: there are none.
    """
    is_file = len(given) == 1 and given[0].lower().endswith('.json')
    if given and not is_file:
        return Images([*iterate([*given])], ' '.join(given))
    config = find_dataset(detector.model.cfg, split)
    # As in a test: a config without names has those of the checkpoint.
    config['metainfo'] = {'classes': detector.classes, **(config.get('metainfo') or {})}
    if is_file:
        config['ann_file'] = os.path.abspath(os.path.expanduser(given[0]))
    dataset = DATASETS.build({**config, 'pipeline': [], 'test_mode': True})
    indices = np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(int).tolist()
    infos = [dataset.get_data_info(index) for index in indices]
    sources = [SourceImage(info['img_path'], info['img_path']) for info in infos]
    return Images(sources, dataset.ann_file, [info['img_id'] for info in infos])


def find_check_images(detector: Detector, given: Sequence[str], folder: str) -> Images:
    """Return the images of `--check`; by default 50 of the test dataset, else drawn ones."""
    try:
        images = find_images(detector, 'test', given, 10**6 if given else 50)
    except (OSError, LookupError, ValueError) as error:
        if given:
            raise
        draw_shapes(folder, dict(val=16), seed=0)
        return Images([*iterate(os.path.join(folder, 'val'))], f'drawn shapes ({error})')
    if not images.ids:
        return images
    try:
        metric = CocoMetric(images.about)
        metric.dataset_meta = dict(classes=detector.classes)
        return images._replace(metric=metric)
    except ValueError as error:
        return images._replace(about=f'{images.about}, without AP ({error})')


def find_calibration_images(detector: Detector, given: str) -> Images:
    """Return the images of `--int8`: of a folder, or as many of the training data."""
    if os.path.exists(given) or not given.isdecimal():
        return find_images(detector, 'train', [given], 0)
    images = find_images(detector, 'train', [], int(given) or 1)
    check_integer(f'--int8, images of {images.about},', int(given), 1, len(images.sources))
    return images


def check_images(detector: Detector, images: Images, static_hw: Sequence[int] | None) -> None:
    """Raise an ImageError or a ValueError for an image that is damaged or too large."""
    if not images.sources:
        raise ValueError(f'there is no image in {images.about}')
    for source in images.sources:
        size = tuple(detector.prepare(source)['inputs'].shape[1:])
        if static_hw and (size[0] > static_hw[0] or size[1] > static_hw[1]):
            text = f'after the resize {image_name(source)} has (height, width) {size}'
            raise ValueError(f'--static {static_hw}: {text}')


def compare(
    original: Detector,
    file: Detector,
    images: Images,
    exact: bool = True,
    show: Callable[[range], Iterable[int]] = iter,
) -> Comparison:
    """Compare the detections of a file, which run in turns with those of the original.

    `exact` finds out which differences are excepted; `show` passes on the batches.
    """
    result, outputs, metric = Comparison(), (list[Any](), list[Any]()), images.metric
    for start in show(range(0, len(images.sources), _BATCH_SIZE)):
        sources = images.sources[start : start + _BATCH_SIZE]
        for side, detector in enumerate((original, file)):
            batch = [detector.prepare(source) for source in sources]
            begin = time.process_time()
            outputs[side].extend(each.pred_instances for each in detector.predict(batch))
            if start or len(images.sources) <= _BATCH_SIZE:  # the first batch is slower
                result.seconds[side] += time.process_time() - begin
    test_cfg = original.model.bbox_head.test_cfg if exact else None
    for source, a, b in zip(images.sources, *outputs, strict=True):
        result.add(image_name(source), a, b, test_cfg)
    for found in outputs if metric is not None else ():
        samples = zip(images.ids, found, strict=True)
        metric.results = []
        metric.process(None, [dict(img_id=id_, pred_instances=each) for id_, each in samples])
        result.ap.append(metric.compute_metrics(metric.results)['bbox_mAP'])
    return result
