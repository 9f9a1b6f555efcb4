"""Tables and charts of several runs, and over seeds: CSV, Markdown and HTML."""

from __future__ import annotations

import csv
import io
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from ghmdet.files import read_text, replacing, write_table
from ghmdet.messages import list_items, shorten
from ghmdet.reports.plots import COLORS, LINE_STYLES
from ghmdet.reports.report import write_page

from .intervals import Estimate, estimate, outcome, seeds_needed

Row = dict[str, Any]
_MAIN = 'coco/bbox_mAP'
_UNLISTED = re.compile('bbox_mAP_(50|75|s|m|l)$')  # these have no row of their own
_COUNTS = 'seed', 'iter', 'iterations'
_COSTS = 'minutes', 'memory_mb'
_TEXTS = (
    *('data', 'metric', 'variant', 'state'),
    *('commit', 'ghmdet', 'torch', 'cpu'),
    *('threads', 'command'),
)
_FIRST = 'data', 'metric', 'variant', 'seed', 'state', 'iter'  # columns; then the metrics
_LAST = 'iterations', *_COSTS, 'commit', 'ghmdet', 'torch', 'cpu', 'threads', 'command'
_MARKDOWN = re.compile(
    r'[\\`*<>|&$~]|\](?=[(\[])|(?<![^\W_])_|_(?![^\W_])'
)  # what it would not show

_NOTHING = 'No run has finished with a validation.'
_NOTES = (
    "Mean ± standard deviation over seeds, and in brackets the 95 % interval of the mean (Student's"
    ' t). It covers the noise of training on this split of the data, not what other data would do.',
    'Differences are paired by seed. "no difference seen" does not mean that there is none. Seeds '
    'needed: so many would show a true difference as large as this one in 80 of 100 comparisons.',
)
_CHANCE = (
    'The tables have {} differences with an interval. If no variant differed from the first, on '
    'average {:.1f} of them would still be called different.'
)


class Table(NamedTuple):
    """A table to read; all cells are text."""

    title: str
    header: list[str]
    rows: list[list[str]]


def read_rows(file: Path) -> list[Row]:
    """Read a CSV file of runs or validations, a dict for each row.

    Numbers become float (seeds and counts int), except in columns of text; empty cells are left
    out.

    Raises:
        ValueError: the file is no such table; the message says where.
    """
    lines = csv.reader(io.StringIO(read_text(file), newline=''))
    header = next(lines, [])
    if missing := {'data', 'variant', 'seed'} - set(header):
        raise ValueError(
            f'{file}: expected a table of compare.py, comma-separated with the columns data, '
            f'variant and seed; {list_items(sorted(missing))} missing in {shorten(header)}'
        )
    rows = []
    for cells in filter(None, lines):
        place = f'{file}, line {lines.line_num}'
        if len(cells) > len(header):
            raise ValueError(f'{place}: {len(cells)} cells, but {len(header)} columns')
        row = {
            key: _read_cell(key, cell, place)
            for key, cell in zip(header, cells, strict=False)
            if cell
        }
        if not row.keys() >= {'data', 'variant', 'seed'}:
            raise ValueError(f'{place}: data, variant or seed is empty')
        rows.append(row)
    return rows


