"""Write one HTML file on a training: curves, classes, confusions, errors, images, anchors, GHM.

python tools/report.py WORK_DIR [--results found.json] [--out report.html]

The file contains its pictures and no script, so that it can be sent around. What the run has no
data for is left out, and listed with the command that adds it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from ghmdet.config.arguments import add_data_root, move_data, read_config
from ghmdet.config.cfg_options import add_cfg_options, merge_options
from ghmdet.config.cli import LazyModule, add_debug_argument, describe, run, user_path
from ghmdet.config.origins import ConfigOrigins
from ghmdet.config.parts import TOP_LEVEL_KEYS
from ghmdet.config.shipped import CONFIG_ROOT, get_config
from ghmdet.files import explain_look_alike
from ghmdet.messages import shorten

sys.path.append(str(Path(__file__).resolve().parent / 'analysis_tools'))
np: Any = LazyModule('numpy')
anchor_report: Any = LazyModule('anchor_report')
class_check: Any = LazyModule('ghmdet.checks.classes')
coco_results: Any = LazyModule('ghmdet.evaluation.coco_results')
eval_metric: Any = LazyModule('eval_metric')
figures: Any = LazyModule('matplotlib.figure')
ghm: Any = LazyModule('ghmdet.reports.ghm')
logs: Any = LazyModule('ghmdet.reports.logs')
matching: Any = LazyModule('ghmdet.evaluation.matching')
plots: Any = LazyModule('ghmdet.reports.plots')
reader: Any = LazyModule('ghmdet.checkpoint.reader')
registry: Any = LazyModule('ghmdet.registry')
report: Any = LazyModule('ghmdet.reports.report')
judged: Any = LazyModule('results.sections')
results_arguments: Any = LazyModule('results.arguments')
scopes: Any = LazyModule('mmengine.registry')
thresholds: Any = LazyModule('ghmdet.evaluation.thresholds')

_IMAGES = 5000  # of the training data, whose boxes are compared with the anchors
# Without the line that train --report adds at the end.
_TIME = re.compile(r'^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - (?!.* - report written to )', re.MULTILINE)
_FACT = re.compile(r'^  (\w[\w ]*?)  +(.*)$', re.MULTILINE)  # of the block at the start
_SHOWN = (
    *('images', 'classes', 'length', 'total batch size', 'learning rate', 'schedule', 'precision'),
    *('parameters', 'device', 'seed'),
)
_SYSTEM = re.compile(r'^System environment:\n(.*?)\n-{20,}', re.MULTILINE | re.DOTALL)
_SETTING = re.compile(r'^    (?!PyTorch compiling)(\w.*?): (.*)$', re.MULTILINE)
# Set by train.py, not by the config.
_OF_THE_RUN = 'default_hooks.logger.log_metric_by_epoch', 'val_evaluator.outfile_prefix'
_NO_DETECTIONS = 'classes, confusions, kinds of error and worst images'


class Missing(Exception):
    """What a section needs is not there; the message says how it can be added."""


class Sections:
    """Collects what the page shows, and what is left out."""

    def __init__(self) -> None:
        self.left_out: list[str] = []

    def make(self, name: str, function: Callable[..., Any], *given: Any) -> Any:
        """Call a function; None where it fails, or where what is given is None."""
        if any(each is None for each in given):
            return None
        try:
            return function(*given)
        except (Missing, OSError, ValueError, LookupError, TypeError) as error:
            self.left_out.append(f'{name}: {describe(error)}')
            return None


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Write one HTML file on a training.')
    parser.add_argument('work_dir', type=user_path, help='work dir of a training')
    parser.add_argument(
        '--results',
        type=os.path.expanduser,
        help="detections on the config's test data, .json or .pkl of tools/test.py --out (those of "
        'the last validation, which train --report keeps)',
    )
    parser.add_argument('--out', type=user_path, help='the file (WORK_DIR/report.html)')
    add_cfg_options(parser)
    add_data_root(parser)
    add_debug_argument(parser)
    args = parser.parse_args(argv)
    if args.out is not None and args.out.suffix not in ('.html', '.htm'):
        parser.error(f'--out is an HTML file, its name ends in .html, got {args.out}')
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if not args.work_dir.is_dir():
        raise FileNotFoundError(f'no folder {args.work_dir}{explain_look_alike(args.work_dir)}')
    MMLogger.get_instance('report').setLevel('WARNING')  # what a run logs is on the page
    sections = Sections()
    log = sections.make('curves', logs.read_log, args.work_dir)
    file = find_config(args.work_dir, log)
    if log is None and file is None:
        raise ValueError(f'{args.work_dir} has neither a log nor a config; {sections.left_out[0]}')
    cfg = sections.make('config', read_settings, file, args)
    found = read_detections(file, cfg, args, sections)
    out = args.out or args.work_dir / 'report.html'
    values = describe_run(args.work_dir, log, cfg, sections) | judge(found, sections)
    name = find_name(args.work_dir, file)
    report.write_page(out, name=args.work_dir.resolve().name, config=name, **values)
    print(f'report written to {out} ({out.stat().st_size / 1e6:.1f} MB)')
    for text in sections.left_out:
        print(f'left out: {text}')


def find_config(work_dir: Path, log: Any) -> Path | None:
    """Return the config that the last start of the training has written, None if there is none."""
    starts = [] if log is None else [*log.starts][::-1]
    files = [work_dir / start / 'vis_data' / 'config.py' for start in starts]
    files += sorted(work_dir.glob('*.py'), key=lambda file: -file.stat().st_mtime)
    return next((file for file in files if file.is_file()), None)


def find_name(work_dir: Path, file: Path | None) -> str | None:
    """Return the name of the config; the copy in the folder of a start is always `config.py`."""
    files = sorted(work_dir.glob('*.py'), key=lambda file: file.stat().st_mtime)
    return files[-1].name if files else getattr(file, 'name', None)


def read_settings(file: Path, args: argparse.Namespace) -> Config:
    cfg, options = read_config(str(file)), dict(args.cfg_options)
    move_data(cfg, argparse.Namespace(data_root=args.data_root, cfg_options=options))
    merge_options(cfg, options)
    return cfg


def read_detections(
    file: Path | None, cfg: Config | None, args: argparse.Namespace, sections: Sections
) -> Any:
    """Return the `Results` of the file given or kept by `train --report`, and its name, or None."""
    split = 'test' if args.results else 'val'
    advice = (
        f'tools/test.py CONFIG CHECKPOINT --out found.json, then tools/report.py {args.work_dir} '
        '--results found.json adds them'
    )
    metrics = [] if cfg is None else class_check.list_metrics(cfg, split)
    coco = [m for m in metrics if class_check.is_ours(m, registry.METRICS, 'CocoMetric')]
    if not coco:
        text = f'no CocoMetric in {split}_evaluator, and others are not analysed'
        sections.left_out.append(f'{_NO_DETECTIONS}: {text if metrics else advice}')
        return None
    results = args.results
    if results is None and coco[0].get('outfile_prefix'):
        kept = coco_results.results_path(coco[0].outfile_prefix)
        files = kept, args.work_dir / kept.name  # which may have been moved
        results = next((str(each) for each in files if each.is_file()), None)
    if results is None:
        sections.left_out.append(f'{_NO_DETECTIONS}: no detections; {advice}')
        return None
    given = dict(first=str(file), second=results, data_root=args.data_root)
    namespace = argparse.Namespace(**given, cfg_options=dict(args.cfg_options))
    if args.results:  # errors in what was asked for are errors
        return results_arguments.read_results(namespace, split), args.results
    read = sections.make(_NO_DETECTIONS, results_arguments.read_results, namespace, split)
    return None if read is None else (read, f'the last validation ({Path(results).name})')


def judge(found: Any, sections: Sections) -> dict[str, Any]:
    """Return the sections on detections; the best threshold for all classes is that of all."""
    if found is None:
        return dict.fromkeys(('source', 'threshold', 'classes', 'confusion', 'errors', 'images'))
    results, source = found
    everything = results.match(score_thr=-math.inf)
    curves = thresholds.make_curves(everything)
    threshold = curves[thresholds.ALL].find_best()['threshold']
    threshold = 0.3 if threshold is None else threshold
    chosen = results.match(score_thr=threshold)
    folder = results.img_dir or Path()  # None: it does not exist
    images = sections.make('worst images', judged.draw_images, chosen, results.truth, folder)
    if images is not None and not images['shown']:
        sections.left_out.append('worst images: no image has an error')
        images = None
    return dict(
        source=source,
        threshold=threshold,
        classes=judged.list_classes(curves, measure(results)),
        confusion=judged.count_confusions(chosen),
        errors=judged.count_errors(everything),
        images=images,
    )


def measure(results: Any) -> dict[str, list[float]]:
    """Return AP and AP50 of each class and of all, as the test prints them."""
    columns = {}
    for name, iou in (('AP', None), ('AP50', 0.5)):
        options = dict(classwise=True, iou_thrs=iou, metric='bbox', metric_items=['mAP'])
        figures = eval_metric.evaluate(results, **options, best_thresholds=False, curves_dir=None)
        total = next(key for key in figures if key.endswith('bbox_mAP'))
        prefix = total.removesuffix('bbox_mAP')
        columns[name] = [figures[f'{prefix}{each}_precision'] for each in results.classes]
        columns[name].append(figures[total])
    return columns


def describe_run(
    work_dir: Path, log: Any, cfg: Config | None, sections: Sections
) -> dict[str, Any]:
    """Return the sections on the training."""
    texts = [] if log is None else read_texts(work_dir, log)
    return dict(
        facts=list_facts(texts),
        best=sections.make('best AP', find_best, log),
        curves=sections.make('curves', draw_logs, log),
        sizes=sections.make('sizes of boxes and anchors', draw_sizes, cfg),
        ghm=sections.make('GHM', draw_ghm, work_dir, log or ()),
        changes=sections.make('changes of the config', compare_configs, cfg, work_dir),
        environment=sections.make('environment', list_environment, texts),
    )


def read_texts(work_dir: Path, log: Any) -> list[str]:
    """Return the text logs of the starts of the training."""
    files = [work_dir / start / f'{start}.log' for start in log.starts]
    return [file.read_text('utf-8', 'replace') for file in files if file.is_file()]


def list_facts(texts: list[str]) -> dict[str, str]:
    """Return what the log of the last start says of the training; the time is that of all."""
    times = [
        [datetime.strptime(each, '%Y/%m/%d %H:%M:%S') for each in _TIME.findall(text)]
        for text in texts
    ]
    times = [each for each in times if each]
    if not times:
        return {}
    block = _TIME.split(texts[-1].rpartition('Training begins')[2])[0]
    facts = dict(_FACT.findall(block))
    spent = sum((each[-1] - each[0]).total_seconds() for each in times)
    facts['trained'] = f'{times[0][0]} to {times[-1][-1]}'
    facts['time'] = f'{spent / 3600:.1f} hours' if spent > 5400 else f'{spent / 60:.1f} minutes'
    if len(times) > 1:
        facts['time'] += f' in {len(times)} starts'
    if version := re.search(r'ghmdet (\S+) from ', texts[-1]):
        facts['ghmdet'] = version[1]
    return {key: facts[key] for key in ('trained', 'time', *_SHOWN, 'ghmdet') if key in facts}


def find_best(log: Any) -> dict[str, Any]:
    """Return name, value and record of the best AP, and of the last one."""
    key = next(filter(re.compile('mAP$').search, log.keys), '')
    records = [record for record in log.val if math.isfinite(record.get(key, math.nan))]
    if not records:
        raise Missing('no validation in the log')
    best = max(records, key=lambda record: record[key])
    return dict(key=key, value=best[key], at=best, last=records[-1])


def draw_logs(log: Any) -> list[tuple[str, Any, list]]:
    """Return name, figure and columns of the losses, and of AP."""
    names: list[str] = log.keys
    chosen = {
        'losses': [key for key in names if 'loss' in key and not key.startswith('ghm/')],
        'AP': [key for key in names if re.search(r'mAP(_50)?$', key)],
    }
    return [
        (name, plots.draw_curves([log], keys), [(key, *log.column(key)) for key in keys])
        for name, keys in chosen.items()
        if keys
    ]


def draw_sizes(cfg: Config) -> dict[str, Any]:
    """Draw the boxes of the training data, as in the network's input, and the anchors."""
    anchors, iou = anchor_report.read_settings(cfg)
    scope = cfg.get('default_scope') or 'ghmdet'
    with scopes.DefaultScope.overwrite_default_scope(scope):
        generator = registry.TASK_UTILS.build(anchors)
        boxes = anchor_report.read_boxes(cfg, _IMAGES)
    fit = anchor_report.fit_all(boxes, generator)
    figure, bad = anchor_report.draw(boxes, fit, generator, iou), int((fit.ious < iou).sum())
    return dict(figure=figure, count=len(fit.ious), bad=bad, iou=iou)


