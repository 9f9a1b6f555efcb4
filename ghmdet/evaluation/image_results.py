"""The results of all processes, each image once; for metrics of single images."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from itertools import chain, zip_longest
from typing import Any

import torch
from mmengine.dist import all_gather_object, broadcast_object_list, get_world_size, is_main_process
from mmengine.evaluator import BaseMetric

from ghmdet.messages import list_items

_KEPT = {'bboxes': torch.float32, 'scores': torch.float32, 'labels': torch.int32}


class ImageResults(BaseMetric):
    """A metric whose `results` are dicts, one per image, with `img_id` and perhaps `img_path`.

    They are gathered through the process group: mmengine would write them to a folder, which
    machines need not share, and would lose images if a sampler repeats others before the end.
    """

    known_ids: Iterable[Hashable] = ()
    """Ids of images that may be in the dataset, to name those that were not predicted."""

    def read_detections(self, sample: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
        """Return the image and its detections, small arrays on the CPU; a label must have a class.

        `pred_instances` of the sample has `bboxes` (n, 4) x1, y1, x2, y2, `scores` and `labels`
        (n,).
        """
        result = {key: sample[key] for key in ('img_id', 'img_path') if key in sample}
        for key, dtype in _KEPT.items():
            result[key] = torch.as_tensor(sample['pred_instances'][key]).to(dtype).cpu().numpy()
        labels = result['labels']
        if (wrong := labels[(labels < 0) | (labels >= num_classes)]).size:
            raise ValueError(
                f'{type(self).__name__}: image {sample["img_id"]!r} has label {wrong[0]}, but '
                f"`classes` of dataset_meta has {num_classes} names; set the head's num_classes to "
                'their number'
            )
        return result

    def evaluate(self, size: int) -> dict:
        """Measure the images of all processes, and return the metrics in every process.

        A ValueError if some of the `size` images of the dataset were not predicted.
        """
        # With mmengine's samplers, image i is in process i modulo the number of processes.
        turns = zip_longest(*all_gather_object(self.results))
        metrics: list[dict] = [{}]
        if is_main_process():
            results = [image for image in chain(*turns) if image is not None]
            self._check_complete(results, size)
            found = self.compute_metrics(results)
            metrics = [{f'{self.prefix}/{name}': value for name, value in found.items()}]
        broadcast_object_list(metrics)
        self.results.clear()
        return metrics[0]

    def _check_complete(self, results: list[dict], size: int) -> None:
        different = len(unique_images(results))
        # A sampler repeats fewer images than there are processes; more are of a RepeatDataset.
        repeats = len(results) - different >= get_world_size()
        if different < size and (len(results) < size or not repeats):
            found = {result.get('img_id') for result in results}
            lost = list_items(repr(id_) for id_ in self.known_ids if id_ not in found)
            raise ValueError(
                f'{type(self).__name__}: only {different:,} of the {size:,} images of the dataset '
                f'were predicted{lost and f", none of those with the ids {lost}"}. Remove '
                'drop_last of the dataloader, and let its sampler return every index; to evaluate '
                'a part of the images, set indices of the dataset'
            )


def unique_images(results: Iterable[dict]) -> list[dict]:
    """Return the first result of each image; those without an id are all kept.

    Samplers repeat images so that all processes have the same number, and so does RepeatDataset.
    """
    unique: dict[Hashable, dict] = {}
    for result in results:
        known = 'img_id' in result
        key = (result['img_id'], result.get('img_path')) if known else (id(result),)
        unique.setdefault(key, result)
    return list(unique.values())


def index_images(results: Iterable[dict], by_id: bool = True) -> dict[Hashable, dict]:
    """Return the first result of each image by `img_id`, which must differ, or with `img_path`."""
    index: dict[Hashable, dict] = {}
    for image in unique_images(results):
        key = image['img_id'] if by_id else (image['img_id'], image.get('img_path'))
        first = index.setdefault(key, image)
        if first is not image:
            paths = ' and '.join(str(each.get('img_path', '?')) for each in (first, image))
            raise ValueError(
                f'CocoMetric: two images have the id {image["img_id"]!r}, {paths}; evaluate one '
                'dataset at a time, or give their images different ids'
            )
    return index
