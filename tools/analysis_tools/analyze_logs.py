"""Draw the curves of trainings, and tell how long their steps took.

python tools/analysis_tools/analyze_logs.py plot_curve LOG [LOG ...] [--keys loss_cls bbox_mAP]
python tools/analysis_tools/analyze_logs.py cal_train_time LOG [LOG ...] [--include-outliers]

LOG is a work dir, the folder of one start in it, or a JSON log, of ghmdet or MMDetection. The
starts of a resumed run are joined. Losses, metrics of validations and each other value have a panel
of their own.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import groupby
from pathlib import Path
from statistics import mean, median, pstdev
from typing import TYPE_CHECKING

from ghmdet.config.cli import LazyModule, add_debug_argument, run, user_path
from ghmdet.files import replacing
from ghmdet.messages import list_items

if TYPE_CHECKING:
    from ghmdet.reports.logs import RunLog

logs = LazyModule('ghmdet.reports.logs')
plots = LazyModule('ghmdet.reports.plots')
pyplot = LazyModule('matplotlib.pyplot')
_AP = 'bbox_mAP', 'mAP'


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Curves and times of trainings.')
    tasks = parser.add_subparsers(dest='task', required=True)
    curve = tasks.add_parser('plot_curve', help='draw values of the log')
    times = tasks.add_parser('cal_train_time', help='print how long a step takes')
    for each in (curve, times):
        each.add_argument(
            'logs', nargs='+', metavar='LOG', help='work dir, folder of a start, file'
        )
        add_debug_argument(each)
    curve.add_argument('--keys', nargs='+', help='what to draw (the losses, and AP)')
    curve.add_argument('--title', help='of the picture')
    curve.add_argument('--legend', nargs='+', default=[], help='a text for each log and key')
    curve.add_argument('--by-epoch', action='store_true', help='draw over epochs, not iterations')
    curve.add_argument('--start-epoch', type=int, default=1, help='leave out the epochs before (1)')
    curve.add_argument(
        '--out', type=user_path, default=Path('curves.png'), help='.png, .svg or .pdf (curves.png)'
    )
    curve.add_argument('--show', action='store_true', help='also show it in a window')
    curve.add_argument('--eval-interval', help='not used: the log has it')
    times.add_argument(
        '--include-outliers', action='store_true', help='count the first record of each epoch too'
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    runs = [logs.read_log(path) for path in args.logs]
    names = Counter(log.name for log in runs)
    for log, path in zip(runs, args.logs, strict=True):
        log.name = path if names[log.name] > 1 else log.name
    if args.task == 'cal_train_time':
        for log in runs:
            print('\n'.join(describe_times(log, args.include_outliers)), end='\n\n')
        return
    for log in runs if args.start_epoch > 1 else ():
        for records in (log.train, log.val):
            records[:] = [r for r in records if r.get('epoch', 0) >= args.start_epoch]
        if not log.train:
            raise ValueError(f'{log.name} has no epoch from --start-epoch {args.start_epoch} on')
    keys = args.keys or choose_keys(runs)
    if args.legend and len(args.legend) != len(runs) * len(keys):
        raise ValueError(
            f'--legend: expected a text for each of {len(runs)} logs and {len(keys)} keys, '
            f'{len(runs) * len(keys)} in all, got {len(args.legend)}'
        )
    figure = plots.draw_curves(runs, keys, args.by_epoch, args.legend)
    if args.title:
        figure.suptitle(args.title.replace('$', r'\$'))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.out) as draft:
        figure.savefig(draft, format=args.out.suffix[1:] or 'png', dpi=120)
    print(f'written to {args.out}')
    if args.show:
        manager = pyplot.figure().canvas.manager
        manager.canvas.figure = figure
        figure.set_canvas(manager.canvas)
        pyplot.show()


def choose_keys(runs: list[RunLog]) -> list[str]:
    """Return the losses and AP that all logs have, and print which are left out."""
    first = runs[0]
    losses = [key for key in first.keys if key.startswith('loss')]
    wanted = losses + [k for r in first.val for k in r if k.rpartition('/')[-1] in _AP]
    wanted = list(dict.fromkeys(wanted))
    # Logs of MMDetection 2 have no `coco/`.
    names = [{key.rpartition('/')[-1] for key in log.keys} for log in runs]
    shared = [key for key in wanted if all(key.rpartition('/')[-1] in each for each in names)]
    if not shared:
        known = list_items(first.keys, 40)
        raise ValueError(f'the logs have no loss or AP in common; choose --keys of: {known}')
    if missing := [key for key in wanted if key not in shared]:
        print(f'not drawn, since not all logs have it: {list_items(missing)}')
    return shared


def describe_times(log: RunLog, include_outliers: bool) -> list[str]:
    """Return what MMDetection prints, the share of loading, and the times of each start."""
    log.find_key('time')
    records = [record for record in log.train if 'time' in record]
    epochs = {}
    for epoch, group in groupby(records, key=lambda record: int(record.get('epoch', 0))):
        of_epoch = list(group)
        first = 0 if include_outliers or len(of_epoch) == 1 else 1
        epochs[epoch] = of_epoch[first:]
    means = {epoch: mean(r['time'] for r in group) for epoch, group in epochs.items()}
    counted = [record for group in epochs.values() for record in group]
    lines = [f'-----Analyze train time of {log.name}-----']
    for word, choose in (('slowest', max), ('fastest', min)):
        epoch = choose(means, key=means.__getitem__)
        if epoch:
            lines.append(f'{word} epoch {epoch}, average time is {means[epoch]:.4f} s/iter')
    lines += [
        f'time std over epochs is {pstdev(means.values()):.4f}',
        f'average iter time: {mean(means.values()):.4f} s/iter',
        f'median iter time: {median(r["time"] for r in counted):.4f} s/iter',
    ]
    if share := sum(r.get('data_time', 0) for r in counted):
        lines.append(f'data_time: {share / sum(r["time"] for r in counted):.1%} of the time')
    ends = [*log.starts.values()][1:]
    for (name, first), end in zip(log.starts.items(), [*ends, float('inf')], strict=True):
        part = [r for r in counted if first <= r['iter'] < end]
        if part and ends:
            average = mean(r['time'] for r in part)
            lines.append(f'from iteration {first} ({name}): {average:.4f} s/iter')
    return lines


if __name__ == '__main__':
    run(main)
