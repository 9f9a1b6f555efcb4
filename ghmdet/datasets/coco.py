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

from ghmdet.datasets.coco_file import match_classes, read_coco
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

    def load_data_list(self) -> list[dict]:
        """Read and check the annotation file.

        Returns:
            One dict per image in the order of the file, before `filter_data`.
        """
        coco = read_coco(self.ann_file, self.backend_args, need_annotations=not self.test_mode)
        folder = self.data_prefix['img']
        if folder and self._is_local(folder) and not osp.isdir(folder):
            raise FileNotFoundError(
                f'no image folder at {folder!r}: check data_root and data_prefix.img of the '
                f'dataset that reads {self.ann_file}'
            )
        self.cat_ids = match_classes(self._metainfo['classes'], coco['categories'], self.ann_file)
        self.cat2label = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}
        self._dropped: Counter[str] = Counter()
        # As in MMDetection a box that is left out below still makes its image one with objects.
        self._ids_with_gt: set = set()
        anns_of = defaultdict(list)
        for ann in coco['annotations']:
            anns_of[ann['image_id']].append(ann)
            if ann['category_id'] in self.cat2label:
                self._ids_with_gt.add(ann['image_id'])
        return [
            self.parse_data_info({'raw_img_info': image, 'raw_ann_info': anns_of[image['id']]})
            for image in coco['images']
        ]

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """Turn one image of the file into what the pipeline starts from.

        Args:
            raw_data_info: `raw_img_info`, an entry of `images`; `raw_ann_info`, its annotations.
        """
        image = raw_data_info['raw_img_info']
        instances = []
        for ann in raw_data_info['raw_ann_info']:
            reason = self._find_drop_reason(ann, image['width'], image['height'])
            if reason:
                self._dropped[reason] += 1
                continue
            x, y, w, h = map(float, ann['bbox'])
            instances.append(
                {
                    'bbox': [x, y, x + w, y + h],
                    'bbox_label': self.cat2label[ann['category_id']],
                    'ignore_flag': int(bool(ann.get('iscrowd', 0))),
                }
            )
        return {
            'img_id': image['id'],
            'img_path': osp.join(self.data_prefix['img'], image['file_name']),
            'height': image['height'],
            'width': image['width'],
            'instances': instances,
        }

    def filter_data(self) -> list[dict]:
        """Leave out images by `filter_cfg`, never with `test_mode`.

        Raises:
            ValueError: no image is left.
        """
        filters = {} if self.test_mode else dict(self.filter_cfg or {})
        min_size = filters.get('min_size', 0)
        empty, small, kept = 0, 0, []
        for info in self.data_list:
            if filters.get('filter_empty_gt') and info['img_id'] not in self._ids_with_gt:
                empty += 1
            elif min(info['width'], info['height']) < min_size:
                small += 1
            else:
                kept.append(info)
        counts = (
            f'{self.ann_file}: kept {len(kept)} of {len(self.data_list)} images (dropped {empty} '
            f'without objects of the classes, {small} with a side below {min_size} pixels)'
        )
        if not kept:
            raise ValueError(f'no usable image. {counts}; filter_cfg is {filters or None}')
        flags = Counter(obj['ignore_flag'] for info in kept for obj in info['instances'])
        boxes = ', '.join(f'{count} {reason}' for reason, count in sorted(self._dropped.items()))
        no_gt = not self.test_mode and not flags[0]
        print_log(
            f'{counts}, {flags[0]} boxes, {flags[1]} crowd regions (dropped boxes: '
            f'{boxes or "none"}){"; there is nothing to learn from" if no_gt else ""}',
            logger='current',
            level=logging.WARNING if no_gt else logging.INFO,
        )
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

    def _find_drop_reason(self, ann: dict, image_w: float, image_h: float) -> str | None:
        x, y, w, h = ann['bbox']
        area = ann.get('area')
        if ann.get('ignore', False):
            return 'marked ignore'
        if min(x + w, image_w) <= max(x, 0) or min(y + h, image_h) <= max(y, 0):
            return 'outside the image'
        if w < 1 or h < 1 or (w * h if area is None else area) <= 0:
            return 'without area or thinner than a pixel'
        if ann['category_id'] not in self.cat2label:
            return 'of other classes'
        return None

    def _is_local(self, path: str) -> bool:
        return isinstance(get_file_backend(path, backend_args=self.backend_args), LocalBackend)
