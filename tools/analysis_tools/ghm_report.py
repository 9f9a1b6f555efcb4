"""Show what GHM does to a model's data: the paper's figures, and the labels that look wrong.

python tools/analysis_tools/ghm_report.py CONFIG CHECKPOINT [--images N] [--compare CHECKPOINT2]

Images of the training set go through the test pipeline, with their annotations and without random
augmentation, and through the network in eval mode. Writes ghm_report.png and ghm_report.json: the
entries of the losses by gradient norm, before and after harmonising. An annotation's norm is the
mean of |p(its label) - 1| over its positive anchors; those with the largest are listed and drawn,
and apart the background anchors with the largest norms, where nobody may have annotated an object.
See docs/judge/analysis.md.
"""

from __future__ import annotations

import argparse
import copy
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.registry import DefaultScope
from results import arguments
from rich.console import Console
from rich.progress import track

from ghmdet.config.arguments import add_data_root, move_data, read_config
from ghmdet.config.cfg_options import add_cfg_options, merge_options
from ghmdet.config.cli import LazyModule, add_debug_argument, run, user_path
from ghmdet.config.from_mmdet import convert_mmdet_config
from ghmdet.config.parts import make_plain
from ghmdet.messages import type_name
from ghmdet.registry import DATASETS, TRANSFORMS

class_check: Any = LazyModule('ghmdet.checks.classes')
ghm: Any = LazyModule('ghmdet.reports.ghm')
gradient_counts: Any = LazyModule('results.gradient_counts')
image_file: Any = LazyModule('ghmdet.datasets.image_file')
inference: Any = LazyModule('ghmdet.inference.model')
losses: Any = LazyModule('ghmdet.losses')
outliers: Any = LazyModule('results.outliers')
pipeline: Any = LazyModule('ghmdet.datasets.transforms.pipeline')
torch: Any = LazyModule('torch')
weights: Any = LazyModule('ghmdet.checkpoint.weights')
wrappers: Any = LazyModule('ghmdet.datasets.wrappers')

_SHOWN = 10


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Show what GHM does to a model's data.")
    parser.add_argument('config', help='config file, or the name of a config that ghmdet ships')
    parser.add_argument('checkpoint', help='file or URL of the weights')
    parser.add_argument(
        '--images', type=int, default=200, metavar='N', help='how many, drawn by --seed (200)'
    )
    parser.add_argument('--compare', metavar='CHECKPOINT2', help='draw this one too, dashed')
    parser.add_argument(
        '--split', choices=['train', 'val'], default='train', help='the images (train)'
    )
    parser.add_argument(
        '--out-dir', type=user_path, help='(ghm_report in the folder of the checkpoint)'
    )
    parser.add_argument('--top', type=int, default=50, help='how many outliers to name (50)')
    parser.add_argument('--seed', type=int, default=0, help='of the choice of images (0)')
    parser.add_argument('--device', help='e.g. cuda:0 (a GPU if there is one, else cpu)')
    add_cfg_options(parser)
    add_data_root(parser)
    add_debug_argument(parser)
    args = parser.parse_args(argv)
    if args.images < 1 or args.top < 0:
        parser.error('--images must be at least 1, and --top at least 0')
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = read_config(args.config)
    move_data(cfg, args)
    merge_options(cfg, args.cfg_options)
    make_plain(cfg._cfg_dict)
    convert_mmdet_config(cfg)
    class_check.resolve_classes(cfg, [args.split])
    with DefaultScope.overwrite_default_scope('ghmdet'):
        steps = build_steps(cfg)
        datasets = read_datasets(cfg, args.split)
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    names = [args.checkpoint, *filter(None, [args.compare])]
    models = [Measured(cfg, name, device, datasets[0].metainfo['classes']) for name in names]
    places = [(d, i) for d, dataset in enumerate(datasets) for i in range(len(dataset))]
    if len(places) > args.images:
        places = sorted(random.Random(args.seed).sample(places, args.images))
    found = outliers.Outliers(models[0].model, args.top)
    faults = []
    for place in track(places, 'images', console=Console(stderr=True)):
        info = datasets[place[0]].get_data_info(place[1])
        try:
            results = pipeline.run_steps(steps, copy.deepcopy(info))
        except image_file.ImageError as error:
            faults.append(str(error))
            continue
        for model in models:
            samples = [copy.deepcopy(results['data_samples'])]
            batch = {'inputs': [results['inputs']], 'data_samples': samples}
            levels = model.add(batch, info['img_path'])
            if model is models[0]:
                found.add(place[0], info, levels, samples[0])
    if len(faults) == len(places):
        raise ValueError(f'no image could be used, the first: {faults[0]}')
    content = {
        'config': args.config,
        'split': args.split,
        'images': len(places) - len(faults),
        'seed': args.seed,
        'models': [model.content() for model in models],
        **found.content(datasets),
    }
    folder = args.out_dir or default_folder(args.checkpoint)
    arguments.write_json(folder / 'ghm_report.json', content)
    ghm.draw_densities(content).savefig(folder / 'ghm_report.png', dpi=110)
    for kind in ('annotations', 'background'):
        outliers.draw(content[kind], steps, folder, kind)
    print('\n'.join(format_report(content)))
    if faults:
        print(f'{len(faults):,} images could not be used, the first: {faults[0]}')
    print(f'written to {folder}: ghm_report.json, ghm_report.png, annotations and background')


