"""COCO average precision and recall of boxes."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import time
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faster_coco_eval
import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ghmdet.argument_checks import check_flag
from ghmdet.messages import did_you_mean, nearest
from ghmdet.registry import METRICS

from . import coco_summary as summary
from . import thresholds
from .coco_annotations import CocoAnnotations, category_numbers, truth_of_sample
from .coco_results import number_detections, results_path, write_results
from .image_results import ImageResults, index_images
from .matching import match

_BACKENDS = {
    'faster_coco_eval': (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
    'pycocotools': (COCO, COCOeval),
}


@contextlib.contextmanager
def _gc_paused() -> Iterator[None]:
    """Pause the garbage collector, which would scan the many new dicts repeatedly."""
    restore = gc.enable if gc.isenabled() else gc.disable
    gc.disable()
    try:
        yield
    finally:
        restore()


@METRICS.register_module()
class CocoMetric(ImageResults):
    """Mean average precision as COCO defines it, for boxes in pixels of the original image.

    The images of the dataset are evaluated, also where `ann_file` has more; an image that was not
    predicted is an error. Values are fractions in [0, 1] at full precision. -1 means that there is
    no ground truth to measure (no large object for `mAP_l`, say); a class without is nan, 'n/a' in
    the table, and left out of the means. Without any ground truth all values are nan. If nothing at
    all was detected, every value is 0. Which boxes count is in docs/judge/test_results.md.

    Args:
        ann_file: the COCO JSON, with image ids of any JSON type; classes are found by name. None:
            the file of the dataset, which `build_runner` sets for a `CocoDataset`; for another
            dataset the ground truth that its samples contain, see `process`.
        metric: 'bbox' (keys `bbox_mAP`, ...), 'proposal' (class-agnostic `AR@100`, ...), or both.
        classwise: also return `<class>_precision` for each class, and log a table.
        proposal_nums: limits of detections per image and class. `mAP` uses 100 if that is one of
            them, else the largest; other mAP items and `<class>_precision` use the largest.
        iou_thrs: IoU thresholds in (0, 1]; None is 0.5, 0.55, ..., 0.95, of which `mAP_50` and
            `mAP_75` are returned. Those given here are each returned, 0.6 as `mAP_60`.
        metric_items: names to return, of `mAP mAP_<percent> mAP_s mAP_m mAP_l AR@n AR_s@n AR_m@n
            AR_l@n` (n of `proposal_nums`; by area: the largest). None: all mAP for 'bbox', all AR
            for 'proposal'.
        format_only: write the results only; `ann_file` may lack annotations, and categories, which
            are then numbered from 1 in the order of the classes.
        outfile_prefix: write COCO results (boxes x, y, w, h) to `<outfile_prefix>.bbox.json`, or to
            a file that is named `.json` here; see docs/judge/test_results.md.
        backend_args: how to read `ann_file`, see `mmengine.fileio.get`.
        collect_device: accepted for MMDetection's configs, not used, see `ImageResults`.
        prefix: put before each key; None is `coco`.
        backend: 'faster_coco_eval', or 'pycocotools' for the same numbers ten times slower.
        max_dets: instead of `proposal_nums`, a number or several; every mAP uses the largest.
        check_ann_file: False lets `ann_file` be another file than the dataloader reads; read by
            `StartCheckHook`.
        box_rule: 'matchable' or 'pycocotools', with which values without ground truth are -1; see
            docs/judge/test_results.md. On most files both give the same numbers.
        best_thresholds: log the figures of `thresholds.best_thresholds`. A test sets it.
        curves_dir: folder for `thresholds.write_curves` and `write_recall_curves`, None for none.

    Raises:
        FileNotFoundError: `ann_file` does not exist.
        ValueError: an argument or the content of `ann_file` is not as described above.
    """

    default_prefix = 'coco'

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = 'bbox',
        classwise: bool = False,
        proposal_nums: Sequence[int] = (100, 300, 1000),
        iou_thrs: float | Sequence[float] | None = None,
        metric_items: Sequence[str] | None = None,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        backend_args: dict | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        backend: str = 'faster_coco_eval',
        max_dets: int | Sequence[int] | None = None,
        check_ann_file: bool = True,
        box_rule: str = 'matchable',
        best_thresholds: bool = False,
        curves_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.metrics = _check_metrics(metric)
        _check_choice('backend', backend, [*_BACKENDS])
        _check_choice('box_rule', box_rule, ['matchable', 'pycocotools'])
        check_flag('CocoMetric: best_thresholds', best_thresholds)
        if format_only and outfile_prefix is None:
            raise ValueError(
                "CocoMetric: format_only=True needs outfile_prefix, e.g. 'work_dirs/test/results'"
            )
        self.ann_file = ann_file and os.path.expanduser(ann_file)
        self.check_ann_file, self.format_only = check_ann_file, format_only
        self.backend, self.count_all = backend, box_rule == 'pycocotools'
        self.classwise, self.metric_items = classwise, metric_items
        self.best_thresholds = best_thresholds
        self.curves_dir = Path(curves_dir).expanduser() if curves_dir else None
        self.outfile = None if outfile_prefix is None else results_path(outfile_prefix)
        limits = (proposal_nums, 'proposal_nums') if max_dets is None else (max_dets, 'max_dets')
        self.max_dets = summary.check_limits(*limits)
        self.iou_thrs = summary.check_iou_thrs(iou_thrs)
        overall = None if max_dets is None else self.max_dets[-1]
        self._items = summary.summary_items(self.iou_thrs, self.max_dets, overall)
        self._default_names = summary.default_names(self._items, iou_thrs is not None)
        summary.check_metric_items(metric_items or (), self._items)
        self._truth: CocoAnnotations | None = None
        if self.ann_file is not None:
            self._truth = CocoAnnotations.from_file(self.ann_file, backend_args, not format_only)
            self.known_ids = self._truth.images
        self._category_ids: list[Hashable] = []

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        """Set the dataset's metainfo, of which `classes` is used: categories of `ann_file`."""
        classes = dataset_meta.get('classes')
        if not classes or isinstance(classes, str):
            raise ValueError(
                f'CocoMetric: metainfo of the dataset needs `classes`, names; got {classes!r}'
            )
        self._dataset_meta = dataset_meta
        find = category_numbers if self._truth is None else self._truth.find_categories
        self._category_ids = list(find(classes))

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the detections of one batch as small arrays on the CPU.

        `data_samples` are dicts with `img_id` and `pred_instances`: `bboxes` (n, 4) x1, y1, x2, y2
        in pixels of the original image, `scores` (n,), `labels` (n,). Without `ann_file` also the
        ground truth in the same frame: `instances`, where the pipeline's `meta_keys` name it, else
        `gt_instances` and `ignored_instances`, for which LoadAnnotations comes after Resize.

        Raises:
            ValueError: an image is not in `ann_file`, a label has no class, or there is no ground
                truth.
        """
        for sample in data_samples:
            if self._truth is not None and sample['img_id'] not in self._truth.images:
                raise ValueError(
                    f'CocoMetric: image {sample["img_id"]!r} is not in {self._truth.source}; '
                    'dataloader and evaluator must name the same file'
                )
            result = self.read_detections(sample, len(self._category_ids))
            if self.reads_samples:
                result['truth'] = truth_of_sample(sample, 'CocoMetric')
            self.results.append(result)

    @_gc_paused()
    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Evaluate what `process` kept, each image once; the values are without the prefix."""
        start, classes = time.perf_counter(), self._dataset_meta['classes']
        unique = index_images(results, by_id=bool(self._truth or self.outfile))
        if self.outfile is not None:
            numbered = self._truth is not None and self._truth.has_categories
            names = None if numbered else classes
            count = write_results(self.outfile, [*unique.values()], self._category_ids, names)
            _log(f'{count} detections written to {self.outfile}')
        if self.format_only:
            return {}
        # In the order in which COCOeval sorts them, which decides between equal scores.
        unique = dict(sorted(unique.items(), key=_sort_key))
        images = [image | {'img_id': id_} for id_, image in unique.items()]
        source = self._truth or CocoAnnotations.from_samples(unique, classes)
        if self._truth is None:
            _log('no ann_file: the ground truth is that of the samples, areas are those of boxes')
        boxes, num_objects, text = source.ground_truth(
            self._category_ids, [*unique], self.count_all
        )
        if text:
            _log(text)
        truth = self._load(len(images), boxes)
        detections = self._load(len(images), number_detections(images))
        timing, metrics = [f'loading {time.perf_counter() - start:.2f} s'], {}
        for metric in self.metrics:
            start = time.perf_counter()
            arrays = self._evaluate(metric, truth, detections)
            metrics.update(self._summarize(metric, arrays))
            if metric == 'bbox' and (self.best_thresholds or self.curves_dir) and num_objects:
                self._report_thresholds(arrays, source, images)
            timing.append(f'{metric} {time.perf_counter() - start:.2f} s')
        _log(f'{len(images)} images, {", ".join(timing)}')
        if not num_objects and not self.count_all:
            text = 'has no object to find, so all metrics are n/a (nan)'
            _log(f'{source.source} {text}', logging.WARNING)
            return dict.fromkeys(metrics, float('nan'))
        if not any(len(image['scores']) for image in images):
            _log(
                'nothing was detected in any image, so all metrics are 0; usual in the first '
                'epochs, later see whether the loss is finite and test_cfg.score_thr low enough',
                logging.WARNING,
            )
            return dict.fromkeys(metrics, 0.0)
        return metrics

    def _report_thresholds(
        self, arrays: dict[str, np.ndarray], source: CocoAnnotations, images: list[dict]
    ) -> None:
        classes = self._dataset_meta['classes']
        matches = match(source, images, classes, count_all=self.count_all)
        curves = thresholds.make_curves(matches)
        table = thresholds.format_thresholds(thresholds.best_thresholds(curves, matches.iou_thr))
        _log(f'score thresholds of the best F1, at IoU {matches.iou_thr}:\n{table}')
        if self.curves_dir is not None:
            thresholds.write_curves(self.curves_dir, curves)
            index = int(np.abs(self.iou_thrs - matches.iou_thr).argmin())
            thresholds.write_recall_curves(self.curves_dir, arrays, index, classes)
            iou = f'{self.iou_thrs[index]:g}'
            _log(f'curves are in {self.curves_dir}, recall_curves.csv at IoU {iou}')

    @property
    def reads_samples(self) -> bool:
        """Whether the ground truth is taken from the samples."""
        return self._truth is None and not self.format_only

    def _load(self, num_images: int, annotations: list[dict]) -> Any:
        """Return the backend's COCO object for annotations numbered as in `ground_truth`."""
        coco = _BACKENDS[self.backend][0]()
        coco.dataset = {
            'images': [{'id': index} for index in range(num_images)],
            'categories': [{'id': label} for label in range(len(self._category_ids))],
            'annotations': annotations,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco

    def _evaluate(self, metric: str, truth: Any, detections: Any) -> dict[str, np.ndarray]:
        """Return COCOeval's arrays, see `coco_summary`."""
        # COCOeval repeats its sums for each limit; all limits that no image reaches are equal.
        most = max([1, *map(len, detections.imgToAnns.values())])
        limits, indices = np.unique(np.minimum(self.max_dets, most), return_inverse=True)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = _BACKENDS[self.backend][1](truth, detections, 'bbox')
            evaluation.params.maxDets = limits.tolist()
            evaluation.params.iouThrs = self.iou_thrs
            evaluation.params.useCats = int(metric == 'bbox')
            evaluation.evaluate()
            evaluation.accumulate()
        return {
            name: evaluation.eval[name][..., indices] for name in ('precision', 'recall', 'scores')
        }

    def result_keys(self) -> list[str]:
        """Names of the values that an evaluation returns, without those of single classes."""
        return [f'{self.prefix}/{key}' for metric in self.metrics for key in self._keys(metric)]

    def _keys(self, metric: str) -> dict[str, str]:
        """Key of each item that an evaluation returns."""
        kind, prefix = ('mAP', 'bbox_') if metric == 'bbox' else ('AR', '')
        return {f'{prefix}{name}': name for name in self.metric_items or self._default_names[kind]}

    def _summarize(self, metric: str, arrays: dict[str, np.ndarray]) -> dict[str, float]:
        """Return the metrics of one evaluation; with `classwise`, log the table of classes."""
        keys = self._keys(metric)
        metrics = {key: summary.mean_value(arrays, self._items[name]) for key, name in keys.items()}
        if metric == 'bbox' and self.classwise:
            columns = {name: self._items[name] for name in self._default_names['mAP']}
            classes = self._dataset_meta['classes']
            values = summary.class_values(arrays['precision'], classes, columns)
            table = summary.format_table(['category', *columns], values)
            print_log(f'CocoMetric:\n{table}', 'current')
            metrics |= {f'{name}_precision': numbers[0] for name, numbers in values.items()}
        return metrics


def _check_metrics(metric: str | Sequence[str]) -> list[str]:
    metrics = [metric] if isinstance(metric, str) else list(metric)
    if not metrics or not {'bbox', 'proposal'}.issuperset(metrics):
        raise ValueError(
            f"CocoMetric: metric must be 'bbox', 'proposal' or a list of them, got {metric!r}; "
            'ghmdet detects boxes, there are no masks or keypoints to evaluate'
        )
    return metrics


def _check_choice(name: str, value: Any, valid: Sequence[str]) -> None:
    if value not in valid:
        hint = did_you_mean(nearest(str(value), valid))
        raise ValueError(f'CocoMetric: {name} must be of {valid}, got {value!r}{hint}')


def _sort_key(item: tuple[Hashable, dict]) -> tuple[str, Any, str]:
    image_id = item[1]['img_id']
    return str(type(image_id)), image_id, str(item[1].get('img_path'))


def _log(message: str, level: int = logging.INFO) -> None:
    print_log(f'CocoMetric: {message}', logger='current', level=level)
