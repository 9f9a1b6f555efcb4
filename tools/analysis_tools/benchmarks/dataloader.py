"""Images per second of a config's training pipeline, against a sequence of mmcv's transforms."""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose, LoadImageFromFile, RandomFlip, Resize
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader, Dataset

from ghmdet import get_config
from ghmdet.registry import DATASETS

from .drawn_coco import draw_annotations, draw_images
from .measure import Rates, Report, measure

_BOXES_PER_IMAGE = 7


class LiteralPipeline(Dataset):
    """Read, resize, flip and pack with mmcv's transforms, one after the other.

    Args:
        infos: of a CocoDataset.
        scale: (w, h) to fit into.
    """

    def __init__(self, infos: list[dict], scale: tuple[int, int]) -> None:
        self.infos = infos
        self.transforms = Compose(
            [LoadImageFromFile(), Resize(scale=scale, keep_ratio=True), RandomFlip(prob=0.5)]
        )

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        results = copy.deepcopy(self.infos[index])
        boxes = [instance['bbox'] for instance in results['instances']]
        results['gt_bboxes'] = np.array(boxes, np.float32).reshape(-1, 4)
        results = self.transforms(results)
        labels = [instance['bbox_label'] for instance in results['instances']]
        img = results['img']
        if img.flags.c_contiguous:
            inputs = torch.from_numpy(img).permute(2, 0, 1).contiguous()
        else:  # flipped, a view
            inputs = torch.from_numpy(np.ascontiguousarray(img.transpose(2, 0, 1)))
        bboxes = torch.from_numpy(results['gt_bboxes'].astype(np.float32))
        return dict(inputs=inputs, bboxes=bboxes, labels=torch.tensor(labels))


def run(args: argparse.Namespace, rates: Rates) -> Report:
    """Measure both pipelines on the same files, in this process and with workers."""
    report = Report('dataloader', [])
    with tempfile.TemporaryDirectory() as folder:
        cfg = get_config(args.config)
        dataset = _build_dataset(cfg, Path(folder), args.images)
        infos = [dataset.get_data_info(i) for i in range(len(dataset))]
        scale_wh = _find_scale(cfg)
        literal = LiteralPipeline(infos, scale_wh)
        paths = [info['img_path'] for info in infos]
        size = sum(Path(path).stat().st_size for path in paths) / len(paths)
        for workers in dict.fromkeys([0, args.workers]):
            suffix = f', {workers} workers' if workers else ''
            reference = f'literal mmcv chain{suffix}'
            variants: dict[str, Callable[[], object]] = {
                f'config{suffix}': partial(_exhaust, _load(dataset, workers)),
                reference: partial(_exhaust, _load(literal, workers)),
            }
            if not workers:
                variants['cv2 read and resize alone'] = partial(_read_alone, paths, scale_wh)
            rows = measure(variants, args.runs)
            for row in rows.values():
                row.reference = reference
                row.peak_bytes = None if workers else row.peak_bytes
                row.notes['images/s'] = len(dataset) / row.median
            report.rows += rows.values()
        ours, theirs = dataset[0]['inputs'].shape, literal[0]['inputs'].shape
    report.checks[f'both pipelines give images of {tuple(theirs)}'] = ours == theirs
    report.remarks.append(f'{args.images} JPEGs of 640x480 pixels, {size / 1e3:.0f} kB on average')
    return report


def _build_dataset(cfg: Config, folder: Path, num_images: int) -> Any:
    """Return the config's training set, with drawn images."""
    path = folder / 'instances.json'
    draw_annotations(path, num_images, num_images * _BOXES_PER_IMAGE, outlines=False, one_size=True)
    draw_images(folder, [image['file_name'] for image in json.loads(path.read_text())['images']])
    settings = cfg.train_dataloader.dataset
    while 'dataset' in settings:
        settings = settings.dataset
    settings.update(
        data_root='', ann_file=str(path), data_prefix=dict(img=str(folder)), filter_cfg=None
    )
    settings.pop('metainfo', None)
    return DATASETS.build(settings)


def _find_scale(cfg: Config) -> tuple[int, int]:
    """The (w, h) of the config's Resize, by default COCO's usual (1333, 800)."""
    settings = cfg.train_dataloader.dataset
    while 'dataset' in settings:
        settings = settings.dataset
    scales = [step.scale for step in settings.pipeline if 'scale' in step]
    return tuple(scales[0]) if scales else (1333, 800)


def _load(dataset: Any, workers: int) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=2,
        num_workers=workers,
        collate_fn=pseudo_collate,
        persistent_workers=workers > 0,
    )


def _exhaust(batches: DataLoader) -> None:
    for _ in batches:
        pass


def _read_alone(paths: list[str], scale_wh: tuple[int, int]) -> None:
    """The work that every pipeline must do; nothing is flipped or packed."""
    for path in paths:
        img = np.asarray(cv2.imread(path))
        factor = min(max(scale_wh) / max(img.shape[:2]), min(scale_wh) / min(img.shape[:2]))
        cv2.resize(img, None, fx=factor, fy=factor)
