"""Find what kinds of errors a detector makes, and how much AP each costs (TIDE).

python tools/analysis_tools/error_analysis.py RESULTS ANN [SAVE_DIR] [--pictures N]
python tools/analysis_tools/error_analysis.py CONFIG RESULTS [SAVE_DIR] [--pictures N]

Each false detection has one kind: Cls (right place, wrong class), Loc (right class, IoU 0.1 to
0.5), Both, Dupe (the object has another detection), Bkg (no object there). Miss is an object that
none of these concerns. dAP is what AP at IoU 0.5 gains if the errors of one kind are corrected; as
corrections help each other, dAPs do not add up. See docs/judge/analysis.md.

Writes error_analysis.json, error_analysis.png, and with --pictures some errors of each kind.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from results import arguments as results_arguments

from ghmdet.config.cli import LazyModule, run, user_path

np: Any = LazyModule('numpy')
figure: Any = LazyModule('matplotlib.figure')
error_types: Any = LazyModule('results.error_types')
marked_pictures: Any = LazyModule('ghmdet.visualization.marked_pictures')

_SHOWN_CLASSES = 20


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Find what kinds of errors a detector makes.')
    results_arguments.add_results_arguments(parser, images=True)
    parser.add_argument(
        'save_dir',
        type=user_path,
        nargs='?',
        help='folder of the JSON, the chart and the pictures (error_analysis)',
        default=Path('error_analysis'),
    )
    parser.add_argument(
        '--pictures', type=int, default=0, metavar='N', help='how many of each kind of error (0)'
    )
    parser.add_argument(
        '--box-rule',
        choices=['matchable', 'pycocotools'],
        help="which boxes are objects, see CocoMetric (that of the config's evaluator, else "
        'pycocotools, as in tidecv)',
    )
    args = parser.parse_args(argv)
    if args.pictures < 0:
        parser.error(f'--pictures must be 0 or more, got {args.pictures}')
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    results = results_arguments.read_results(args)
    rule = args.box_rule or results.metric.get('box_rule', 'pycocotools')
    results.metric['box_rule'] = rule
    matches = results.match(score_thr=float('-inf'))
    errors = error_types.find_errors(matches)
    report = {'box_rule': rule, **make_report(matches, errors)}
    print('\n'.join(format_report(report)))
    results_arguments.write_json(args.save_dir / 'error_analysis.json', report)
    draw_chart(report).savefig(args.save_dir / 'error_analysis.png', dpi=120)
    print(f'\nwritten to {args.save_dir}: error_analysis.json and error_analysis.png')
    if args.pictures:
        pictures = marked_pictures.Pictures(results.img_dir)
        draw_errors(matches, errors, results, pictures, args)
        print(pictures.report())


def make_report(matches: Any, errors: Any) -> dict[str, Any]:
    """Return all figures; AP and dAP in AP points, None where there is no object to find."""
    objects = matches.objects
    detections = np.bincount(matches.detections.label, minlength=len(matches.classes))
    columns = zip(
        matches.classes,
        matches.count_objects().tolist(),
        detections.tolist(),
        errors.counts.T.tolist(),
        strict=True,
    )
    kinds = error_types.KINDS
    return {
        'unit': 'AP points, 0 to 100; dAPs do not add up',
        'AP50': _finite(errors.ap50),
        'dAP': {name: _finite(value) for name, value in errors.dap.items()},
        'counts': dict(zip(kinds, errors.counts.sum(axis=1).tolist(), strict=True)),
        'images': len(matches.image_ids),
        'objects': int(matches.count_objects().sum()),
        'ignored_boxes': int((objects.ignored & ~objects.is_crowd).sum()),
        'crowd_regions': int(objects.is_crowd.sum()),
        'detections': len(matches.detections.label),
        'classes': {
            name: {'objects': total, 'detections': count, **dict(zip(kinds, of, strict=True))}
            for name, total, count, of in columns
        },
    }


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value


def format_report(report: dict[str, Any]) -> list[str]:
    """Return the tables of kinds and classes."""
    sizes = f'{report["detections"]:,} detections and {report["objects"]:,} objects'
    lines = [
        f'{sizes} in {report["images"]:,} images',
        f'AP at IoU 0.5: {_points(report["AP50"])} (as TIDE: a class without objects counts as 0)',
        '',
        f'{"kind":8}{"count":>9}{"dAP":>8}',
    ]
    text = f'not objects: {report["crowd_regions"]:,} crowd regions'
    if report['box_rule'] == 'matchable':
        text += f', {report["ignored_boxes"]:,} boxes marked ignore'
    else:
        text += '; boxes marked ignore are, as in tidecv, but not with --box-rule matchable'
    lines.insert(1, text)
    for name, meaning in error_types.DESCRIPTIONS.items():
        count = report['counts'].get(name)
        number = '' if count is None else f'{count:,}'
        lines.append(f'{name:8}{number:>9}{_points(report["dAP"][name]):>8}  {meaning}')
    lines += ['dAP: AP points gained if the errors of one kind are corrected; they do not add up']
    kinds = error_types.KINDS
    rows = sorted(report['classes'].items(), key=lambda row: -sum(row[1][kind] for kind in kinds))
    width = max([8, *(len(name) for name, _ in rows[:_SHOWN_CLASSES])])
    names = 'objects', 'detections', *kinds
    lines += ['', f'{"class":{width}}' + ''.join(f'{name:>11}' for name in names)]
    for name, row in rows[:_SHOWN_CLASSES]:
        lines.append(f'{name:{width}}' + ''.join(f'{row[key]:>11,}' for key in names))
    if rest := len(rows[_SHOWN_CLASSES:]):
        lines.append(f'and {rest} classes with fewer errors, in error_analysis.json')
    return lines


def _points(value: float | None) -> str:
    return 'n/a' if value is None else f'{value:.2f}'


def draw_chart(report: dict[str, Any]) -> Any:
    """Draw dAP and count of each kind as bars."""
    chart = figure.Figure(figsize=(9, 4), layout='constrained')
    left, right = chart.subplots(1, 2, width_ratios=[8, 6])
    gains = {name: value or 0.0 for name, value in report['dAP'].items()}
    colors = ['tab:blue'] * len(error_types.KINDS) + ['tab:gray'] * 2
    ap50 = _points(report['AP50'])
    for axes, values, title, text in (
        (left, gains, f'AP points gained if corrected (AP50 {ap50})', '{:.1f}'),
        (right, report['counts'], 'number of errors', '{:,.0f}'),
    ):
        bars = axes.bar(values.keys(), values.values(), color=colors[: len(values)])
        axes.bar_label(bars, fmt=text)
        axes.set_title(title)
        axes.margins(y=0.12)
        axes.tick_params(axis='x', labelsize=8)
        axes.spines[['top', 'right']].set_visible(False)
    if report['AP50'] is None:
        left.text(0.5, 0.5, 'no object to find', ha='center', transform=left.transAxes)
    return chart


def draw_errors(
    matches: Any, errors: Any, results: Any, pictures: Any, args: argparse.Namespace
) -> None:
    """Draw the errors of the highest scores, and the largest missed objects."""
    found, objects = matches.detections, matches.objects
    sizes = objects.bbox[:, 2:] - objects.bbox[:, :2]
    for index, kind in enumerate(error_types.KINDS):
        folder = args.save_dir / kind
        marked_pictures.clear_pictures(folder)
        if kind == 'Miss':
            chosen, weight, image = np.flatnonzero(errors.missed), sizes.prod(axis=1), objects.image
        else:
            chosen, weight, image = np.flatnonzero(errors.kind == index), found.score, found.image
        chosen = chosen[np.argsort(-weight[chosen], kind='stable')][: args.pictures]
        for rank, error in enumerate(chosen.tolist(), 1):
            marks = mark_error(matches, errors, kind, error)
            name = results.truth.images[matches.image_ids[image[error]]].file_name
            file = folder / marked_pictures.picture_name(f'{rank:03}', name or '')
            pictures.draw(name, *marks, file)


def mark_error(matches: Any, errors: Any, kind: str, error: int) -> tuple[list, list]:
    """Return the marks of objects and detections for the picture of one error.

    The object that was missed or meant has another colour; beside the error are true detections.
    """
    found, objects, classes = matches.detections, matches.objects, matches.classes
    mark, good = marked_pictures.Mark, marked_pictures.GOOD
    wrong, other = marked_pictures.WRONG, marked_pictures.MEANT
    is_missed = kind == 'Miss'
    image = (objects if is_missed else found).image[error]
    meant = error if is_missed else errors.target[error]
    left = []
    shown = np.flatnonzero((objects.image == image) & ~objects.ignored)
    for i in sorted(shown.tolist(), key=lambda i: i == meant):  # drawn last, on top
        text, color = classes[objects.label[i]], good
        if i == meant:
            text, color = (f'missed {text}', wrong) if is_missed else (f'meant: {text}', other)
        left.append(mark(objects.bbox[i], text, color))
    shown = np.flatnonzero((found.image == image) & found.is_true & (errors.kind < 0)).tolist()
    right = []
    for i in shown if is_missed else [*shown, error]:
        text = f'{classes[found.label[i]]} {found.score[i]:.2f}'
        is_error = i == error and not is_missed
        text, color = (f'{kind}: {text}', wrong) if is_error else (text, good)
        right.append(mark(found.bbox[i], text, color))
    return left, right


if __name__ == '__main__':
    run(main)
