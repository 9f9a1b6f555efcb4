"""CocoDataset: images and boxes of a COCO annotation file, read, checked and filtered."""

from __future__ import annotations

import logging
import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.fileio import LocalBackend, get_file_backend, join_path
from mmengine.logging import print_log
from mmengine.utils import is_abs
from torch import Tensor

from ghmdet.coco.box_filter import CocoCounts
from ghmdet.coco.classes import match_classes
from ghmdet.coco.faults import find_outside_names
from ghmdet.coco.reader import read_coco, read_coco_json
from ghmdet.coco.records import CocoRecords, convert_records
from ghmdet.datasets.coco_images import CocoImages, build_images
from ghmdet.datasets.image_file import ImageError, find_image_fault
from ghmdet.datasets.transforms import LoadImageFromFile
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
    (place in `metainfo['classes']`) and `ignore_flag` (1 for a region to ignore: `iscrowd` or
    `ignore` is 1 in the file; MMDetection leaves out the latter). Left out are boxes outside the
    image, without area, thinner than a pixel, or of another class.

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
        on_error: 'raise', or 'skip' to train without the images that cannot be used (missing,
            damaged, of another size than the file says); others stand in for them, and they are
            reported at the end of each epoch. Not with `test_mode`.
        allow_outside: whether file names may lead out of the folder of the images, by `..` or as
            absolute paths. Nothing is checked for storage that is not a local disk.
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
        on_error: str = 'raise',
        allow_outside: bool = False,
        **kwargs: Any,
    ) -> None:
        if on_error not in ('raise', 'skip'):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        if on_error == 'skip' and kwargs.get('test_mode'):
            raise ValueError(
                "on_error='skip' is for training: with test_mode=True images would drop out of the "
                'evaluation unseen. Mend the files, or take the images out of the annotation file'
            )
        self.on_error = on_error
        self._skipped: Tensor | None = None
        if 'img' not in data_prefix:
            raise ValueError(f"data_prefix must have the key 'img', got {dict(data_prefix)}")
        unknown = sorted(set(filter_cfg or ()) - {'filter_empty_gt', 'min_size'})
        if unknown:
            raise ValueError(f'filter_cfg knows filter_empty_gt and min_size, got also {unknown}')
        self.backend_args = backend_args
        self.allow_outside = allow_outside
        self.counts = CocoCounts()
        self.summary = ''
        self._defects = ''
        self._ids_with_gt: set | None = None
        # BaseDataset would ask the root registry, which has another LoadAnnotations.
        steps = [TRANSFORMS.build(step) if isinstance(step, dict) else step for step in pipeline]
        self._loader = next((s for s in steps if isinstance(s, LoadImageFromFile)), None)
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

    @classmethod
    def read_categories(
        cls,
        ann_file: str,
        data_root: str | None = '',
        backend_args: dict | None = None,
        test_mode: bool = False,
    ) -> tuple[str, tuple[str, ...]]:
        """Read an annotation file before the dataset does, which then need not read it again.

        Args:
            ann_file: as in a config of this class, like the others.
            data_root: folder of `ann_file` unless that is absolute.
            backend_args: how to read it.
            test_mode: whether annotations and categories may be absent.

        Returns:
            The path of the file, and the names of its categories in the order of their ids.
        """
        if data_root and ann_file and not is_abs(ann_file):
            ann_file = join_path(data_root, ann_file)
        records = read_coco(ann_file, backend_args, need_annotations=not test_mode, keep=True)
        categories = sorted(records.categories, key=lambda category: _id_order(category.id))
        return ann_file, tuple(category.name for category in categories)

    def load_data_list(self) -> Sequence[dict]:
        """Read and check the annotation file.

        Returns:
            One dict per image in the order of the file, before `filter_data`.
        """
        overridden = [name for name in _HOOKS if self._overrides(name)]
        need_annotations = not self.test_mode
        # parse_data_info of a subclass may want any field of the file.
        if 'parse_data_info' in overridden:
            records, data = read_coco_json(self.ann_file, self.backend_args, need_annotations)
        else:
            records = read_coco(self.ann_file, self.backend_args, need_annotations=need_annotations)
        self._check_folder()
        self._check_names(records)
        classes = self._metainfo['classes']
        if records.categorised or not self.test_mode:
            self.cat_ids = match_classes(classes, records.categories, self.ann_file)
        else:  # of images only: numbered as the metric does
            self.cat_ids = list(range(1, len(classes) + 1))
        self.cat2label = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}
        images, check = build_images(records, self.cat2label, self.data_prefix['img'])
        self.counts.dropped, self.counts.beyond = check.count_dropped(), int(check.beyond.sum())
        self._defects = check.describe_defects()
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
        counts = self.counts
        counts.images, counts.used = len(images), len(places)
        counts.empty, counts.small = int(empty.sum()), int(small.sum())
        rules = bool(filters.get('filter_empty_gt')), min_size
        if not len(places):
            counts.elsewhere = _count_rows(images)
            raise ValueError(
                f'no usable image in {self.ann_file}: {counts.describe(*rules)}. filter_cfg is '
                f'{filters or None}; change it, metainfo.classes or the file'
            )
        if isinstance(images, CocoImages):
            selected = images.select(places)
            counts.without_boxes = int(
                (torch.diff(selected.ends, prepend=selected.ends.new_zeros(1)) == 0).sum()
            )
            counts.boxes, counts.crowds = (
                selected.ignore_flags.long().bincount(minlength=2).tolist()
            )
            counts.elsewhere = _count_rows(images) - len(selected.labels)
            self._log_counts(counts.describe(*rules))
            return selected
        kept = [images[place] for place in places.tolist()]
        flags = Counter(obj['ignore_flag'] for info in kept for obj in info['instances'])
        counts.without_boxes = sum(not info['instances'] for info in kept)
        counts.boxes, counts.crowds = flags[0], flags[1]
        counts.elsewhere = _count_rows(images) - flags.total()
        self._log_counts(counts.describe(*rules))
        return kept

    def full_init(self) -> None:
        """Read the annotation file, once."""
        super().full_init()
        if self._skipped is None and not self.test_mode:
            # Loader workers write into it.
            self._skipped = torch.zeros(len(self), dtype=torch.uint8).share_memory_()

    def prepare_data(self, idx: int) -> dict | None:
        """Run the pipeline on one image; None, if it is skipped, makes mmengine take another.

        Raises:
            ImageError: the image cannot be used and `on_error` is 'raise'.
        """
        try:
            data = super().prepare_data(idx)
        except ImageError:
            if self.on_error == 'raise':
                raise
            data = None
        if data is None and self._skipped is not None:
            self._skipped[idx] = 1
        return data

    @property
    def skipped(self) -> Tensor | None:
        """uint8 (N,), 1 for images skipped so far by any loader worker; None with `test_mode`."""
        return self._skipped

    @property
    def image_loader(self) -> LoadImageFromFile:
        """The pipeline's step that reads images, or one with its defaults."""
        return self._loader or LoadImageFromFile()

    def get_cat_ids(self, idx: int) -> list[int]:
        """List the labels of one image, as mmengine's `ClassBalancedDataset` asks for them."""
        return [instance['bbox_label'] for instance in self.get_data_info(idx)['instances']]

    def check_image_files(self, limit: int = 200) -> None:
        """Look at the headers and ends of up to `limit` image files, spread evenly.

        Remote images are not looked at. With `on_error='skip'` bad files are a warning, unless all
        are bad.

        Raises:
            ValueError: a file is missing, empty, no image, cut off, too large, or of another size
                than the annotation file says. Names the first five.
        """
        count = min(limit, len(self))
        bad = []
        for index in np.linspace(0, len(self) - 1, count).astype(int).tolist():
            info = self.get_data_info(index)
            fault = self.find_fault(info)
            bad += [f'{info["img_path"]} (id {info["img_id"]!r}) {fault}'] if fault else []
        if not bad:
            return
        more = f'; and {len(bad) - 5} more' if len(bad) > 5 else ''
        told = f'{len(bad)} of {count} image files looked at are bad: {"; ".join(bad[:5])}{more}. '
        if self.on_error == 'skip' and len(bad) < count:
            told += "With on_error='skip' they are left out of the training"
            print_log(told, logger='current', level=logging.WARNING)
            return
        raise ValueError(
            f'{told}Check data_root and data_prefix.img of the dataset that reads {self.ann_file}, '
            "or fetch the files again; on_error='skip' of the dataset trains without them"
        )

    def find_fault(self, info: Mapping) -> str | None:
        """Say what is wrong with the file of an image by its header; None if nothing is.

        Args:
            info: from `get_data_info`.
        """
        if not self.is_local(info['img_path']):
            return None
        loader = self.image_loader
        return find_image_fault(
            info['img_path'],
            (info['width'], info['height']),
            color_type=loader.color_type,
            max_pixels=loader.max_pixels,
        )

    def _log_counts(self, text: str) -> None:
        self.summary = text
        no_gt = not self.test_mode and not self.counts.boxes
        print_log(
            f'{self.ann_file}: {text}{". There is nothing to learn from" if no_gt else ""}',
            logger='current',
            level=logging.WARNING if no_gt else logging.INFO,
        )
        if self._defects:
            print_log(
                f'{self.ann_file}: boxes that cannot be used are left out: {self._defects}. '
                'tools/check_dataset.py shows them',
                logger='current',
                level=logging.WARNING,
            )

    def _check_names(self, records: CocoRecords) -> None:
        folder = self.data_prefix['img']
        if self.allow_outside or not self.is_local(folder):
            return
        names = [image.file_name for image in records.images]
        outside = find_outside_names(filter(None, names), folder)
        if outside:
            ids = {image.file_name: image.id for image in records.images}
            named = ', '.join(f'{name!r} (image id {ids[name]!r})' for name in outside[:5])
            more = f' and {len(outside) - 5} more' if len(outside) > 5 else ''
            raise ValueError(
                f'{self.ann_file}: {len(outside)} file names lead out of the image folder '
                f'{osp.abspath(folder)!r}: {named}{more}. Correct data_root and data_prefix.img or '
                'the file; if it is trusted, set allow_outside=True of the dataset'
            )

    def _check_folder(self) -> None:
        folder = self.data_prefix['img']
        if folder and self.is_local(folder) and not osp.isdir(folder):
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

    def is_local(self, path: str) -> bool:
        """Tell whether a path is on a local disk."""
        return isinstance(get_file_backend(path, backend_args=self.backend_args), LocalBackend)


def _count_rows(images: Sequence[dict]) -> int:
    if isinstance(images, CocoImages):
        return len(images.labels)
    return sum(len(info['instances']) for info in images)


def _id_order(id_: Any) -> tuple:
    """Sort key of category ids: numbers, also those written as text, before other text."""
    if isinstance(id_, str) and id_.isascii() and id_.isdecimal() and len(id_) < 20:
        id_ = int(id_)
    return (0, id_, '') if isinstance(id_, int | float) else (1, 0, str(id_))
