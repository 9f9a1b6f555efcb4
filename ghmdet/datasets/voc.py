"""VOCDataset: images and boxes of Pascal VOC, one XML file per image, in the order of a list."""

from __future__ import annotations

import os.path as osp
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from mmengine import fileio

from ghmdet.argument_checks import check_dataset_arguments, check_range
from ghmdet.coco.classes import suggest_name
from ghmdet.coco.reader import explain_no_file
from ghmdet.coco.records import AnnotationColumns, CategoryRecord, CocoRecords, ImageRecord
from ghmdet.datasets.coco import CocoDataset, warn
from ghmdet.datasets.image_file import applies_exif, read_image_sizes
from ghmdet.datasets.image_folder import SUFFIXES, list_images
from ghmdet.datasets.voc_xml import VocObject, read_object, read_size, read_xml
from ghmdet.files import decode_text, explain_look_alike, find_look_alike
from ghmdet.messages import list_items
from ghmdet.registry import DATASETS

_NAMES = (
    'aeroplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,diningtable,dog,horse,motorbike,'
    'person,pottedplant,sheep,sofa,train,tvmonitor'
)
VOC_CLASSES = tuple(_NAMES.split(','))
VOC_PALETTE = [
    *((106, 0, 228), (119, 11, 32), (165, 42, 42), (0, 0, 192), (197, 226, 255), (0, 60, 100)),
    *((0, 0, 142), (255, 77, 255), (153, 69, 1), (120, 166, 157), (0, 182, 199), (0, 226, 252)),
    *((182, 182, 255), (0, 0, 230), (220, 20, 60), (163, 255, 0), (0, 82, 0), (3, 95, 161)),
    *((0, 80, 100), (183, 130, 88)),
]
# After the name of the image: of VOC's lists for one class, and of other tools.
_SECOND_COLUMN = re.compile(r'\s+(-1|0|1|\S+\.xml)$', re.IGNORECASE)
_ENDING = re.compile(rf'({"|".join(map(re.escape, SUFFIXES))}|\.xml)$', re.IGNORECASE)