def _read_cell(key: str, cell: str, place: str) -> Any:
    if key in _TEXTS:
        return cell
    try:
        return int(cell) if key in _COUNTS else float(cell)
    except ValueError:
        if key in _COUNTS:
            raise ValueError(f'{place}: {key} must be an integer, got {cell!r}') from None
        return cell


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV: what tells the rows apart, then metrics, then costs and versions."""
    found = dict.fromkeys(key for row in rows for key in row) or ('data', 'variant', 'seed')
    first = [key for key in _FIRST if key in found]
    last = [key for key in _LAST if key in found]
    columns = [*first, *(key for key in found if key not in {*first, *last}), *last]
    lines: list[list] = [columns, *([row.get(key) for key in columns] for row in rows)]
    # A carriage return in a text would end the line for its readers.
    one_line = ([' '.join(c.splitlines()) if isinstance(c, str) else c for c in x] for x in lines)
    write_table(file, one_line, line_end='\n')


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Return mean and interval over seeds for each data, metric and variant, of finished runs.

    Differences are to the first variant of the data, over the seeds that both have. -1, COCO's
    value without ground truth, counts as missing. None: there are too few values; nan: a value is.

    Raises:
        ValueError: a finished run is there twice.
    """
    summary = []
    for data, of_data in _group(rows, 'data').items():
        finished = [row for row in of_data if row.get('state') == 'finished']
        for (variant, seed), count in Counter((r['variant'], r['seed']) for r in finished).items():
            if count > 1:
                raise ValueError(
                    f'{data}, {variant}, seed {seed} is there {count} times; leave all but one out'
                )
        costs = [key for key in _COSTS if any(key in row for row in finished)]
        for metric in [*_metrics(finished), *costs]:
            values: dict[str, dict[int, float]] = {row['variant']: {} for row in of_data}
            for row in finished:
                if row.get(metric, -1) != -1:
                    values[row['variant']][row['seed']] = row[metric]
            first = next(iter(values.values()))
            for variant, own in values.items():
                pairs = [own[seed] - first[seed] for seed in own if seed in first]
                numbers = _statistics(list(own.values()), None if own is first else pairs)
                if metric in costs:
                    numbers['outcome'] = None
                summary.append({'data': data, 'metric': metric, 'variant': variant} | numbers)
    return summary


def _statistics(values: list[float], differences: list[float] | None) -> Row:
    own, difference = estimate(values), estimate(differences or [])
    is_first = differences is None
    return {
        'seeds': own.count,
        **_cells(own, ('mean', 'deviation', 'low', 'high')),
        **_cells(difference, [f'difference{end}' for end in ('', '_deviation', '_low', '_high')]),
        'paired_seeds': None if is_first else difference.count,
        'seeds_needed': seeds_needed(differences or []),
        'outcome': None if is_first else outcome(difference),
    }


def _cells(found: Estimate, names: Sequence[str]) -> Row:
    values = [found.mean, found.deviation, found.low, found.high]
    known = min(found.count, 2) ** 2  # of no value nothing, of one its mean, of two all
    return dict(zip(names, [*values[:known], *[None] * 4], strict=False))


def _group(rows: Iterable[Row], key: str) -> dict[str, list[Row]]:
    """The rows by their value of a column, in order of appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def _metrics(rows: Iterable[Row]) -> list[str]:
    """The metrics of some rows, the main one first."""
    found = dict.fromkeys(k for row in rows for k in row if isinstance(row[k], Real))
    keys = [key for key in found if key not in {*_FIRST, *_LAST}]
    return sorted(keys, key=_MAIN.__ne__)


def _label(metric: str, prefix: str) -> str:
    """The name for people: AP, AP50, the class, or what follows the evaluator's prefix."""
    name = metric.removeprefix(f'{prefix}/')
    short = {'bbox_mAP': 'AP', 'bbox_mAP_50': 'AP50'}
    return short.get(name, name.removesuffix('_precision'))


def _show(value: float | None, spec: str = '.3f') -> str:
    return '-' if value is None else format(value, 'f' if math.isnan(value) else spec)


def _show_mean(row: Row) -> str:
    text = _show(row['mean'])
    if row['low'] is None or math.isnan(row['low']):
        return text
    return f'{text} ± {row["deviation"]:.3f} [{row["low"]:z.3f}, {row["high"]:z.3f}]'


def _show_difference(row: Row) -> str:
    text = _show(row['difference'], '+z.3f')
    low, high = row['difference_low'], row['difference_high']
    return text if low is None or math.isnan(low) else f'{text} [{low:+z.3f}, {high:+z.3f}]'


