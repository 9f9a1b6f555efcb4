"""Reads the JSON logs of trainings with ghmdet, and with MMDetection 3.x and 2.x."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ghmdet.argument_checks import is_number
from ghmdet.files import decode_text, explain_look_alike
from ghmdet.messages import did_you_mean, list_items, nearest, shorten

_ADVICE = 'give the work dir of a training, or its file <start>/vis_data/scalars.json'


@dataclass
class RunLog:
    """The records of a training, by key; each has `iter`, iterations done, and is sorted by it."""

    name: str
    train: list[dict[str, float]] = field(default_factory=list)
    val: list[dict[str, float]] = field(default_factory=list)  # metrics
    ghm: list[dict[str, float]] = field(default_factory=list)  # of GHMStatsHook
    starts: dict[str, int] = field(default_factory=dict)  # first iteration of each, by its name

    @property
    def keys(self) -> list[str]:
        """Return what can be plotted: of training, of validations, of GHMStatsHook."""
        records = [*self.train, *self.val, *self.ghm]
        return [
            k for k in dict.fromkeys(k for r in records for k in r) if k not in ('iter', 'epoch')
        ]

    def find_key(self, key: str) -> str:
        """Return the key of the log that is meant; `coco/` and the like may be missing or too many.

        Raises:
            ValueError: the log has no such key, or several.
        """
        keys, short = self.keys, key.rpartition('/')[-1]
        found = [key] if key in keys else [k for k in keys if k.endswith(f'/{key}') or k == short]
        if len(found) == 1:
            return found[0]
        near = did_you_mean(found or nearest(key, keys))
        none = '' if self.val else ', and no validation'
        raise ValueError(f'{self.name} has no {key!r}{none}; it has {list_items(keys, 40)}{near}')

    def column(self, key: str) -> tuple[list[int], list[float]]:
        """Return iterations and values of a key, of the records that have it; see `find_key`."""
        key = self.find_key(key)
        has = ([r for r in each if key in r] for each in (self.train, self.val, self.ghm))
        records = next(filter(None, has))
        return [int(record['iter']) for record in records], [record[key] for record in records]

    def epoch_length(self) -> int | None:
        """Return the iterations of an epoch, the least that fit all records; None if not logged."""
        pairs = [(int(r['iter']), int(r['epoch'])) for r in self.train if r.get('epoch', 0) >= 1]
        if not pairs:
            return None
        low = max(-(-done // epoch) for done, epoch in pairs)
        high = min((-(-done // (e - 1)) - 1 for done, e in pairs if e > 1), default=low)
        # The records of an epoch are at multiples of the interval.
        interval = math.gcd(*(b[0] - a[0] for a, b in pairwise(pairs) if a[1] == b[1])) or 1
        lengths = range(low, high + 1)
        fitting = (n for n in lengths if all((d - (e - 1) * n) % interval == 0 for d, e in pairs))
        return next(fitting, low)


def read_log(path: str | os.PathLike[str]) -> RunLog:
    """Read the log of a training: a work dir, the folder of one start of it, or a file.

    The starts of a work dir are joined: a later start counts from its first iteration on. Starts
    without training (tests) are left out, but for one that repeats the last validation, in which
    the training was stopped. Metrics are at the iteration of their validation; where the log has
    the epoch instead, or 0, at the end of that epoch, or after the last record before.

    Raises:
        FileNotFoundError: there is no log.
        ValueError: a file is no log, or has no record of training.
    """
    given = Path(path).expanduser()
    files = _find_files(given)
    starts = {_name_of(file): _read_records(file) for file in files}
    _count_from_start([record for records in starts.values() for record in records])
    run = RunLog(_name_of(given))
    for name, records in starts.items():
        _join(run, name, records)
    if not run.train:
        raise ValueError(
            f'{list_items(files, 3)}: no record of training (`iter`), as of fewer iterations than '
            f'default_hooks.logger.interval; {_ADVICE}'
        )
    length = run.epoch_length() or 0
    for record in run.val:
        step = int(record.pop('step'))
        if step < record['iter'] and step == record.get('epoch'):
            record['iter'] = max(record['iter'], step * length)
    for each in (run.train, run.val, run.ghm):
        each.sort(key=lambda record: record['iter'])
    return run


def _find_files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else []
    for folder in (path, path / 'vis_data', *sorted(path.glob('*/vis_data'))):
        scalars = folder / 'scalars.json'
        # Of MMDetection 2 in the work dir itself.
        pattern = '*.json' if folder.name == 'vis_data' else '*.log.json'
        files += [scalars] if scalars.is_file() else sorted(folder.glob(pattern))
    if not files:
        look_alike = explain_look_alike(path)
        raise FileNotFoundError(f'{path} has no log of a training{look_alike}; {_ADVICE}')
    return files


def _name_of(path: Path) -> str:
    """The name of a run, or of the start that a file belongs to."""
    path = path.resolve()
    for name in ('scalars.json', 'vis_data'):
        path = path.parent if path.name == name else path
    return path.name.removesuffix('.json').removesuffix('.log')


def _read_records(file: Path) -> list[dict[str, Any]]:
    """Read the lines of a log; the last one may be cut off, by a kill or a full disk."""
    lines = decode_text(file.read_bytes().rstrip(b'\0'), str(file)).rstrip().split('\n')
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line or '{}'))
        except ValueError:
            if number == len(lines) and line.startswith('{'):
                break
            records.append(None)
        if not isinstance(records[-1], dict):
            found = shorten(line, 60)
            raise ValueError(f'{file}, line {number}: no record of a log: {found}; {_ADVICE}')
    return records


def _count_from_start(records: list[dict[str, Any]]) -> None:
    """Give records of MMDetection 2, which have a `mode`, what those of 3 have, in place.

    They count iterations from the start of each epoch, except in iteration-based runs.
    """
    old = [r for r in records if 'mode' in r and {'iter', 'epoch'} <= r.keys()]
    train = [r for r in old if r['mode'] == 'train']
    by_iter = any(a['epoch'] < b['epoch'] and a['iter'] < b['iter'] for a, b in pairwise(train))
    length = 0 if by_iter else max((r['iter'] for r in train), default=0)
    for record in old:
        if record['mode'] == 'train':
            record['iter'] += (record['epoch'] - 1) * length
        else:
            record['step'] = 0 if by_iter else record['epoch']
            del record['iter']


def _is_at_end(run: RunLog, row: dict[str, float]) -> bool:
    """Whether a validation is at the end of the training so far, at its iteration or epoch."""
    last = run.train[-1]
    return row['step'] >= last['iter'] or row['step'] == last.get('epoch')


def _join(run: RunLog, name: str, records: list[dict[str, Any]]) -> None:
    """Append the records of a start to those of earlier starts, which end where it begins."""
    rows: list[tuple[list, dict[str, float]]] = []
    for record in records:
        row = {k: math.nan if v is None else v for k, v in record.items()}
        row = {k: v for k, v in row.items() if is_number(v) or v != v}
        if row.keys() & {'iter', 'step'}:
            kind = run.train if 'iter' in row else run.val
            kind = run.ghm if any(key.startswith('ghm/') for key in row) else kind
            rows.append((kind, {'step': row.get('iter', 0), **row}))
    if any(kind is run.train for kind, _ in rows):
        first = min(int(row['step']) for kind, row in rows if kind is not run.val)
        run.starts = {k: at for k, at in run.starts.items() if at < first} | {name: first}
    elif run.train and rows and all(_is_at_end(run, row) for _, row in rows):
        first = int(run.train[-1]['iter']) + 1
    else:
        return
    for kind in (run.train, run.val, run.ghm):
        kind[:] = [row for row in kind if row['iter'] < first]
    count = len(run.val)
    for kind, row in rows:
        if kind is run.val:
            last = run.train[-1] if run.train else {'iter': 0}
            row |= {k: last[k] for k in ('iter', 'epoch') if k in last}
            row['iter'] = max(row['iter'], row['step'])
        else:
            row['iter'] = row.pop('step')
        kind.append(row)
    # A resumed run first repeats a validation that was due when its checkpoint was saved.
    if new := run.val[count:]:
        run.val[:] = [row for row in run.val[:count] if row['iter'] < new[0]['iter']] + new