@DATASETS.register_module()
class VOCDataset(CocoDataset):
    """Images and boxes of Pascal VOC: a list of names, an XML file and an image for each.

    The dict of an image is that of `CocoDataset`; `img_id` is the name in the list. As in
    MMDetection, coordinates lose their decimals, and, since VOC counts pixels from 1, 1 is
    subtracted. `ignore_flag` is 1 for `difficult` objects. Boxes without width or height or
    outside of their image, which MMDetection learns, are left out and counted.

    `metainfo['dataset_type']` is 'VOC2007' or 'VOC2012' if `sub_data_root` contains that, else
    None. An image is `<name>.jpg`, or has another ending; if several do, `filename` in the XML
    decides. A second column of the list is not used. A size that the XML lacks is read from the
    image.

    Args:
        ann_file: the list, e.g. 'VOC2007/ImageSets/Main/trainval.txt', below `data_root`.
        img_subdir: folder of the images, below `sub_data_root`.
        ann_subdir: folder of the XML files, below `sub_data_root`.
        data_prefix: `sub_data_root` is the folder of both, e.g. 'VOC2007/', below `data_root`.
        filter_cfg: of `CocoDataset`, and `bbox_min_size`: boxes with a side below so many pixels
            become regions to ignore; not with `test_mode`.
        **kwargs: of `CocoDataset`. `classes` of `metainfo` are VOC's 20 by default; `on_error` and
            `fix_names` are for XML files too.

    Raises:
        FileNotFoundError: the list or the folder of the images is missing.
        ValueError: an argument or an XML file is wrong, no object is of the classes, or no image is
            left.
    """

    METAINFO = {'classes': VOC_CLASSES, 'palette': VOC_PALETTE}
    folder_keys = 'data_prefix.sub_data_root and img_subdir'
    filters = ('filter_empty_gt', 'min_size', 'bbox_min_size')

    def __init__(
        self,
        ann_file: str = '',
        *,
        img_subdir: str = 'JPEGImages',
        ann_subdir: str = 'Annotations',
        data_prefix: Mapping[str, str] = {'sub_data_root': ''},
        filter_cfg: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_dataset_arguments(dict(data_prefix=data_prefix, filter_cfg=filter_cfg))
        if {*data_prefix} - {'sub_data_root'}:
            raise ValueError(
                "data_prefix of VOCDataset has the key 'sub_data_root', the folder of "
                f'{img_subdir} and {ann_subdir}; got {dict(data_prefix)}'
            )
        min_size = (filter_cfg or {}).get('bbox_min_size') or 0
        check_range('filter_cfg.bbox_min_size', min_size, 0, float('inf'))
        if min_size and kwargs.get('test_mode'):
            raise ValueError(
                'filter_cfg.bbox_min_size is for training: with test_mode=True objects would not '
                'be measured. Remove it'
            )
        self.ann_subdir = ann_subdir
        root = data_prefix.get('sub_data_root', '')
        folders = {'sub_data_root': root, 'img': osp.join(root, img_subdir)}
        super().__init__(ann_file, data_prefix=folders, filter_cfg=filter_cfg, **kwargs)
        year = re.search('VOC2007|VOC2012', self.data_prefix['sub_data_root'])
        self._metainfo['dataset_type'] = year and year[0]

    def read_records(self) -> CocoRecords:
        """Read the list and its XML files; ids of images are names, of categories class names."""
        lines, files = self._read_list(), defaultdict[str, list[str]](list)
        if self.is_local(self.data_prefix['sub_data_root']):
            for file in list_images(self.find_folder()):
                files[osp.splitext(file)[0]].append(file)
        images: dict[Any, ImageRecord] = {}
        objects, faults = list[tuple[Any, VocObject]](), list[str]()
        for number, line in lines:
            try:
                image, found = self._read_image(line, files)
            except ValueError as error:
                faults.append(f'{error} (line {number} of {self.ann_file})')
                continue
            if images.setdefault(image.id, image) is image:  # else the list has it twice
                objects += [(image.id, each) for each in found]
        self._report_faults(faults, len(lines))
        classes = self._metainfo['classes']
        names = list(dict.fromkeys([*classes, *(each.name for _, each in objects)]))
        others = names[len(classes) :]
        if objects and not any(each.name in classes for _, each in objects):
            hints = list_items((suggest_name(name, others) for name in classes), 10)
            raise ValueError(
                f'{self.ann_file}: no object is of the {len(classes)} classes in '
                f'metainfo.classes, {hints}; name theirs, {list_items(others, 20)}, in '
                "metainfo=dict(classes=(...)) of every dataset, and set the head's num_classes"
            )
        columns = _make_columns([*images], names, objects)
        if min_size := (self.filter_cfg or {}).get('bbox_min_size'):
            columns.is_ignored |= (columns.bbox[:, 2:] < min_size).any(axis=1)
        return CocoRecords(
            [*images.values()], [CategoryRecord(name, name) for name in names], columns, True
        )

    def _read_list(self) -> list[tuple[int, str]]:
        """Return the lines that are not empty, with their numbers."""
        try:
            text = decode_text(fileio.get(self.ann_file, self.backend_args), self.ann_file)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise explain_no_file(self.ann_file) from None
        if text.lstrip()[:1] in ('{', '['):
            raise ValueError(
                f'{self.ann_file}: expected a list of names, one per line, but this is a JSON '
                "file: type='CocoDataset' reads it, with data_prefix=dict(img=...)"
            )
        return [(i, line.strip()) for i, line in enumerate(text.split('\n'), 1) if line.strip()]

    def _read_image(
        self, line: str, files: Mapping[str, list[str]]
    ) -> tuple[ImageRecord, list[VocObject]]:
        """Read what a line names; `files` are the images by their name without ending."""
        name, xml_file = self._find_xml(line)
        try:
            with fileio.get_local_path(xml_file, backend_args=self.backend_args) as path:
                tree = read_xml(Path(path))
            objects = [read_object(node, allow_degenerate=True) for node in tree.iterfind('object')]
            file_name, found = f'{name}.jpg', files.get(name, [])
            if found and file_name not in found:
                wanted = tree.findtext('filename', '')
                if len(found) > 1 and wanted not in found:
                    raise ValueError(f'filename is {wanted!r}, and the images {found} fit')
                file_name = wanted if wanted in found else found[0]
            size_wh = read_size(tree)
            if size_wh is None:
                image, loader = osp.join(self.data_prefix['img'], file_name), self.image_loader
                sizes_wh = read_image_sizes(image, loader.max_pixels)
                size_wh = sizes_wh[applies_exif(loader.color_type)]
        except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
            text = str(error).removeprefix(f'{xml_file}: ')
            hint = explain_look_alike(xml_file) if isinstance(error, FileNotFoundError) else ''
            raise ValueError(f'{xml_file}: {text}{hint}') from None
        return ImageRecord(name, file_name, size_wh[1], size_wh[0]), objects

    def _find_xml(self, line: str) -> tuple[str, str]:
        """Return the name of the image that a line means, and its XML file, if that exists."""
        folder = osp.join(self.data_prefix['sub_data_root'], self.ann_subdir)
        path = osp.join(folder, f'{line}.xml')
        if not self.is_local(folder) or osp.isfile(path):
            return line, path
        name = _ENDING.sub('', _SECOND_COLUMN.sub('', line))
        path = osp.join(folder, f'{name}.xml')
        return name, (find_look_alike(path) if self.fix_names else None) or path

    def _report_faults(self, faults: Sequence[str], total: int) -> None:
        """Raise a ValueError, or warn with `on_error='skip'`."""
        if not faults:
            return
        text = f'{len(faults)} of {total} images cannot be used: {list_items(faults, 5, "; ")}. '
        if self.on_error == 'skip' and len(faults) < total:
            warn(f"{self.ann_file}: {text}With on_error='skip' they are left out")
            return
        raise ValueError(
            f'{self.ann_file}: {text}Correct the files or the list, and check data_root, '
            "data_prefix.sub_data_root and ann_subdir; with on_error='skip' of the dataset "
            'training leaves them out'
        )


def _make_columns(
    image_ids: Sequence[Any], names: Sequence[str], objects: Sequence[tuple[str, VocObject]]
) -> AnnotationColumns:
    """Turn objects, with the ids of their images, into COCO's columns, counted from pixel 0."""
    image_of = {id_: index for index, id_ in enumerate(image_ids)}
    name_of = {name: index for index, name in enumerate(names)}
    bbox = np.trunc([each.corners for _, each in objects]).reshape(-1, 4)
    bbox[:, 2:] -= bbox[:, :2]
    bbox[:, :2] -= 1
    return AnnotationColumns(
        list(image_ids),
        list(names),
        np.array([image_of[id_] for id_, _ in objects], np.int64),
        np.array([name_of[each.name] for _, each in objects], np.int64),
        bbox,
        area=np.full(len(objects), np.nan),
        is_crowd=np.zeros(len(objects), bool),
        is_ignored=np.array([each.difficult for _, each in objects], bool),
        ids=[None] * len(objects),
    )