def draw_ghm(work_dir: Path, log: Any) -> dict[str, Any]:
    """Draw the file of ghm_report.py, else records in the log, else the counts of a checkpoint."""
    file, last = work_dir / 'ghm_report' / 'ghm_report.json', work_dir / 'last_checkpoint'
    if file.is_file():
        content = json.loads(file.read_text('utf-8'))
        losses = content['models'][0].items()
        sums = {k: int(np.sum(part['counts'])) for k, part in losses if 'counts' in part}
        return dict(kind='densities', sums=sums, figure=ghm.draw_densities(content))
    if log and log.ghm:
        sums = {'records': len(log.ghm)}
        return dict(kind='history', sums=sums, figure=ghm.draw_history(log.ghm))
    name = last.read_text('utf-8').strip() if last.is_file() else ''
    checkpoint = reader.load_checkpoint_file(work_dir / Path(name).name) if name else {}
    weights = checkpoint.get('state_dict', checkpoint)
    counts = {
        key.split('.')[-2]: value.numpy()
        for key, value in weights.items()
        if key.endswith('.acc_sum')
    }
    if not counts:
        raise Missing(
            f'no running counts of a GHM loss in a checkpoint, no records of GHMStatsHook, no '
            f'{file}; tools/analysis_tools/ghm_report.py CONFIG CHECKPOINT writes the last'
        )
    sums = {name: round(float(values.sum())) for name, values in counts.items()}
    return dict(kind='counts', sums=sums, figure=draw_bins(counts))


