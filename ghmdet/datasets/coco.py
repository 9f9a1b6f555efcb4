"""CocoDataset: images and boxes of a COCO annotation file, read, checked and filtered."""

from __future__ import annotations

import logging
import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.logging import print_log

from ghmdet.datasets.coco_file import match_classes, read_coco, read_coco_json
from ghmdet.datasets.coco_images import CocoImages, build_images
from ghmdet.datasets.coco_records import convert_records
from ghmdet.datasets.image_file import find_image_fault
from ghmdet.registry import DATASETS, TRANSFORMS

_COCO_NAMES = (
    'person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,'
    'stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,'
    'backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,'
    'baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,'
    'banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,'
    'potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,'
    'oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,'
    'toothbrush'
)
COCO_CLASSES = tuple(_COCO_NAMES.split(','))
# Steps of three primes modulo 200 keep neighbouring classes apart and every colour bright.
COCO_PALETTE = [(55 + i * 67 % 200, 55 + i * 113 % 200, 55 + i * 29 % 200) for i in range(80)]

# What a subclass may override to change the list of dicts.
_HOOKS = ('load_data_list', 'parse_data_info', 'filter_data')


@DATASETS.register_module()
class CocoDataset(BaseDataset):
    """A COCO annotation file and its images.

    One image is a dict of `img_id`, `img_path`, `height`, `width`, `sample_idx` and `instances`, a
    list of `bbox` (x1, y1, x2, y2 in pixels of the file, not clipped to the image), `bbox_label`
    (place in `metainfo['classes']`) and `ignore_flag` (1 for a crowd region). Left out are boxes
    marked `ignore`, outside the image, without area, thinner than a pixel, or of another class.

    `cat_ids` lists the file's category ids in the order of the classes and `cat2label` is its
    inverse. MMDetection keeps the order of the file, so there labels and names part where the
    two orders differ; and it drops a class name that the file lacks without a word.

    The images are kept as tensors, which loader workers share, and a dict is made when it is asked
    for. A subclass that overrides `load_data_list`, `parse_data_info` or `filter_data` works on a
    list of dicts instead, which mmengine packs: slower and larger, most so with `parse_data_info`,
    for which everything in the file is read.

    Slots: each step of `pipeline` is built from TRANSFORMS.

    Args:
        ann_file: annotation file, below `data_root` unless absolute.
        pipeline: transforms of one image, as configs or callables.
        data_prefix: `img` is the folder of the images, below `data_root` unless absolute.
        filter_cfg: images to leave out in training: `filter_empty_gt=True` those without any
            annotation of the classes (crowd counts as one), `min_size` those with a side below so
            many pixels. None keeps all. With `test_mode` no image is ever left out.
        backend_args: what `mmengine.fileio` needs for storage that is not a local disk.
        **kwargs: `metainfo` (`classes` in label order; the 80 COCO classes without it),
            `data_root`, `indices`, `serialize_data`, `test_mode`, `lazy_init` and `max_refetch` of
            mmengine's `BaseDataset`.

    Raises:
        FileNotFoundError: the annotation file or the folder of the images is missing.
        ValueError: an argument or the annotation file is wrong, or no image is left.

    Example:
        >>> dataset = CocoDataset(metainfo=dict(classes=('cat', 'dog')), lazy_init=True)
        >>> dataset.metainfo['classes']
        ('cat', 'dog')
    """

    METAINFO = {'classes': COCO_CLASSES, 'palette': COCO_PALETTE}

    def __init__(
        self,
        ann_file: str = '',
        *,
        pipeline: Sequence[dict | Callable] = (),
        data_prefix: Mapping[str, str] = {'img': ''},
        filter_cfg: Mapping[str, Any] | None = None,
        backend_args: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if 'img' not in data_prefix:
            raise ValueError(f"data_prefix must have the key 'img', got {dict(data_prefix)}")
        unknown = sorted(set(filter_cfg or ()) - {'filter_empty_gt', 'min_size'})
        if unknown:
            raise ValueError(f'filter_cfg knows filter_empty_gt and min_size, got also {unknown}')
        self.backend_args = backend_args
        self._dropped: Counter[str] = Counter()
        self._ids_with_gt: set | None = None
        # BaseDataset would ask the root registry, which has another LoadAnnotations.
        steps = [TRANSFORMS.build(step) if isinstance(step, dict) else step for step in pipeline]
        super().__init__(
            ann_file, data_prefix=data_prefix, filter_cfg=filter_cfg, pipeline=steps, **kwargs
        )

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping | None = None) -> dict:
        info = super()._load_metainfo(metainfo)
        classes = info['classes']
        if isinstance(classes, str):
            raise ValueError(
                f'metainfo.classes must be a sequence of names, got the str {classes!r}; a tuple '
                f'of one needs a comma: classes=({classes!r},)'
            )
        repeated = [name for name, count in Counter(classes).items() if count > 1]
        if repeated or not classes:
            raise ValueError(f'metainfo.classes is empty or names a class twice: {repeated}')
        info['classes'] = tuple(classes)
        return info

    def load_data_list(self) -> Sequence[dict]:
        """Read and check the annotation file.

        Returns:
            One dict per image in the order of the file, before `filter_data`.
        """
        overridden = [name for name in _HOOKS if self._overrides(name)]
        need_annotations = not self.test_mode
        # parse_data_info of a subclass may want any field of the file.
        if 'parse_data_info' in overridden:
            data = read_coco_json(self.ann_file, self.backend_args, need_annotations)
            records = convert_records(data, self.ann_file)
        else:
            records = read_coco(self.ann_file, self.backend_args, need_annotations=need_annotations)
        self._check_folder()
        self.cat_ids = match_classes(self._metainfo['classes'], records.categories, self.ann_file)
        self.cat2label = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}
        images, dropped = build_images(records, self.cat2label, self.data_prefix['img'])
        self._dropped = dropped
        if not overridden:
            self.serialize_data = False  # workers share tensors as they are
            return images
        self._ids_with_gt = images.list_ids_with_objects()
        if 'parse_data_info' not in overridden:
            return list(images)
        anns_of = defaultdict(list)
        for ann in data['annotations']:
            anns_of[ann['image_id']].append(ann)
        return [
            self.parse_data_info({'raw_img_info': image, 'raw_ann_info': anns_of[image['id']]})
            for image in data['images']
        ]

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """Turn one image of the file into what the pipeline starts from.

        Args:
            raw_data_info: `raw_img_info`, an entry of `images`; `raw_ann_info`, its annotations.
        """
        data = {
            'images': [raw_data_info['raw_img_info']],
            'annotations': raw_data_info['raw_ann_info'],
            'categories': [],
        }
        records = convert_records(data, self.ann_file)
        return build_images(records, self.cat2label, self.data_prefix['img'])[0][0]

    def filter_data(self) -> Sequence[dict]:
        """Leave out images by `filter_cfg`, never with `test_mode`.

        Raises:
            ValueError: no image is left.
        """
        images = self.data_list
        filters = {} if self.test_mode else dict(self.filter_cfg or {})
        min_size = filters.get('min_size', 0)
        if isinstance(images, CocoImages):
            has_objects, shortest = images.has_objects.numpy(), images.list_shortest_sides()
        else:
            known = self._ids_with_gt
            has_objects = np.array(
                [bool(i['instances']) if known is None else i['img_id'] in known for i in images]
            )
            shortest = np.array([min(info['width'], info['height']) for info in images])
        empty = ~has_objects & bool(filters.get('filter_empty_gt'))
        small = ~empty & (shortest < min_size)
        places = np.flatnonzero(~empty & ~small)
        counts = (
            f'{self.ann_file}: kept {len(places)} of {len(images)} images (dropped {empty.sum()} '
            f'without objects of the classes, {small.sum()} with a side below {min_size} pixels)'
        )
        if not len(places):
            raise ValueError(f'no usable image. {counts}; filter_cfg is {filters or None}')
        if isinstance(images, CocoImages):
            selected = images.select(places)
            boxes, crowds = selected.ignore_flags.long().bincount(minlength=2).tolist()
            self._log_counts(counts, boxes, crowds)
            return selected
        kept = [images[place] for place in places.tolist()]
        flags = Counter(obj['ignore_flag'] for info in kept for obj in info['instances'])
        self._log_counts(counts, flags[0], flags[1])
        return kept

    def get_cat_ids(self, idx: int) -> list[int]:
        """List the labels of one image, as mmengine's `ClassBalancedDataset` asks for them."""
        return [instance['bbox_label'] for instance in self.get_data_info(idx)['instances']]

    def check_image_files(self, limit: int = 200) -> None:
        """Look at the headers and ends of up to `limit` image files, spread evenly.

        Remote images are not looked at.

        Raises:
            ValueError: a file is missing, empty, no image, cut off, or of another size than the
                annotation file says (with EXIF's quarter turn or without). Names the first five.
        """
        count = min(limit, len(self))
        bad = []
        for index in np.linspace(0, len(self) - 1, count).astype(int).tolist():
            info = self.get_data_info(index)
            if self._is_local(info['img_path']):
                fault = find_image_fault(info['img_path'], (info['width'], info['height']))
                bad += [f'{info["img_path"]} {fault}'] if fault else []
        if bad:
            more = f'; and {len(bad) - 5} more' if len(bad) > 5 else ''
            raise ValueError(
                f'{len(bad)} of {count} image files looked at are bad: {"; ".join(bad[:5])}{more}. '
                f'Check data_root and data_prefix.img of the dataset that reads {self.ann_file}, '
                'or fetch the files again'
            )

    def _log_counts(self, counts: str, boxes: int, crowds: int) -> None:
        dropped = ', '.join(f'{count} {reason}' for reason, count in sorted(self._dropped.items()))
        no_gt = not self.test_mode and not boxes
        print_log(
            f'{counts}, {boxes} boxes, {crowds} crowd regions (dropped boxes: '
            f'{dropped or "none"}){"; there is nothing to learn from" if no_gt else ""}',
            logger='current',
            level=logging.WARNING if no_gt else logging.INFO,
        )

    def _check_folder(self) -> None:
        folder = self.data_prefix['img']
        if folder and self._is_local(folder) and not osp.isdir(folder):
            raise FileNotFoundError(
                f'no image folder at {folder!r}: check data_root and data_prefix.img of the '
                f'dataset that reads {self.ann_file}'
            )

    def _get_unserialized_subset(self, indices: Sequence[int] | int) -> Sequence[dict]:
        if isinstance(self.data_list, CocoImages) and isinstance(indices, Sequence):
            return self.data_list.select(indices)
        return super()._get_unserialized_subset(indices)

    def _overrides(self, name: str) -> bool:
        return getattr(type(self), name) is not getattr(CocoDataset, name)

    def _is_local(self, path: str) -> bool:
        return isinstance(get_file_backend(path, backend_args=self.backend_args), LocalBackend)