def make_tables(summary: Sequence[Row]) -> list[Table]:
    """Return the tables of one data set: of its main metric, and of classes or other metrics."""
    by_metric = _group(summary, 'metric')
    metrics = [key for key in by_metric if key not in _COSTS]
    if not metrics:
        return []
    main, prefix = metrics[0], metrics[0].rpartition('/')[0]
    ap, first = _label(main, prefix), by_metric[main][0]['variant']
    has_50 = f'{main}_50' in metrics
    rows = []
    for index, row in enumerate(by_metric[main]):
        cost = {key: by_metric[key][index]['mean'] for key in _COSTS if key in by_metric}
        memory = cost.get('memory_mb')
        paired, seeds = row['paired_seeds'], row['seeds']
        rows.append(
            [
                row['variant'],
                f'{seeds}' if paired in (None, seeds) else f'{seeds}, {paired} paired',
                _show_mean(row),
                *([_show_mean(by_metric[f'{main}_50'][index])] if has_50 else []),
                _show_difference(row),
                row['outcome'] or '-',
                _show(row['seeds_needed'], ',d'),
                _show(cost.get('minutes'), '.1f'),
                _show(memory and memory / 1024, '.2f'),
            ]
        )
    names = ['variant', 'seeds', ap, *(['AP50'] if has_50 else []), f'difference of {ap}']
    header = [*names, 'outcome', 'seeds needed', 'minutes', 'memory (GB)']
    tables = [Table(f'{ap} of each variant; differences to {first}', header, rows)]
    others = [key for key in metrics[1:] if not _UNLISTED.search(key)]
    if others:
        is_class = all(key.endswith('_precision') for key in others)
        header = ['class' if is_class else 'metric', 'variant', ap if is_class else 'value']
        rows = [
            [_label(key, prefix), row['variant'], _show_mean(row), _show_difference(row)]
            + [row['outcome'] or '-']
            for key in others
            for row in by_metric[key]
        ]
        title = f'{ap} of each class' if is_class else 'Other metrics'
        header += ['difference', 'outcome']
        tables.append(Table(f'{title}; differences to {first}', header, rows))
    return tables


def draw_bands(rows: Sequence[Row], key: str = _MAIN) -> Figure:
    """Draw a metric over the iterations: the mean over seeds, and its 95 % interval as a band.

    Each data set has a panel, each variant a line; one seed has no band. Data without the metric
    shows its main one. Wide bands of few seeds are cut off.
    """
    panels, variants = _group(rows, 'data'), list(_group(rows, 'variant'))
    columns = min(2, len(panels)) or 1
    lines = math.ceil(len(panels) / columns) or 1
    figure = Figure(figsize=(6 * columns, 4 * lines), layout='constrained')
    for number, (data, own) in enumerate(panels.items(), 1):
        metrics = _metrics(own)
        metric = key if key in metrics else next(iter(metrics), '')
        axes = figure.add_subplot(lines, columns, number)
        label = _label(metric, metric.rpartition('/')[0])
        axes.set(xlabel='iteration', ylabel=_plain(label), title=_plain(data))
        bands = []
        for variant, runs in _group(own, 'variant').items():
            points: dict[int, list[float]] = {}
            for row in runs:
                if row.get(metric, -1) != -1:
                    points.setdefault(row['iter'], []).append(row[metric])
            x, found = sorted(points), [estimate(points[i]) for i in sorted(points)]
            index = variants.index(variant)
            color, style = COLORS[index % len(COLORS)], LINE_STYLES[index % len(LINE_STYLES)]
            axes.plot(x, [e.mean for e in found], f'.{style}', color=color, label=_plain(variant))
            bands.append((x, [e.low for e in found], [e.high for e in found], color))
        low, high = axes.get_ylim()
        for x, lows, highs, color in bands:
            axes.fill_between(x, lows, highs, color=color, alpha=0.2, linewidth=0)
        axes.set_ylim(low - (high - low) / 4, high + (high - low) / 4)
        axes.legend(fontsize='small')
    return figure


