"""The results of all processes, each image once; for metrics of single images."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import chain, zip_longest

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric


class ImageResults(BaseMetric):
    """A metric whose `results` are dicts, one per image, with `img_id` and perhaps `img_path`.

    They are gathered through the process group. mmengine writes them to a folder in the current
    one, which machines need not share, and truncates the list to the size of the dataset, which
    loses images if a sampler repeats others before the end.
    """

    def evaluate(self, size: int) -> dict:
        """Measure the images of all processes; every process gets the metrics.

        Args:
            size: not used; repeated images are found by their ids.
        """
        # With mmengine's samplers, image i is in process i modulo the number of processes.
        turns = zip_longest(*all_gather_object(self.results))
        metrics: list[dict] = [{}]
        if is_main_process():
            found = self.compute_metrics([image for image in chain(*turns) if image is not None])
            metrics = [{f'{self.prefix}/{name}': value for name, value in found.items()}]
        broadcast_object_list(metrics)
        self.results.clear()
        return metrics[0]


def unique_images(results: Iterable[dict]) -> list[dict]:
    """Return the first result of each image; those without an id are all kept.

    Samplers repeat images so that all processes have the same number, and so does RepeatDataset.

    Example:
        >>> unique_images([dict(img_id=1), dict(img_id=2), dict(img_id=1)])
        [{'img_id': 1}, {'img_id': 2}]
    """
    unique: dict[Hashable, dict] = {}
    for result in results:
        known = 'img_id' in result
        key = (result['img_id'], result.get('img_path')) if known else (id(result),)
        unique.setdefault(key, result)
    return list(unique.values())


def index_images(results: Iterable[dict]) -> dict[Hashable, dict]:
    """Return the first result of each image by `img_id`.

    Raises:
        ValueError: two images have the same id.
    """
    index: dict[Hashable, dict] = {}
    for image in unique_images(results):
        first = index.setdefault(image['img_id'], image)
        if first is not image:
            paths = ' and '.join(str(each.get('img_path', '?')) for each in (first, image))
            raise ValueError(
                f'CocoMetric: two images have the id {image["img_id"]!r}, {paths}; evaluate one '
                'dataset at a time, or give their images different ids'
            )
    return index