def default_folder(checkpoint: str) -> Path:
    """Return the folder of the report, in the current one for a URL."""
    parent = Path() if '://' in checkpoint else user_path(checkpoint).parent
    return parent / 'ghm_report'


def build_steps(cfg: Any) -> list[Any]:
    """Return the test pipeline, with annotations loaded before the image is resized."""
    steps = inference.find_test_pipeline(cfg)
    if not steps:
        raise ValueError('the config has no test_dataloader.dataset.pipeline to resize images with')
    first = 1 + max(i for i, step in enumerate(steps) if 'LoadImage' in type_name(step) or not i)
    steps.insert(first, dict(type='LoadAnnotations', with_bbox=True))
    return [TRANSFORMS.build(step) for step in steps]


def read_datasets(cfg: Any, split: str) -> list[Any]:
    """Return the datasets of the split, those inside of wrappers."""
    loader = cfg.get(f'{split}_dataloader')
    if loader is None:
        raise ValueError(f'the config has no {split}_dataloader')
    found = list(wrappers.base_datasets(DATASETS.build(loader.dataset)))
    for dataset in found:
        dataset.full_init()
    return found


class Measured:
    """A checkpoint in the model of the config, and what its losses count."""

    def __init__(self, cfg: Any, checkpoint: str, device: str, classes: Sequence[str]) -> None:
        self.checkpoint = checkpoint
        self.model: Any = inference.get_model(cfg, checkpoint, device=device)
        head: Any = getattr(self.model, 'bbox_head', None)
        if not hasattr(head, 'get_targets'):
            raise ValueError(f'expected a RetinaNet, got a {type(self.model).__name__}')
        differ = weights.compare_classes(self.model.dataset_meta['classes'], classes)
        if differ:
            raise ValueError(
                f'{checkpoint}: {differ}. Labels are indices in these lists: use the config that '
                'the checkpoint was trained with'
            )
        self.parts = {
            'loss_cls': gradient_counts.GradientCounts(head.loss_cls, losses.GHMC(bins=30)),
            'loss_bbox': gradient_counts.GradientCounts(head.loss_bbox, losses.GHMR(bins=10)),
        }
        for part in self.parts.values():
            part.loss.to(device)

    def add(self, batch: dict[str, Any], name: str) -> Any:
        """Count the entries of an image, and return its levels."""
        levels = outliers.read_levels(self.model, batch)
        for (stride, _), level in zip(
            self.model.bbox_head.prior_generator.strides, levels, strict=True
        ):
            if not (level.scores.isfinite().all() and level.deltas.isfinite().all()):
                raise ValueError(
                    f'{self.checkpoint}: the output for {name} is not finite, its training has '
                    'diverged'
                )
            key = f'stride {stride}'
            self.parts['loss_cls'].add(key, level.scores, level.labels, level.label_weights)
            self.parts['loss_bbox'].add(key, level.deltas, level.bbox_targets, level.bbox_weights)
        return levels

    def content(self) -> dict[str, Any]:
        """Return the counts of both losses as JSON."""
        return {
            'checkpoint': self.checkpoint,
            **{name: part.content() for name, part in self.parts.items()},
        }


def format_report(content: dict[str, Any]) -> list[str]:
    """Return the tables."""
    lines = []
    for model in content['models']:
        lines.append(f'{model["checkpoint"]}, {content["images"]:,} images:')
        for name, key in (('GHM-C', 'loss_cls'), ('GHM-R', 'loss_bbox')):
            lines.append(f'  {name}: {describe(model[key])}')
    for kind, title in (
        ('annotations', 'annotations with the largest gradient norms'),
        ('background', 'background with the largest gradient norms'),
    ):
        rows = content[kind][:_SHOWN]
        lines += ['', f'{title}, the first {len(rows)} of {len(content[kind])}:'] if rows else []
        for row in rows:
            lines.append(f'  {row["norm"]:.3f}  {describe_outlier(row)}')
    if content['without_positive_anchor']:
        lines += ['', f'{content["without_positive_anchor"]:,} annotations have no positive anchor']
    return [*lines, '']


def describe(part: dict[str, Any]) -> str:
    """Say how many entries there are, and how uneven their bins."""
    rows = part['counts'], part['harmonised']
    counts, harmonised = ([sum(level) for level in zip(*row, strict=True)] for row in rows)
    filled = [i for i, count in enumerate(counts) if count]
    if not filled:
        return 'no entries'
    spread = []
    for values in (counts, harmonised):
        mean = sum(values) / len(filled)
        spread.append(f'{min(values[i] for i in filled) / mean:.2g} to {max(values) / mean:.2g}')
    return (
        f'{sum(counts):,} entries in {len(filled)} of {len(counts)} bins, each with {spread[0]} of '
        f'an equal share, after harmonising {spread[1]}'
    )


def describe_outlier(row: dict[str, Any]) -> str:
    """Return a line on an annotation or a background anchor."""
    box = ', '.join(f'{value:.0f}' for value in row['bbox'])
    seen = f'{row["seen_class"]} {row["seen_score"]:.2f}'
    text = f'{row["class"]}, model: {seen}' if 'class' in row else seen
    id_ = '' if row.get('annotation_id') is None else f', annotation {row["annotation_id"]}'
    return f'{text}  {row["image"]} [{box}]{id_}'


if __name__ == '__main__':
    run(main)