def draw_differences(rows: Sequence[Row], label: str) -> Figure:
    """Draw the differences of one metric to the first variant, with intervals, from `summarise`."""
    figure = Figure(figsize=(6, 1.2 + 0.4 * len(rows)), layout='constrained')
    axes = figure.add_subplot()
    for index, row in enumerate(rows):
        value, low, high = (row[f'difference{end}'] for end in ('', '_low', '_high'))
        if value is not None:
            error = None if low is None else [[value - low], [high - value]]
            axes.errorbar(value, index, xerr=error, fmt='ko', capsize=4)
    axes.axvline(0, color='black', linewidth=1)
    axes.set_yticks(range(len(rows)), [_plain(row['variant']) for row in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f'difference of {_plain(label)}')
    return figure


def _plain(text: str) -> str:
    """Text for matplotlib: `$` would begin a formula, and `_` would hide a line of the legend."""
    text = text.encode(errors='backslashreplace').decode()  # an argument need not be text
    return re.sub('^_', '\u200b_', text.replace('$', r'\$'))


def write_comparison(
    out: Path, runs: Sequence[Row], curves: Sequence[Row], heading: Mapping[str, str]
) -> None:
    """Write runs.csv, curves.csv, comparison.csv, .md and .html, and curves.png into a folder.

    `runs` and `curves` are the rows of these files, `heading` facts to stand on top. Each file is
    replaced in one step.
    """
    out.mkdir(parents=True, exist_ok=True)
    summary = summarise(runs)
    for name, rows in (('runs', runs), ('curves', curves), ('comparison', summary)):
        write_rows(out / f'{name}.csv', rows)
    sections, told = list[tuple[str, list[Table], list[Any]]](), 0
    for data, of_data in _group(runs, 'data').items():
        own = [row for row in summary if row['data'] == data]
        tables = make_tables(own)
        charts = list[tuple[Figure, str, str]]()
        main = own[0]['metric'] if tables else ''
        label = _label(main, main.rpartition('/')[0])
        listed = [
            row for row in own if row['metric'] == main or not _UNLISTED.search(row['metric'])
        ]
        told += sum(row['outcome'] in ('higher', 'lower', 'no difference seen') for row in listed)
        if drawn := [row for row in curves if row['data'] == data]:
            text = f'{label} over the iterations: mean over seeds, and its 95 % interval as a band'
            charts.append((draw_bands(drawn), text, text))
        if drawn := [r for r in own if r['metric'] == main and r['paired_seeds'] is not None]:
            texts = [f'{row["variant"]}: {_show_difference(row)}' for row in drawn]
            text = f'Difference of {label} to {of_data[0]["variant"]}, with its 95 % interval'
            charts.append((draw_differences(drawn, label), f'{text}. {"; ".join(texts)}', text))
        sections.append((data, tables, charts))
    left_out = [row for row in runs if row['state'] != 'finished']
    if left_out:
        header = ['data', 'variant', 'seed', 'state']
        cells = [[str(row[key]) for key in header] for row in left_out]
        sections.append(('Runs left out', [Table('Not in any mean', header, cells)], []))
    notes = [*_NOTES, *([_CHANCE.format(told, 0.05 * told)] if told else [])]
    if curves:
        with replacing(out / 'curves.png') as draft, warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Glyph .* missing')
            draw_bands(curves).savefig(draft, format='png')
    text = _to_markdown(heading, sections, notes, 'curves.png' if curves else '')
    with replacing(out / 'comparison.md') as draft:
        draft.write_bytes(text.encode(errors='backslashreplace'))
    values = dict(heading=heading, sections=sections, notes=notes, nothing=_NOTHING)
    write_page(out / 'comparison.html', Path(__file__).with_name('comparison.html.j2'), **values)


def _to_markdown(
    heading: Mapping[str, str],
    sections: Sequence[tuple[str, list[Table], Any]],
    notes: Sequence[str],
    picture: str,
) -> str:
    lines = ['# Comparison', '', *(f'- {_escape(k)}: {_escape(v)}' for k, v in heading.items())]
    for name, tables, _ in sections:
        lines += ['', f'## {_escape(name)}', *([] if tables else ['', _NOTHING])]
        for title, header, rows in tables:
            cells = [header, ['---'] * len(header), *rows]
            lines += ['', _escape(title), '']
            lines += [f'| {" | ".join(map(_escape, row))} |' for row in cells]
    lines += ['', '## How to read this', '', *(f'- {_escape(note)}' for note in notes)]
    lines += ['', f'![Curves over the iterations]({picture})'] if picture else []
    return '\n'.join([*lines, ''])


def _escape(text: str) -> str:
    return _MARKDOWN.sub(r'\\\g<0>', ' '.join(text.split()))
