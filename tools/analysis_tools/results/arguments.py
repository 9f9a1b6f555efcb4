"""`RESULTS ANN` or `CONFIG RESULTS`: what the tools that judge detections read."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from ghmdet.config.arguments import add_data_root, move_data, read_config
from ghmdet.config.cfg_options import add_cfg_options, merge_options
from ghmdet.config.cli import LazyModule, add_debug_argument, user_path
from ghmdet.config.from_mmdet import convert_mmdet_config
from ghmdet.config.parts import make_plain
from ghmdet.files import explain_look_alike, replacing

checked = LazyModule('ghmdet.checks.classes')
coco_annotations = LazyModule('ghmdet.evaluation.coco_annotations')
default_scope = LazyModule('mmengine.registry')
matching = LazyModule('ghmdet.evaluation.matching')
registry = LazyModule('ghmdet.registry')
result_files = LazyModule('results.files')
wrappers = LazyModule('ghmdet.datasets.wrappers')

SUFFIXES = '.json', '.pkl', '.pickle'


class Results(NamedTuple):
    """Detections, and the ground truth to judge them by."""

    truth: Any  # the CocoAnnotations of the annotation file
    images: list[dict]  # what `read_results` returns, of the images of the dataset
    classes: tuple[str, ...]  # by label
    metric: dict[str, Any]  # the CocoMetric of the config, else one with the annotation file alone
    img_dir: Path | None  # folder of the images, None if unknown

    def match(self, **options: Any) -> Any:
        """Return the `Matches`, see `ghmdet.evaluation.matching.match`."""
        count_all = self.metric.get('box_rule') == 'pycocotools'
        return matching.match(self.truth, self.images, self.classes, count_all=count_all, **options)


def add_results_arguments(parser: argparse.ArgumentParser, images: bool = False) -> None:
    """Add the two files, and the options for a config; `images`: also `--img-dir`."""
    parser.add_argument(
        'first',
        metavar='RESULTS|CONFIG',
        type=os.path.expanduser,
        help='detections: COCO results (.json) or a pickle of a test (.pkl); or a config, whose '
        'test data and classes are used',
    )
    parser.add_argument(
        'second',
        metavar='ANN|RESULTS',
        type=os.path.expanduser,
        help='the COCO annotation file; after a config, the detections',
    )
    if images:
        parser.add_argument(
            '--img-dir', type=user_path, help="folder of the images (the config's, or that of ANN)"
        )
    add_cfg_options(parser)
    add_data_root(parser)
    add_debug_argument(parser)


def check_share(text: str) -> float:
    """Read an argument that is a number above 0, at most 1.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f'must be a number above 0 and at most 1, got {text}')
    return value


def check_json(text: str) -> Path:
    """Read an argument that is the name of a JSON file."""
    if not text.endswith('.json'):
        raise argparse.ArgumentTypeError(f'is a JSON file, its name must end in .json, got {text}')
    return user_path(text)


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file; its folder is made if needed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as draft:
        draft.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')


def is_config(args: argparse.Namespace) -> bool:
    """Whether the arguments are `CONFIG RESULTS`."""
    return not args.first.endswith(SUFFIXES)


def read_results(args: argparse.Namespace, split: str = 'test') -> Results:
    """Read what the arguments name; of a config its data and evaluator of a split.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file cannot be used; the message says why.
    """
    img_dir = getattr(args, 'img_dir', None)
    if not is_config(args):
        if args.cfg_options:
            raise ValueError('--cfg-options needs a config: CONFIG RESULTS in place of RESULTS ANN')
        if not os.path.isfile(args.second):
            hint = explain_look_alike(args.second)
            raise FileNotFoundError(f'no annotation file {args.second}{hint}')
        truth = coco_annotations.CocoAnnotations.from_file(args.second)
        images = result_files.read_results(args.first, truth, truth.classes)
        metric = dict(type='CocoMetric', ann_file=args.second)
        return Results(truth, images, truth.classes, metric, img_dir or Path(args.second).parent)
    cfg = read_config(args.first)
    move_data(cfg, args)
    merge_options(cfg, args.cfg_options)
    metric, dataset = _find_parts(cfg, split)
    truth = coco_annotations.CocoAnnotations.from_file(
        metric['ann_file'], metric.get('backend_args')
    )
    classes = tuple(dataset.metainfo['classes'])
    images = result_files.read_results(args.second, truth, classes)
    ids = {dataset.get_data_info(index)['img_id'] for index in range(len(dataset))}
    images = [image for image in images if image['img_id'] in ids]
    prefix = getattr(next(wrappers.base_datasets(dataset)), 'data_prefix', {}).get('img')
    img_dir = img_dir or (Path(prefix) if prefix else None)
    return Results(truth, images, classes, metric, img_dir)


def _find_parts(cfg: Config, split: str) -> tuple[dict[str, Any], Any]:
    """Return the config of the metric with its annotation file, and the dataset."""
    make_plain(cfg._cfg_dict)
    convert_mmdet_config(cfg)
    checked.complete_evaluators(cfg)
    checked.resolve_classes(cfg, [split])
    found = [
        metric
        for metric in checked.list_metrics(cfg, split)
        if checked.is_ours(metric, registry.METRICS, 'CocoMetric')
    ]
    loader = cfg.get(f'{split}_dataloader')
    if not found or not found[0].get('ann_file') or loader is None:
        raise ValueError(
            f'{cfg.filename}: needs a {split}_dataloader, and a CocoMetric in {split}_evaluator '
            'whose ann_file is one COCO file; or give RESULTS ANN in place of CONFIG RESULTS'
        )
    scope = cfg.get('default_scope') or 'ghmdet'
    with default_scope.DefaultScope.overwrite_default_scope(scope):
        dataset = registry.DATASETS.build({**loader.dataset, 'lazy_init': True})
        for part in wrappers.base_datasets(dataset):
            prefix = getattr(part, 'data_prefix', {})
            if not os.path.isdir(prefix.get('img') or '.'):  # figures need no images
                prefix['img'] = ''
        dataset.full_init()
    return found[0].to_dict(), dataset
