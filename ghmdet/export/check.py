"""Compares what an exported file and the original model detect in images."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ghmdet.argument_checks import check_integer
from ghmdet.config.data_root import find_datasets
from ghmdet.datasets.shapes import draw_shapes
from ghmdet.evaluation import CocoMetric
from ghmdet.export.difference import find_excepted, find_pairs, measure_pairs
from ghmdet.inference import Detector, SourceImage, image_name, iterate
from ghmdet.messages import list_items
from ghmdet.registry import DATASETS
from ghmdet.structures import InstanceData

_BATCH_SIZE = 2
_MOST_EXCEPTED = 0.02  # of the detections


@dataclass
class Images:
    """Images for a check or a calibration."""

    sources: list[SourceImage]
    about: str
    ids: list[Any] = field(default_factory=list)  # in the annotation file of `metric`
    metric: Any = None  # a CocoMetric if there are annotations


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
        """Whether the file detects what the original does, as float32 must; exceptions are few."""
        few = self.excepted <= 2 + self.detections * _MOST_EXCEPTED
        return few and not (self.alone or self.wrong)

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
    """Return the detector of a model, which pads as a file with this static size does.

    Raises:
        ValueError: the model cannot be exported.
    """
    head = getattr(model, 'bbox_head', None)
    if not hasattr(head, 'detect'):
        kinds = type(model).__name__, type(head).__name__
        raise ValueError('expected a RetinaNet with a RetinaHead, got {} with {}'.format(*kinds))
    if static_hw is not None:
        model = copy.deepcopy(model)
        padded = model.data_preprocessor.padded_size(torch.empty(3, *static_hw))
        model.data_preprocessor.padded_size = lambda image: padded
    return Detector(model)


def find_images(
    detector: Detector, split: str, given: Sequence[str] = (), most: int | None = None
) -> Images:
    """Return the images that are given, or `most` of the dataset of a split in the config.

    One name that ends in .json is an annotation file to use in place of that of the dataset.

    Raises:
        ImageError, OSError, ValueError: there are none.
    """
    is_file = len(given) == 1 and given[0].lower().endswith('.json')
    if given and not is_file:
        images = Images([*iterate([*given])], ' '.join(given))
        if not images.sources:
            raise ValueError(f'there is no image in {images.about}')
        return images
    key, cfg = f'{split}_dataloader', detector.model.cfg
    config = next((dict(found) for _, found in find_datasets({key: cfg.get(key)})), None)
    if config is None:
        raise ValueError(f'the config has no {key}.dataset')
    if is_file:
        config['ann_file'] = os.path.abspath(os.path.expanduser(given[0]))
    dataset = DATASETS.build({**config, 'pipeline': [], 'test_mode': True})
    indices = np.linspace(0, len(dataset) - 1, min(most or len(dataset), len(dataset)))
    infos = [dataset.get_data_info(int(index)) for index in indices]
    sources = [SourceImage(info['img_path'], info['img_path']) for info in infos]
    return Images(sources, dataset.ann_file, [info['img_id'] for info in infos])


def find_check_images(detector: Detector, given: Sequence[str], folder: str) -> Images:
    """Return the images of `--check`: by default 50 of the test dataset, else drawn ones."""
    try:
        images = find_images(detector, 'test', given, None if given else 50)
    except (OSError, ValueError) as error:
        if given:
            raise
        draw_shapes(folder, dict(val=16), seed=0)
        about = f'drawn shapes ({error})'
        return Images([*iterate(os.path.join(folder, 'val'))], about)
    if images.ids:
        try:
            images.metric = CocoMetric(images.about)
            images.metric.dataset_meta = dict(classes=detector.classes)
        except ValueError as error:
            images.metric, images.about = None, f'{images.about}, without AP ({error})'
    return images


def find_calibration_images(detector: Detector, given: str) -> Images:
    """Return the images of `--int8`: of a folder, or as many of the training data."""
    if os.path.exists(given) or not given.isdecimal():
        return find_images(detector, 'train', [given])
    images = find_images(detector, 'train', (), int(given))
    check_integer(f'--int8, images of {images.about},', int(given), 1, len(images.sources))
    return images


def check_images(detector: Detector, images: Images, static_hw: Sequence[int] | None) -> None:
    """Raise an ImageError for an image that cannot be used, a ValueError if some are too large."""
    shapes = {i: tuple(detector.prepare(i)['inputs'].shape[1:]) for i in images.sources}
    large = [
        f'{image_name(source)} {shape}'
        for source, shape in shapes.items()
        if static_hw and any(side > most for side, most in zip(shape, static_hw, strict=True))
    ]
    if large:
        raise ValueError(
            f'--static {static_hw}: images of {images.about} are larger after the resize (height, '
            f'width): {list_items(large)}'
        )


def compare(
    original: Detector,
    file: Detector,
    images: Images,
    exact: bool = True,
    show: Callable[[range], Iterable[int]] = iter,
) -> Comparison:
    """Run two detectors in turns and compare what they detect.

    Args:
        original: of the model that was exported.
        file: of the exported file.
        images: on which to compare.
        exact: whether to find which differences are excepted.
        show: iterates over the batches and shows the progress.
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
