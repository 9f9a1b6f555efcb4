"""Reading an annotation file of train2017's size, each reader in its own process."""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset
from pycocotools.coco import COCO

from ghmdet.datasets import CocoDataset

from .drawn_coco import draw_annotations
from .measure import Rates, Report, Row, quiet_log, read_memory

_BOXES_PER_IMAGE = 860_001 / 118_287
_FILTER = dict(filter_empty_gt=True, min_size=32)


class PycocotoolsDataset(BaseDataset):
    """What MMDetection's family of loaders does: pycocotools, then a list of the images.

    The outlines stay in the list, as they do there.
    """

    METAINFO = CocoDataset.METAINFO

    def load_data_list(self) -> list[dict]:
        """Read the file."""
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(self.ann_file)
        labels = {cat_id: label for label, cat_id in enumerate(coco.getCatIds())}
        data_list = []
        for image in coco.loadImgs(coco.getImgIds()):
            instances = []
            for ann in coco.loadAnns(coco.getAnnIds(imgIds=[image['id']])):
                x, y, w, h = ann['bbox']
                instances.append(
                    {
                        'bbox': [x, y, x + w, y + h],
                        'bbox_label': labels[ann['category_id']],
                        'ignore_flag': ann['iscrowd'],
                        'mask': ann.get('segmentation'),
                    }
                )
            data_list.append(
                {
                    'img_id': image['id'],
                    'img_path': image['file_name'],
                    'height': image['height'],
                    'width': image['width'],
                    'instances': instances,
                }
            )
        return data_list

    def filter_data(self) -> list[dict]:
        """Remove small images and those without boxes."""
        min_size = self.filter_cfg['min_size']
        return [
            info
            for info in self.data_list
            if info['instances'] and min(info['width'], info['height']) >= min_size
        ]


def run(args: argparse.Namespace, rates: Rates) -> Report:
    """Measure both readers; they must find the same boxes."""
    readers = {
        'CocoDataset': read_with_ghmdet,
        'pycocotools': read_with_pycocotools,
        'the bytes alone': read_bytes,
    }
    found: dict[str, list[dict]] = {name: [] for name in readers}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'instances.json'
        num_boxes = round(args.images * _BOXES_PER_IMAGE)
        draw_annotations(path, args.images, num_boxes, outlines=True)
        size = path.stat().st_size
        for _ in range(args.runs):
            for name, reader in readers.items():
                found[name].append(_run_in_child(reader, str(path)))
    report = Report('dataset', [])
    for name, outcomes in found.items():
        row = Row(name, [outcome['seconds'] for outcome in outcomes], reference='pycocotools')
        if outcomes[0]['peak'] is not None:
            row.peak_bytes = max(outcome['peak'] for outcome in outcomes)
            row.notes['MiB before'] = max(outcome['before'] for outcome in outcomes) / 2**20
            row.notes['MiB kept'] = max(outcome['kept'] for outcome in outcomes) / 2**20
            row.notes['MiB private to a worker'] = outcomes[0]['private'] / 2**20
        report.rows.append(row)
    counts = [outcomes[0]['count'] for outcomes in found.values()]
    found_both = f'both readers find {counts[1][0]} images with {counts[1][1]} boxes'
    report.checks[found_both] = counts[0] == counts[1]
    report.remarks.append(
        f'file: {args.images} images, {num_boxes} boxes, {size / 1e6:.0f} MB; peak: of the whole '
        'process, libraries included; kept: by how much the process has grown'
    )
    return report


def read_with_ghmdet(path: str) -> Any:
    return CocoDataset(path, filter_cfg=_FILTER)


def read_with_pycocotools(path: str) -> Any:
    return PycocotoolsDataset(path, filter_cfg=_FILTER)


def read_bytes(path: str) -> Any:
    Path(path).read_bytes()
    return []


def _run_in_child(reader: Callable[[str], Any], path: str) -> dict[str, Any]:
    """Return what `_measure_reader` finds in a fresh process."""
    spawn = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_measure_reader, reader, path).result()


def _measure_reader(reader: Callable[[str], Any], path: str) -> dict[str, Any]:
    CocoDataset(lazy_init=True)  # imports what the registries name
    gc.collect()
    before = read_memory('VmRSS')
    start = time.perf_counter()
    with quiet_log():
        dataset = reader(path)
    seconds = time.perf_counter() - start
    gc.collect()
    after, peak = read_memory('VmRSS'), read_memory('VmHWM')
    kept = None if before is None or after is None else after - before
    count, private = _visit_in_worker(dataset)
    return dict(seconds=seconds, before=before, peak=peak, kept=kept, count=count, private=private)


def _visit_in_worker(dataset: Any) -> tuple[tuple[int, int], int]:
    """Let a forked process, such as a worker of a data loader, read the whole dataset.

    Returns:
        The number of images and of boxes; the bytes of memory that it does not share afterwards.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    worker = multiprocessing.get_context('fork').Process(target=_visit, args=(dataset, sender))
    worker.start()
    outcome = receiver.recv()
    worker.join()
    return outcome


def _visit(dataset: Any, sender: Connection) -> None:
    num_boxes = sum(len(dataset.get_data_info(i)['instances']) for i in range(len(dataset)))
    rollup = Path('/proc/self/smaps_rollup')
    text = rollup.read_text() if rollup.exists() else ''
    private = sum(map(int, re.findall(r'Private_\w+:\s+(\d+) kB', text))) * 1024
    sender.send(((len(dataset), num_boxes), private))
