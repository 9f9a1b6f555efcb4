"""Compare the anchors with the boxes of the training set, and suggest anchors that fit better.

python tools/analysis_tools/anchor_report.py CONFIG [--data-root DIR] [--max-images N]

No image is decoded: boxes are scaled as by the training pipeline. A box needs an anchor with an IoU
of `train_cfg.assigner.pos_iou_thr` to be learnt well; without one it is matched with its best
anchor only. If others fit better, NAME_anchors.py is written too: a config that inherits CONFIG and
has them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.utils import ProgressBar

from ghmdet.config import cli
from ghmdet.config.arguments import add_data_root, move_data
from ghmdet.config.cfg_options import add_cfg_options, merge_options
from ghmdet.config.shipped import get_config
from ghmdet.files import read_text, replacing
from ghmdet.registry import DATASETS, TASK_UTILS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from ghmdet.boxes.anchor_fit import AnchorFit

torch = cli.LazyModule('torch')
figures = cli.LazyModule('matplotlib.figure')
anchor_fit = cli.LazyModule('ghmdet.boxes.anchor_fit')
anchor_check = cli.LazyModule('ghmdet.checks.anchors')
class_check = cli.LazyModule('ghmdet.checks.classes')
plots = cli.LazyModule('ghmdet.reports.plots')
wrappers = cli.LazyModule('ghmdet.datasets.wrappers')

_SIZES = {'small': (0, 32**2), 'medium': (32**2, 96**2), 'large': (96**2, float('inf'))}
_LOW, _HIGH = 0.4, 0.5
# For the scales of the config.
_FACTORS = (0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
_TRIED_BOXES = 20_000
_MIN_GAIN = 0.01  # of all boxes, for a suggestion
_BLOCK = 1000  # images read at a time
_CHUNK = 50_000  # boxes compared at a time


class Boxes(NamedTuple):
    """Of n objects: area in the file (n,), box (n, 4) and padded image size (n, 2) of the input."""

    areas: Tensor
    bboxes: Tensor
    input_wh: Tensor


class Trial(NamedTuple):
    """Settings of the anchor generator, and the share of boxes without a positive anchor."""

    settings: dict[str, Any]
    missed: float


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Compare the anchors with the boxes to learn.')
    parser.add_argument('config', help='config file, or the name of a config that ghmdet ships')
    parser.add_argument('--max-images', type=int, help='images to read, evenly spread (all)')
    parser.add_argument(
        '--out-dir', type=cli.user_path, help='folder of the report (work_dirs/NAME OF THE CONFIG)'
    )
    add_data_root(parser)
    add_cfg_options(parser)
    cli.add_debug_argument(parser)
    args = parser.parse_args(argv)
    if args.max_images is not None and args.max_images < 1:
        parser.error(f'--max-images must be at least 1, got {args.max_images}')
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = get_config(args.config)
    move_data(cfg, args)
    merge_options(cfg, args.cfg_options)
    class_check.resolve_classes(cfg, ['train'])
    anchor_cfg, threshold = read_settings(cfg)
    with DefaultScope.overwrite_default_scope('ghmdet'):
        boxes = read_boxes(cfg, args.max_images)
        generator = TASK_UTILS.build(anchor_cfg)
        fit = fit_all(boxes, generator)
        trials = try_others(boxes, anchor_cfg, threshold)
    tables = share_table(boxes, fit), level_table(fit, generator, threshold)
    suggestion, changes = suggest(trials, threshold)
    lines = [*tables[0], '', *tables[1], '', *suggestion]
    out_dir = args.out_dir or Path('work_dirs') / Path(args.config).stem
    out_dir.mkdir(parents=True, exist_ok=True)
    print('\n'.join(lines))
    (out_dir / 'anchor_report.txt').write_text('\n'.join(lines) + '\n')
    draw(boxes, fit, generator, threshold).savefig(out_dir / 'anchor_report.png', dpi=120)
    written = ['anchor_report.txt', 'anchor_report.png']
    config = out_dir / f'{Path(args.config).stem}_anchors.py'
    config.unlink(missing_ok=True)  # of an earlier run
    if changes:
        with replacing(config) as draft:
            draft.write_text(config_text(cfg, changes, bool(args.cfg_options)), encoding='utf-8')
        written.append(config.name)
    print(f'\nwritten to {out_dir}: {", ".join(written)}')


def read_settings(cfg: Config) -> tuple[dict[str, Any], float]:
    """Return the settings of the anchor generator, and the IoU from which an anchor is positive.

    Raises:
        ValueError: the model of the config has none.
    """
    model: dict[str, Any] = cfg.get('model') or {}
    anchors: Any = (model.get('bbox_head') or {}).get('anchor_generator')
    threshold: Any = ((model.get('train_cfg') or {}).get('assigner') or {}).get('pos_iou_thr')
    for key, value in (
        ('model.bbox_head.anchor_generator', anchors),
        ('model.train_cfg.assigner.pos_iou_thr', threshold),
    ):
        if value is None:
            raise ValueError(f'the config has no {key}: nothing to report on')
    return dict(anchors), threshold


def read_boxes(cfg: Config, max_images: int | None) -> Boxes:
    """Read the boxes of the training set, with a progress bar.

    Raises:
        ValueError: it has none.
    """
    divisor = (cfg.model.get('data_preprocessor') or {}).get('pad_size_divisor', 1)
    datasets = list(wrappers.base_datasets(DATASETS.build(cfg.train_dataloader.dataset)))
    parts = []
    for dataset in datasets:
        count = len(dataset) if max_images is None else max(1, max_images // len(datasets))
        indices = anchor_check.spread(len(dataset), count)
        bar = ProgressBar(len(indices), file=sys.stderr)
        for start in range(0, len(indices), _BLOCK):
            block = indices[start : start + _BLOCK]
            seen = anchor_check.read_boxes(dataset, block)
            scaled = anchor_check.resize_boxes(seen, dataset.pipeline.transforms, divisor)
            areas = (seen.bboxes[:, 2:] - seen.bboxes[:, :2]).prod(1)
            parts.append(Boxes(areas, *scaled))
            bar.update(len(block))
        print(file=sys.stderr)
    boxes = Boxes(*map(torch.cat, zip(*parts, strict=True)))
    if not len(boxes.areas):
        raise ValueError('train_dataloader.dataset has no boxes in the images that were read')
    return boxes


def fit_all(boxes: Boxes, generator: Any) -> AnchorFit:
    parts = zip(boxes.bboxes.split(_CHUNK), boxes.input_wh.split(_CHUNK), strict=True)
    fits = [
        anchor_fit.fit_anchors(*part, generator.base_anchors, generator.strides) for part in parts
    ]
    return anchor_fit.AnchorFit(*map(torch.cat, zip(*fits, strict=True)))


def share_table(boxes: Boxes, fit: AnchorFit) -> list[str]:
    """Share of boxes that no anchor overlaps well, by size in the file."""
    rows = {'all': torch.ones_like(boxes.areas, dtype=torch.bool)}
    for name, (low, high) in _SIZES.items():
        rows[name] = (boxes.areas >= low) & (boxes.areas < high)
    lines = [f'{"box size":10}{"boxes":>10}  best IoU < {_LOW}    < {_HIGH}']
    for name, chosen in rows.items():
        ious = fit.ious[chosen]
        shares = [share_below(ious, bound) for bound in (_LOW, _HIGH)]
        lines.append(f'{name:10}{len(ious):10}{shares[0]:16.1%}{shares[1]:9.1%}')
    return [*lines, 'small: area below 32^2, large: from 96^2 pixels of the file']


def level_table(fit: AnchorFit, generator: Any, threshold: float) -> list[str]:
    """How many boxes have their best anchor on each level, and how many of them a positive one."""
    heading = f'{"level":>5}{"stride":>8}{"anchor sides":>16}{"best for":>10}'
    lines = [f'{heading}  IoU >= {threshold:g}']
    for level, stride in enumerate(generator.strides):
        sides = (generator.base_anchors[level][:, 2:] - generator.base_anchors[level][:, :2]).prod(
            1
        )
        low, high = sides.sqrt().min().item(), sides.sqrt().max().item()
        ious = fit.ious[fit.levels == level]
        good = int((ious >= threshold).sum())
        lines.append(
            f'{level:5}{stride[0]:8}{f"{low:.0f} to {high:.0f}":>16}{len(ious):10}{good:10}'
        )
    return [*lines, 'sides: square root of the area, in pixels of the network input']


def try_others(boxes: Boxes, anchor_cfg: dict[str, Any], threshold: float) -> list[Trial]:
    """Measure other scales, and the ratios of the boxes; the settings of the config come first."""
    chosen = anchor_check.spread(len(boxes.areas), _TRIED_BOXES)
    sample = Boxes(*(column[chosen] for column in boxes))
    sizes = sample.bboxes[:, 2:] - sample.bboxes[:, :2]
    ratios = (sizes[:, 1] / sizes[:, 0]).clamp(0.01, 100).quantile(torch.tensor([0.1, 0.5, 0.9]))
    other_ratios = dict(ratios=[round(ratio, 2) for ratio in ratios.tolist()])
    trials = []
    for factor in sorted(_FACTORS, key=lambda factor: factor != 1):
        for settings in ({}, other_ratios):
            settings = {**scaled(anchor_cfg, factor), **settings}
            fit = fit_all(sample, TASK_UTILS.build({**anchor_cfg, **settings}))
            trials.append(Trial(settings, share_below(fit.ious, threshold)))
    return trials


def scaled(anchor_cfg: dict[str, Any], factor: float) -> dict[str, Any]:
    """The settings that multiply the size of all anchors by a factor."""
    if anchor_cfg.get('octave_base_scale') is not None:
        return dict(octave_base_scale=round(anchor_cfg['octave_base_scale'] * factor, 3))
    return dict(scales=[round(scale * factor, 3) for scale in anchor_cfg['scales']])


def suggest(trials: list[Trial], threshold: float) -> tuple[list[str], dict[str, Any]]:
    """Return the lines on all trials, and what the best one changes if it is much better."""
    now = trials[0]
    lines = [f'{"share of boxes without an anchor of IoU":40}>= {threshold:g}']
    lines += [f'  {describe(trial.settings):60}{trial.missed:8.1%}' for trial in trials]
    simple = [trial for trial in trials if 'ratios' not in trial.settings]
    best = min(simple, key=lambda trial: trial.missed)
    best_of_all = min(trials, key=lambda trial: trial.missed)
    if best_of_all.missed < best.missed - _MIN_GAIN:
        best = best_of_all
    if best.missed > now.missed - _MIN_GAIN:
        return [*lines, 'suggestion: none, the anchors of the config fit as well as any tried'], {}
    changes = {k: v for k, v in best.settings.items() if v != now.settings.get(k)}
    return [
        *lines,
        f'suggestion: model = dict(bbox_head=dict(anchor_generator=dict({describe(changes)})))',
        f'  {now.missed:.1%} -> {best.missed:.1%}. Train with it from the start: weights '
        'trained with other anchors predict other boxes',
    ], changes


def config_text(cfg: Config, changes: dict[str, Any], is_changed: bool) -> str:
    """Return a config with other anchors, which inherits the one given if it is used as it is."""
    file = Path(cfg.filename).resolve()
    if is_changed or 'read_base' in read_text(file):  # a text config inherits no such file
        cfg.merge_from_dict(
            {f'model.bbox_head.anchor_generator.{k}': v for k, v in changes.items()}
        )
        return cfg.pretty_text
    lines = f'model = dict(bbox_head=dict(anchor_generator=dict({describe(changes)})))'
    return f'_base_ = {str(file)!r}\n{lines}\n'


def describe(settings: dict[str, Any]) -> str:
    return ', '.join(f'{key}={value}' for key, value in settings.items())


def share_below(ious: Tensor, bound: float) -> float:
    return (ious < bound).float().mean().item() if len(ious) else 0.0


def draw(boxes: Boxes, fit: AnchorFit, generator: Any, threshold: float) -> Figure:
    """Draw the sizes of boxes and anchors, and a histogram of their IoUs."""
    figure = figures.Figure(figsize=(12, 5), layout='constrained')
    shapes, overlaps = figure.subplots(1, 2)
    shown = anchor_check.spread(len(boxes.areas), _TRIED_BOXES)
    sizes = boxes.bboxes[shown, 2:] - boxes.bboxes[shown, :2]
    good = fit.ious[shown] >= threshold
    blue, red = plots.COLORS[:2]
    for chosen, color, label in ((good, blue, 'has one'), (~good, red, 'has none')):
        points = sizes[chosen].T.tolist()
        shapes.scatter(*points, s=3, c=color, alpha=0.4, label=label, rasterized=True)
    for anchors in generator.base_anchors:
        shapes.plot(*(anchors[:, 2:] - anchors[:, :2]).T.tolist(), 'k+', markersize=7)
    shapes.set(xscale='log', yscale='log', xlabel='width, pixels of the input', ylabel='height')
    shapes.set_title(f'boxes (+ anchors): an anchor of IoU >= {threshold:g}')
    shapes.legend()
    overlaps.hist(fit.ious.tolist(), bins=50, range=(0, 1), color=blue)
    overlaps.axvline(threshold, color=red)
    overlaps.set(xlabel='best IoU with an anchor', ylabel='boxes', title='overlap')
    return figure


if __name__ == '__main__':
    cli.run(main)