def draw_bins(counts: Mapping[str, Any]) -> Any:
    """Draw the counts (bins,) of gradient norms of each loss as bars, on a log scale."""
    chart = figures.Figure(figsize=(5 * len(counts), 3.4), layout='constrained')
    panels = chart.subplots(1, len(counts), squeeze=False).flat
    for axes, (name, values) in zip(panels, counts.items(), strict=True):
        edges = np.linspace(0, 1, len(values) + 1)[:-1]
        axes.bar(edges, values, 0.85 / len(values), align='edge', color=plots.COLORS[0])
        axes.set(yscale='log', title=name, xlabel='gradient norm', ylabel='count of the bin')
    return chart


def compare_configs(cfg: Config, work_dir: Path) -> dict[str, Any]:
    """Compare with the shipped config of the same name, else that with the fewest differences."""
    own, found = list_values(cfg), {}
    names = sorted(file.stem for file in CONFIG_ROOT.glob('*.py'))
    same = [name for name in names if (work_dir / f'{name}.py').is_file()]
    for name in same[:1] or names:
        base = get_config(name)
        class_check.complete_evaluators(base)
        other = list_values(base)
        present = {key.partition('.')[0] for key, value in own.items() if value is not None}
        for section, dot, _ in [key.partition('.') for key in other]:
            if dot and section not in present:  # as a whole
                other = {k: v for k, v in other.items() if not k.startswith(f'{section}.')}
                other[section] = ...
        found[name] = [
            (key, *(describe_value(each, key) for each in (other, own)))
            for key in sorted(own.keys() | other.keys())
            if repr(own.get(key)) != repr(other.get(key))
        ]
    name = min(found, key=lambda name: len(found[name]))
    return dict(name=name, same=bool(same), rows=found[name])


def describe_value(values: Mapping[str, Any], key: str) -> str | None:
    if key not in values:
        return None
    return '...' if values[key] is ... else shorten(values[key])


def list_values(cfg: Config) -> dict[str, Any]:
    """Return the values by dotted key, without what each run adds."""
    names = TOP_LEVEL_KEYS - {'work_dir', 'launcher'}
    return {
        key: value.removeprefix('ghmdet.') if isinstance(value, str) else value
        for key, value, _ in ConfigOrigins().list_leaves(cfg, '')
        if key.partition('.')[0] in names and key not in _OF_THE_RUN
    }


def list_environment(texts: list[str]) -> list[tuple[str, str]]:
    found = _SYSTEM.search(texts[-1]) if texts else None
    if found is None:
        raise Missing('no text log of a training names it')
    return _SETTING.findall(found[1])


if __name__ == '__main__':
    run(main)
