"""Make docs/choosing_a_loss.md and its pictures from the tables in docs/results.

python tools/study/make_page.py [--check]

The text is choosing_a_loss.md.j2. All that was measured comes from the CSV files: NAME.csv is
`runs.csv` of `tools/compare.py`, and NAME_curves.csv its `curves.csv`. Without a file the page says
that this is not measured yet. With --check nothing is written; what differs is printed, and the
exit code is 1. Pictures are compared by the data they were drawn from, not by their pixels.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ghmdet.config import cli
from ghmdet.files import replacing
from ghmdet.messages import list_items

sys.path.append(str(Path(__file__).resolve().parents[1]))
tables = cli.LazyModule('comparison.tables')
jinja2 = cli.LazyModule('jinja2')
pillow = cli.LazyModule('PIL.Image')

PAGE = 'choosing_a_loss.md'
DOCS = Path(__file__).resolve().parents[2] / 'docs'
AP = 'coco/bbox_mAP'
LABELS = {
    'bccd': 'BCCD',
    'deeppcb': 'DeepPCB',
    'ghm': 'GHM-C + GHM-R',
    'focal': 'focal + L1',
    'ce': 'cross entropy + L1',
    'focal_smooth': 'focal + smooth L1',
    'ghmc_l1': 'GHM-C + L1',
    'pooled': 'counts of all levels together',
}
"""What the page calls the data and the variants."""


# What the first variant, one seed, or no finished run lacks.
NO_DIFFERENCE = dict(outcome='', seeds_needed=None) | dict.fromkeys(
    ('mean', 'low', 'high', 'difference', 'difference_low', 'difference_high'), math.nan
)


class Study:
    """What the template calls; `pictures` are the tables of curves of each picture it asked for.

    A summary is a list with one dict for each data and variant: `data`, `variant`, and for each
    metric its row of `comparison.tables.summarise`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pictures: dict[str, list[Path]] = {}

    def runs(self, *names: str) -> list[dict[str, Any]]:
        """Return the rows of those of the tables that exist."""
        files = [self.folder / f'{name}.csv' for name in names]
        return [row for file in files if file.is_file() for row in tables.read_rows(file)]

    def summary(self, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the summary of runs."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for row in tables.summarise(runs):
            data, variant = row['data'], row['variant']
            line = found.setdefault((data, variant), dict(data=data, variant=variant))
            known = {key: value for key, value in row.items() if value not in ('', None)}
            line[row['metric']] = NO_DIFFERENCE | known
        return list(found.values())

    def changes(
        self, before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return the runs `after` with AP minus that of `before` of their variant and seed."""
        known = {(row['variant'], row['seed']): row.get(AP) for row in before}
        pairs = [(row, known.get((row['variant'], row['seed']))) for row in after if AP in row]
        kept = 'data', 'variant', 'seed', 'state'
        return [
            {key: row[key] for key in kept} | {AP: row[AP] - ap}
            for row, ap in pairs
            if ap is not None
        ]

    def outcomes(self, summary: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return what became of each variant against the first one of its data.

        A list of dicts: `variant`, `first`, and `data`, the names of the data by outcome.
        """
        firsts: dict[str, str] = {}
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for line in summary:
            variant, first = line['variant'], firsts.setdefault(line['data'], line['variant'])
            if outcome := line.get(AP, NO_DIFFERENCE)['outcome']:
                names = dict(variant=variant, first=first, data={})
                of_variant = found.setdefault((variant, first), names)['data']
                of_variant.setdefault(outcome, []).append(line['data'])
        return list(found.values())

    def grid(self, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the AP of each data, loss and rate of runs whose variants are 'LOSS lr=RATE'.

        A list of dicts: `data`, `loss`, `rates`, a dict of AP by rate in rising order (nan where
        there is none), `best`, the rate of the highest AP, `at_end`, whether no lower or no higher
        one was tried with success, and `spread`, the highest AP minus the lowest.
        """
        found: dict[tuple[str, str], dict[str, float]] = {}
        for row in runs:
            loss, _, rate = row['variant'].partition(' lr=')
            found.setdefault((row['data'], loss), {})[rate] = row.get(AP, math.nan)
        rates = sorted({rate for aps in found.values() for rate in aps}, key=float)
        lines = []
        for (data, loss), aps in found.items():
            tried = [rate for rate in rates if not math.isnan(aps.get(rate, math.nan))]
            if not tried:
                continue
            best = max(tried, key=aps.__getitem__)
            values = [aps[rate] for rate in tried]
            line = dict(data=data, loss=loss, best=best, spread=max(values) - min(values))
            line['rates'] = {rate: aps.get(rate, math.nan) for rate in rates}
            lines.append(line | dict(at_end=best in (tried[0], tried[-1])))
        return lines

    def rises(self, *names: str) -> list[dict[str, Any]]:
        """Return by how much AP rose between the last two validations, the mean over seeds.

        A list of dicts: `data`, `start`, the iteration of the first of the two, and `rises`, a dict
        of the rise by variant.
        """
        curves: dict[tuple[str, str], dict[int, dict[int, float]]] = {}
        for row in self.runs(*[f'{name}_curves' for name in names]):
            if AP in row:
                of_seeds = curves.setdefault((row['data'], row['variant']), {})
                of_seeds.setdefault(row['seed'], {})[row['iter']] = row[AP]
        found: dict[str, dict[str, Any]] = {}
        for (data, variant), of_seeds in curves.items():
            steps = sorted(next(iter(of_seeds.values())))
            if len(steps) < 2:
                continue
            start, end = steps[-2:]
            line = found.setdefault(data, dict(data=data, start=start, rises={}))
            line['rises'][variant] = mean(aps[end] - aps[start] for aps in of_seeds.values())
        return list(found.values())

    def rates(self, runs: Sequence[dict[str, Any]]) -> dict[str, str]:
        """Return the learning rates of each variant, as its commands have them."""
        found: dict[str, dict[str, None]] = {}
        for row in runs:
            if not row.get('command'):
                continue
            rate = re.search(r"optimizer\.lr=([^\s']+)", row['command'])
            found.setdefault(row['variant'], {})[rate[1] if rate else "the config's"] = None
        return {variant: ' and '.join(rates) for variant, rates in found.items()}

    def picture(self, name: str, *of: str) -> str:
        """Return the link to a picture of the curves of these tables; '' if none exists."""
        files = [self.folder / f'{each}_curves.csv' for each in of]
        self.pictures[name] = [file for file in files if file.is_file()]
        return (
            f'![AP over iterations, mean over seeds with its 95 % interval](results/{name}.png)'
            if self.pictures[name]
            else ''
        )


def label(name: str) -> str:
    return LABELS.get(name, name.replace('_', ' '))


def interval(row: dict[str, Any], prefix: str = '') -> str:
    """Return ' (LOW to HIGH)', the interval of a row or of its difference; '' if it has none."""
    ends = [row[f'{prefix}{key}'] for key in ('low', 'high')]
    write = signed if prefix else number
    return '' if any(map(math.isnan, ends)) else f' ({write(ends[0])} to {write(ends[1])})'


def number(value: float) -> str:
    return 'n/a' if math.isnan(value) else f'{value:z.3f}'


def signed(value: float) -> str:
    return 'n/a' if math.isnan(value) else f'{value:+z.3f}'


def render(folder: Path) -> tuple[str, dict[str, list[Path]]]:
    """Return the text of the page, and the tables of curves of each of its pictures."""
    study = Study(folder)
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters |= {each.__name__: each for each in (label, interval, number, signed)}
    text = pages.get_template(f'{PAGE}.j2').render(study=study, AP=AP, AP50=f'{AP}_50')
    pictures = {name: files for name, files in study.pictures.items() if files}
    return re.sub('\n{3,}', '\n\n', text), pictures


def digest(files: Iterable[Path]) -> str:
    """Return the hash of tables, alike for all line ends."""
    content = b''.join(file.read_bytes().replace(b'\r\n', b'\n') for file in files)
    return hashlib.sha256(content).hexdigest()


def draw(file: Path, curves: Sequence[Path]) -> None:
    """Draw the curves of tables; the picture holds their hash."""
    rows = [row for table in curves for row in tables.read_rows(table)]
    shown = [row | {key: label(row[key]) for key in ('data', 'variant')} for row in rows]
    figure = tables.draw_bands(shown)
    with replacing(file) as draft:
        figure.savefig(draft, format='png', dpi=80, metadata={'Source': digest(curves)})


def find_differences(docs: Path, text: str, pictures: dict[str, list[Path]]) -> list[str]:
    """Return what is not as it would be written: lines of the page, and pictures."""
    page = docs / PAGE
    old = page.read_text('utf-8') if page.is_file() else ''
    lines = difflib.unified_diff(old.splitlines(), text.splitlines(), str(page), 'made again', n=0)
    found = list(lines)
    for name, curves in pictures.items():
        file = docs / 'results' / f'{name}.png'
        if not file.is_file():
            found.append(f'{file} does not exist')
            continue
        with pillow.open(file) as image:
            if image.info.get('Source') != digest(curves):
                found.append(f'{file} was drawn from other curves')
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description='Make the page on losses from docs/results.')
    parser.add_argument('--check', action='store_true', help='write nothing, print what differs')
    parser.add_argument('--docs', type=cli.user_path, default=DOCS, help='folder (docs)')
    cli.add_debug_argument(parser)
    args = parser.parse_args()
    text, pictures = render(args.docs / 'results')
    if not args.check:
        with replacing(args.docs / PAGE) as draft:
            draft.write_text(text, 'utf-8', newline='\n')
        for name, curves in pictures.items():
            draw(args.docs / 'results' / f'{name}.png', curves)
        print(f'{args.docs / PAGE}, pictures: {list_items(pictures) or "none"}')
    elif found := find_differences(args.docs, text, pictures):
        print('\n'.join(found))
        raise SystemExit(1)


if __name__ == '__main__':
    cli.run(main)
