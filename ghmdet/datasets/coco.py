"""CocoDataset: images and boxes of a COCO annotation file, read, checked and filtered."""

from __future__ import annotations

import logging
import math
import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.logging import print_log
from torch import Tensor

from ghmdet.argument_checks import check_dataset_arguments, check_flag, check_range
from ghmdet.coco.box_filter import CocoCounts
from ghmdet.coco.classes import COCO_CLASSES, COCO_PALETTE, match_classes, read_class_names
from ghmdet.coco.reader import read_coco, read_coco_json
from ghmdet.coco.records import CocoRecords, convert_records
from ghmdet.datasets.coco_images import CocoImages, build_images
from ghmdet.datasets.file_names import check_file_names, find_image_folder, fix_names
from ghmdet.datasets.image_file import ImageError, find_image_fault
from ghmdet.datasets.transforms.loading import LoadImageFromFile
from ghmdet.datasets.transforms.pipeline import SkippedImageError, run_steps
from ghmdet.messages import list_items
from ghmdet.registry import DATASETS, TRANSFORMS

# Methods that a subclass may override to change the list of dicts.
_HOOKS = ('load_data_list', 'parse_data_info', 'filter_data')


@DATASETS.register_module()
class CocoDataset(BaseDataset):
    """A COCO annotation file and its images.

    One image is a dict of `img_id`, `img_path`, `height`, `width`, `sample_idx` and `instances`, a
    list of `bbox` (x1, y1, x2, y2 in pixels of the file, not clipped to the image), `bbox_label`
    (index in `metainfo['classes']`) and `ignore_flag` (1 for a region to ignore: `iscrowd` or
    `ignore` is 1 in the file; MMDetection drops the latter). docs/judge/test_results.md says which
    boxes are left out.

    `cat_ids` lists the file's category ids in the order of the classes and `cat2label` is its
    inverse; for the difference from MMDetection see docs/from_mmdet.md.

    The images are kept as tensors, which data loader workers share; a dict is made when an item is
    read. A subclass that overrides `load_data_list`, `parse_data_info` or `filter_data` works on a
    list of dicts instead, which mmengine serializes. This is slower and takes more memory, most of
    all with `parse_data_info`, for which the whole content of the file is read.

    Args:
        ann_file: annotation file, below `data_root` unless absolute.
        pipeline: transforms of one image, as callables or configs, built from TRANSFORMS.
        data_prefix: `img` is the folder of the images, below `data_root` unless absolute.
        filter_cfg: images to leave out in training: `filter_empty_gt=True` those without any
            annotation of the classes (crowd counts as one), `min_size` those with a side below so
            many pixels. None keeps all. With `test_mode` all images are kept.
        backend_args: what `mmengine.fileio` needs for storage that is not a local disk.
        on_error: 'raise', or 'skip' to replace images that cannot be used (missing, damaged, of
            another size than the file says) by other ones; the skipped images are reported at the
            end of each epoch. Not with `test_mode`.
        allow_outside: whether file names may lead out of the folder of the images, by `..` or as
            absolute paths. Only checked on a local disk.
        fix_names: use images, and a folder of images, that exist under nearly the name given:
            another case, another Unicode normal form, slashes for backslashes. Logs how many. Only
            on a local disk; images whose name fits two files are not found.
        **kwargs: `metainfo` (`classes` in label order; the 80 COCO classes without it),
            `data_root`, `indices`, `serialize_data`, `test_mode`, `lazy_init` and `max_refetch` of
            mmengine's `BaseDataset`.

    Raises:
        FileNotFoundError: the annotation file or the folder of the images is missing.
        ValueError: an argument or the annotation file is wrong, or no image is left.
    """

    METAINFO = {'classes': COCO_CLASSES, 'palette': COCO_PALETTE}
    folder_keys = 'data_prefix.img'  # what names the folder of the images, for messages
    filters: tuple[str, ...] = ('filter_empty_gt', 'min_size')  # keys of `filter_cfg`
    skipped: Tensor | None = None
    """uint8 (N,), 1 for images skipped so far by any worker; None with `test_mode`."""
    image_loader: LoadImageFromFile
    """The step of the pipeline that reads images, or one with default settings."""

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
        fix_names: bool = False,
        **kwargs: Any,
    ) -> None:
        given: dict[str, Any] = dict(ann_file=ann_file, pipeline=pipeline, data_prefix=data_prefix)
        given |= dict(filter_cfg=filter_cfg, backend_args=backend_args)
        check_dataset_arguments(kwargs | given)
        kwargs['data_root'] = osp.expanduser(kwargs.get('data_root') or '')
        if on_error not in ('raise', 'skip'):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        if on_error == 'skip' and kwargs.get('test_mode'):
            raise ValueError(
                "on_error='skip' is for training: with test_mode=True the evaluation would miss "
                'images. Repair the files, or remove the images from the annotation file'
            )
        if 'img' not in data_prefix:
            raise ValueError(f"data_prefix must have the key 'img', got {dict(data_prefix)}")
        unknown = sorted(set(filter_cfg or ()) - {*self.filters})
        check_range('filter_cfg.min_size', (filter_cfg or {}).get('min_size', 0), 0, math.inf)
        if unknown:
            raise ValueError(f'filter_cfg may have {" and ".join(self.filters)}, got {unknown}')
        check_flag('fix_names', fix_names)
        self.on_error, self.backend_args = on_error, backend_args
        self.allow_outside, self.fix_names = allow_outside, fix_names
        self.counts = CocoCounts()
        self.summary = self.advice = self._defects = self._skip_reason = ''
        self._ids_with_gt: set | None = None
        # BaseDataset would use the root registry, which has another LoadAnnotations.
        steps = [TRANSFORMS.build(step) if isinstance(step, dict) else step for step in pipeline]
        loaders = (step for step in steps if isinstance(step, LoadImageFromFile))
        self.image_loader = next(loaders, LoadImageFromFile())
        folders = {name: osp.expanduser(path) for name, path in data_prefix.items()}
        super().__init__(
            osp.expanduser(ann_file),
            data_prefix=folders,
            filter_cfg=filter_cfg,
            pipeline=steps,
            **kwargs,
        )

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping | None = None) -> dict:
        old = ('CLASSES', 'PALETTE')  # in MMDetection 3.0rc
        given = {k.lower() if k in old else k: value for k, value in (metainfo or {}).items()}
        classes = given.get('classes', cls.METAINFO['classes'])
        given['classes'] = read_class_names(classes, 'metainfo.classes')
        return super()._load_metainfo(given)

    def load_data_list(self) -> Sequence[dict]:
        """Read and check the file; return a dict per image in its order, before `filter_data`."""
        mine, base = type(self), CocoDataset
        own = [name for name in _HOOKS if getattr(mine, name) is not getattr(base, name)]
        # parse_data_info of a subclass may read any field of the file.
        if 'parse_data_info' in own:
            records, data = read_coco_json(self.ann_file, self.backend_args, not self.test_mode)
        else:
            records = self.read_records()
        folder = self.find_folder()
        if is_local := self.is_local(folder):
            self.fix_records(records)
        check_outside = is_local and not self.allow_outside
        names = records.images, folder, self.ann_file
        check_file_names(*names, elsewhere='parse_data_info' not in own, outside=check_outside)
        classes = self._metainfo['classes']
        if records.categorised or not self.test_mode:
            annotated = records.annotations.category_ids
            self.cat_ids = match_classes(classes, records.categories, self.ann_file, annotated)
        else:  # a file without categories: ids from 1, as in CocoMetric
            self.cat_ids = list(range(1, len(classes) + 1))
        self.cat2label = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}
        images, check = build_images(records, self.cat2label, folder, self.test_mode)
        self.counts.dropped, self.counts.beyond = check.count_dropped(), int(check.beyond.sum())
        self._defects = check.describe_defects()
        self.advice = check.explain({category.id: category.name for category in records.categories})
        if not own:
            self.serialize_data = False  # workers share tensors as they are
            return images
        ids, has_objects = images.fields['img_id'].tolist(), images.has_objects.tolist()
        self._ids_with_gt = set(compress(ids, has_objects))
        if 'parse_data_info' not in own:
            return list(images)
        anns_of = defaultdict(list)
        for ann in data['annotations']:
            anns_of[ann['image_id']].append(ann)
        for image, record in zip(data['images'], records.images, strict=True):
            image['file_name'] = record.file_name
        return [
            self.parse_data_info({'raw_img_info': image, 'raw_ann_info': anns_of[image['id']]})
            for image in data['images']
        ]

    def read_records(self) -> CocoRecords:
        """Read and check the annotations; errors as in `read_coco`."""
        return read_coco(self.ann_file, self.backend_args, need_annotations=not self.test_mode)

    def find_folder(self) -> str:
        """Return the folder of the images, on a local disk checked by `find_image_folder`."""
        folder = self.data_prefix['img']
        if self.is_local(folder):
            given = folder, self.ann_file, self.fix_names, self.folder_keys
            self.data_prefix['img'] = folder = find_image_folder(*given)
        return folder

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """Turn one image of the file into what the pipeline starts from.

        `raw_img_info` is its entry of `images`, `raw_ann_info` are its annotations.
        """
        images, annotations = [raw_data_info['raw_img_info']], raw_data_info['raw_ann_info']
        data = dict(images=images, annotations=annotations, categories=[])
        records = convert_records(data, self.ann_file)
        return build_images(records, self.cat2label, self.data_prefix['img'], self.test_mode)[0][0]

    def filter_data(self) -> Sequence[dict]:
        """Leave out images by `filter_cfg`, never with `test_mode`."""
        images = self.data_list
        filters = {} if self.test_mode else dict(self.filter_cfg or {})
        drop_empty, min_size = bool(filters.get('filter_empty_gt')), filters.get('min_size', 0)
        if isinstance(images, CocoImages):
            has_objects = images.has_objects.numpy()
            shortest = np.minimum(images.fields['width'].tolist(), images.fields['height'].tolist())
        else:
            known = self._ids_with_gt
            has_objects = np.array(
                [bool(i['instances']) if known is None else i['img_id'] in known for i in images]
            )
            shortest = np.array([min(info['width'], info['height']) for info in images])
        empty = ~has_objects & drop_empty
        small = ~empty & (shortest < min_size)
        kept = ~empty & ~small
        is_flat = isinstance(images, CocoImages)
        used = images.select(np.flatnonzero(kept)) if is_flat else list(compress(images, kept))
        counts = self.counts
        counts.images, counts.used = len(images), len(used)
        counts.empty, counts.small = int(empty.sum()), int(small.sum())
        counts.boxes, counts.crowds, counts.without_boxes = _count_boxes(used)
        counts.elsewhere = sum(_count_boxes(images)[:2]) - counts.boxes - counts.crowds
        text = counts.describe(drop_empty, min_size)
        if not len(used):
            advice = f'{self.advice}. ' if self.advice else ''
            raise ValueError(
                f'no usable image in {self.ann_file}: {text}. {advice}filter_cfg is '
                f'{filters or None}; change it, metainfo.classes or the file'
            )
        self._log_counts(text)
        return used

    def full_init(self) -> None:
        """Read the annotation file, once."""
        super().full_init()
        if self.skipped is None and not self.test_mode:
            # Shared with the data loader workers, which write to it.
            self.skipped = torch.zeros(len(self), dtype=torch.uint8).share_memory_()

    def __getitem__(self, idx: int) -> dict:
        """Run the pipeline on one image; in training, if that is skipped, on another one."""
        try:
            return super().__getitem__(idx)
        except Exception as error:
            if type(error) is not Exception:  # mmengine's, after max_refetch images
                raise
            raise ImageError(
                f'{self.ann_file}: {self.max_refetch + 1} images drawn at random were all skipped, '
                f'the last since {self._skip_reason}. tools/check_dataset.py --pipeline lists all'
            ) from None

    def prepare_data(self, idx: int) -> dict | None:
        """Run the pipeline on one image; None if it is skipped, for which mmengine takes another.

        Raises:
            ImageError: the image cannot be used and `on_error` is 'raise'; with `test_mode` also if
                a step returns None.
            PipelineError: a step of the pipeline fails otherwise.
        """
        try:
            return run_steps(self.pipeline.transforms, self.get_data_info(idx))
        except ImageError as error:
            may_skip = self.on_error == 'skip' or isinstance(error, SkippedImageError)
            if self.test_mode or not may_skip:
                raise
            self._skip_reason = str(error)
        if self.skipped is not None:
            self.skipped[idx] = 1
        return None

    def get_data_info(self, idx: int) -> dict:
        """Return the dict of one image, a new one each time."""
        if not self._fully_initialized or not isinstance(self.data_list, CocoImages):
            return super().get_data_info(idx)
        # mmengine's would copy it, which takes a twentieth of the time of a training image.
        return self.data_list[idx] | {'sample_idx': range(len(self))[idx]}

    def get_cat_ids(self, idx: int) -> list[int]:
        """List the labels of one image, for mmengine's `ClassBalancedDataset`."""
        return [instance['bbox_label'] for instance in self.get_data_info(idx)['instances']]

    def count_objects(self) -> np.ndarray:
        """Count the used boxes of each class, int64 (C,), without regions to ignore."""
        if isinstance(self.data_list, CocoImages):
            labels = self.data_list.labels[self.data_list.ignore_flags == 0].numpy()
        else:
            infos = map(self.get_data_info, range(len(self)))
            objects = (each for info in infos for each in info.get('instances', ()))
            labels = np.array([o['bbox_label'] for o in objects if not o.get('ignore_flag')], int)
        return np.bincount(labels, minlength=len(self.metainfo['classes']))

    def check_image_files(self, limit: int = 200) -> None:
        """Check the headers and ends of up to `limit` image files, evenly spread.

        Only files on a local disk are checked. With `on_error='skip'` bad files are a warning,
        unless all are bad.

        Raises:
            ValueError: a file is missing, empty, no image, truncated, too large, or of another size
                than the annotation file says. Names the first five.
        """
        count = min(limit, len(self))
        bad = []
        for index in np.linspace(0, len(self) - 1, count).astype(int).tolist():
            info = self.get_data_info(index)
            if fault := self.find_fault(info):
                bad.append(f'{info["img_path"]} (id {info["img_id"]!r}) {fault}')
        if not bad:
            return
        message = f'{len(bad)} of {count} checked image files are bad: {list_items(bad, 5, "; ")}. '
        if self.on_error == 'skip' and len(bad) < count:
            warn(f"{message}With on_error='skip' they are left out of the training")
            return
        raise ValueError(
            f'{message}Check data_root and {self.folder_keys} of the dataset that reads '
            f"{self.ann_file}, or copy the files again; with on_error='skip' of the dataset "
            'training skips them'
        )

    def find_fault(self, info: Mapping) -> str | None:
        """Return what is wrong with an image file, by its header; `info` is of `get_data_info`."""
        if not self.is_local(info['img_path']):
            return None
        size_wh, loader = (info['width'], info['height']), self.image_loader
        return find_image_fault(
            info['img_path'], size_wh, color_type=loader.color_type, max_pixels=loader.max_pixels
        )

    def _log_counts(self, text: str) -> None:
        self.summary = text
        text = f'{self.ann_file}: {text}'
        if not self.test_mode and not self.counts.boxes:
            warn('; '.join(filter(None, [f'{text}. There is no box to learn from', self.advice])))
        elif self.advice and self.counts.boxes:  # normalised, and of a test
            warn(f'{text}; {self.advice}')
        else:
            print_log(text, logger='current')
        if self._defects:
            warn(
                f'{self.ann_file}: boxes that cannot be used are left out: {self._defects}. '
                'tools/check_dataset.py shows them'
            )

    def fix_records(self, records: CocoRecords) -> None:
        """Change the names of image files to those of `fix_names`."""
        if self.fix_names and self.is_local(self.data_prefix['img']):
            fix_names(records.images, self.data_prefix['img'], self.ann_file)

    def _get_unserialized_subset(self, indices: Sequence[int] | int) -> Sequence[dict]:
        if isinstance(self.data_list, CocoImages) and isinstance(indices, Sequence):
            return self.data_list.select(indices)
        return super()._get_unserialized_subset(indices)

    def is_local(self, path: str) -> bool:
        """Whether a path is on a local disk."""
        return isinstance(get_file_backend(path, backend_args=self.backend_args), LocalBackend)


def _count_boxes(images: Sequence[dict]) -> tuple[int, int, int]:
    """Count the boxes, the regions to ignore, and the images without either."""
    if isinstance(images, CocoImages):
        boxes, crowds = images.ignore_flags.long().bincount(minlength=2).tolist()
        per_image = torch.diff(images.ends, prepend=images.ends.new_zeros(1))
        return boxes, crowds, int((per_image == 0).sum())
    flags = Counter(obj['ignore_flag'] for info in images for obj in info['instances'])
    return flags[0], flags[1], sum(not info['instances'] for info in images)


def warn(message: str) -> None:
    """Log a warning."""
    print_log(message, logger='current', level=logging.WARNING)
