"""The runs of a comparison: their settings, where they are, what they gave."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from ghmdet.config.arguments import read_config
from ghmdet.config.cfg_options import merge_options, parse_value
from ghmdet.config.data_root import DATA_ROOT_VARIABLE, find_datasets, relocate_data
from ghmdet.config.errors import ConfigError, name_the_key
from ghmdet.config.parts import nodes_in
from ghmdet.config.unused_keys import find_unused_options
from ghmdet.env import find_commit
from ghmdet.files import explain_look_alike, replacing
from ghmdet.messages import list_items, shorten, type_name
from ghmdet.reports.logs import RunLog, read_log
from ghmdet.version import __version__

TRAIN = Path(__file__).parents[1] / 'train.py'
CONSOLE = 'console.log'
_WARNING = re.compile(r'^\S+ \S+ - \S+ - WARNING - (.*)$', re.MULTILINE)  # a line of a log
_RECORD = 'run.json'
_NOT_METRICS = {'iter', 'epoch', 'time', 'data_time'}
_NAME = re.compile(r'[^/\\\0.~-][^/\\\0]*')  # of a folder


@dataclass
class Settings:
    """Options that have a name: a variant, or with `root` the data."""

    name: str
    options: list[str] = field(default_factory=list)  # key=value
    root: str | None = None


@dataclass
class Run:
    """One training."""

    data: str
    variant: str
    seed: int
    folder: Path
    cfg: Config
    command: list[str]
    state: str = ''
    """'finished', 'failed: <reason>', or '' before the end."""

    def __str__(self) -> str:
        return f'{self.data}, {self.variant}, seed {self.seed}'

    @property
    def shown_command(self) -> str:
        """Return the command as it would be typed in a clone."""
        return shlex.join(['python', 'tools/train.py', *self.command[2:]])

    @property
    def settings(self) -> dict[str, str]:
        """Return the values of the config by dotted key, as texts."""
        nodes = nodes_in(self.cfg.to_dict())
        return {key: repr(value) for key, value in nodes if not isinstance(value, dict | list)}

    def load(self) -> None:
        """Set `state` from the folder; a ValueError if that holds a run of other settings."""
        file = self.folder / _RECORD
        if not file.exists():
            return
        record = json.loads(file.read_text('utf-8'))
        before, now = record['settings'], self.settings
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if changed:
            pairs = (f'{k}: {before.get(k, "-")} there, {now.get(k, "-")} now' for k in changed)
            raise ValueError(
                f'{self.folder} holds a run of other settings ({shorten_all(pairs)}); use '
                'another --out, or another name, or remove the folder'
            )
        self.state = 'finished' if record['finished'] else ''

    def record(self, threads: int, finished: bool = False) -> None:
        """Write `run.json`: settings, and facts on code and machine, of each start of the run."""
        file = self.folder / _RECORD
        self.folder.mkdir(parents=True, exist_ok=True)
        old = json.loads(file.read_text('utf-8')) if file.exists() else {'facts': {}}
        facts = {
            'commit': find_commit() or 'none',
            'ghmdet': __version__,
            'torch': torch.__version__,
            'cpu': _name_processor(),
            'threads': str(threads),
        }
        for key, text in facts.items():
            known = old['facts'].get(key, text).split(' + ')
            # At the end of a run the commit may be another one; the run used that of its start.
            facts[key] = ' + '.join(known if finished else dict.fromkeys([*known, text]))
        facts['command'] = old['facts'].get('command', self.shown_command)
        content = dict(finished=finished, facts=facts, settings=self.settings)
        with replacing(file) as draft:
            draft.write_text(json.dumps(content, indent=1), 'utf-8')

    def finish(self, threads: int) -> None:
        """Set `state` after exit code 0: finished, if the log has the validation of the end."""
        try:
            log = read_log(self.folder)
        except (OSError, ValueError) as error:
            self.state = f'failed: {error}'
            return
        if not log.val or log.val[-1]['iter'] < log.train[-1]['iter']:
            self.state = 'failed: its log has no validation at the end of the training'
            return
        self.state = 'finished'
        self.record(threads, finished=True)

    def progress(self) -> float:
        """Return the share of the iterations that are done and logged."""
        if self.state == 'finished':
            return 1.0
        loop = self.cfg.train_cfg
        try:
            last = read_log(self.folder).train[-1]
        except (OSError, ValueError):  # it has not begun
            return 0.0
        if loop.get('max_iters'):
            return last['iter'] / loop.max_iters
        return max(0.0, last.get('epoch', 0) - 0.5) / loop.max_epochs  # in the middle of an epoch

    def rows(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the run's row of `runs.csv`, and those of `curves.csv`."""
        name = dict(data=self.data, variant=self.variant, seed=self.seed)
        row: dict[str, Any] = dict(name, state=self.state or 'not finished')
        curve = []
        if self.state == 'finished':
            log = read_log(self.folder)
            for record in log.val:
                values = {k: v for k, v in record.items() if k not in _NOT_METRICS}
                curve.append(dict(name, iter=int(record['iter']), **values))
            row |= {k: v for k, v in curve[-1].items() if k != 'iter'}
            row |= _cost(log)
        if (self.folder / _RECORD).exists():
            facts = json.loads((self.folder / _RECORD).read_text('utf-8'))['facts']
            row |= dict(command=self.shown_command) | facts
        return row, curve

    def read_warnings(self) -> list[str]:
        """Return the warnings on the console of the last start, each once."""
        return list(dict.fromkeys(_WARNING.findall(self._read_console())))

    def read_error(self) -> str:
        """Return the error message at the end of the console of a failed run."""
        lines = self._read_console().splitlines()
        errors = [line for line in lines if line.startswith('error: ')] or lines[-1:]
        return errors[-1].removeprefix('error: ') if errors else ''

    def _read_console(self) -> str:
        file = self.folder / CONSOLE
        return file.read_text('utf-8', 'replace') if file.exists() else ''


def shorten_all(texts: Iterator[str]) -> str:
    """List some texts, each of them cut off."""
    return list_items([shorten(text, 100).strip('"\'') for text in texts], 3, '; ')


def _cost(log: RunLog) -> dict[str, float]:
    """Time and memory of the iterations, without validation; a record has a recent mean time."""
    done = minutes = memory = 0.0
    for record in log.train:
        minutes += (record['iter'] - done) * record.get('time', math.nan) / 60
        done = record['iter']
        memory = max(memory, record.get('memory', record.get('peak_memory', 0)))
    return dict(iterations=int(done), minutes=round(minutes, 2), memory_mb=memory)


def _name_processor() -> str:
    info = Path('/proc/cpuinfo')
    text = info.read_text() if info.exists() else ''
    found = re.search(r'^model name\s*: (.*)$', text, re.MULTILINE)
    names = [found[1] if found else platform.processor() or platform.machine()]
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return ', '.join(names)


def plan_runs(
    config: str,
    common: Sequence[str],
    variants: Sequence[Settings],
    data: Sequence[Settings],
    seeds: Sequence[int],
    out: Path,
) -> list[Run]:
    """Return all runs, seed by seed, so that the first pairs are complete early.

    Raises:
        ValueError: a name cannot be a folder's, or stands twice; two variants are equal; a folder
            holds a run of other settings.
        FileNotFoundError: a data folder lacks a file.
        ConfigError: an option has no effect.
    """
    for each in (variants, data):
        names = [settings.name for settings in each]
        for name in names:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f'{name!r} cannot be the name of a folder: use a name without slashes that '
                    'begins with a letter or a digit'
                )
            if names.count(name) > 1:
                raise ValueError(f'{name!r} stands twice; each variant and data needs its own name')
    parts = [(d, v, *_configure(config, common, d, v)) for d in data for v in variants]
    _check_variants_differ(parts)
    runs = []
    for seed in seeds:
        for source, variant, cfg, arguments in parts:
            folder = out / source.name / variant.name / f'seed_{seed}'
            command = [sys.executable, str(TRAIN), config, '--work-dir', str(folder)]
            command += ['--seed', str(seed), '--resume', *arguments]
            runs.append(Run(source.name, variant.name, seed, folder, cfg, command))
            runs[-1].load()
    return runs


def _configure(
    config: str, common: Sequence[str], data: Settings, variant: Settings
) -> tuple[Config, list[str]]:
    """Return the config of a run, and the arguments of train.py that make it."""
    cfg = read_config(config)
    arguments, options = [], [*common]
    root = data.root if data.root is not None else os.environ.get(DATA_ROOT_VARIABLE)
    if root:
        arguments = ['--data-root', root]
        merge_options(cfg, relocate_data(cfg, root))
    if data.root is not None:
        _merge(cfg, common, data, variant)
        options += _place_data(cfg, data)
    options += [*_ask_for_classes(cfg), *data.options, *variant.options]
    _merge(cfg, options, data, variant)
    _check_last_validation(cfg)
    return cfg, [*arguments, '--cfg-options', *options] if options else arguments


def _merge(cfg: Config, options: Sequence[str], data: Settings, variant: Settings) -> None:
    values = dict(_parse(option) for option in options)
    if unused := list(find_unused_options(cfg, values)):
        raise ConfigError(f'{data.name}, {variant.name}: {list_items(unused, 3, "; ")}')
    with name_the_key(cfg, values):
        merge_options(cfg, values)


def _check_last_validation(cfg: Config) -> None:
    """Raise a ConfigError unless the end of the training is validated: that is what is compared."""
    loop = cfg.get('train_cfg') or {}
    end = loop.get('max_iters') or loop.get('max_epochs') or 0
    begin = loop.get('val_begin', 1)
    if not end or not cfg.get('val_evaluator') or begin > end:
        raise ConfigError(
            f'train_cfg has length {end} and val_begin={begin}: the end of the training must be '
            'validated, since that is what is compared; set val_dataloader, val_cfg and '
            'val_evaluator, and a val_begin of at most the length'
        )


def _parse(option: str) -> tuple[str, Any]:
    key, equals, text = option.partition('=')
    if not equals or not key or key != key.strip():
        raise ValueError(f'expected KEY=VALUE without blanks around =, got {option!r}')
    try:
        return key, parse_value(text)
    except ValueError as error:
        raise ValueError(f'{option}: {error}') from None


def _place_data(cfg: Config, data: Settings) -> list[str]:
    """Return the options for the layout annotations/{train,val}.json and images/."""
    options, places = [], set()
    for key, dataset in find_datasets(cfg.to_dict()):
        if type_name(dataset).rpartition('.')[-1] != 'CocoDataset':
            raise ValueError(
                f'--data {data.name}: {key}.type is {type_name(dataset)!r}, not CocoDataset, and '
                'cannot read annotations/train.json; leave --data out to use the data of the config'
            )
        split = 'train' if key.startswith('train') else 'val'
        place = key.partition('.')[0]
        if place in places:
            raise ValueError(
                f'--data {data.name}: {place} of the config joins several datasets; leave --data '
                'out to use these'
            )
        places.add(place)
        for needed in (f'annotations/{split}.json', 'images'):
            path = Path(str(data.root), needed)
            if not path.exists():
                raise FileNotFoundError(
                    f'--data {data.name}: there is no {path}{explain_look_alike(path)}; a data '
                    'folder has annotations/train.json, annotations/val.json and images/'
                )
        options += [f'{key}.ann_file=annotations/{split}.json', f'{key}.data_prefix.img=images/']
        if dataset.get('metainfo'):  # of the config's own data; those of the file are used
            options.append(f"{key}.metainfo={{'_delete_': True}}")
    options += [f'{key}.ann_file=None' for key, metric in _metrics(cfg) if metric.get('ann_file')]
    if options and any('metainfo' in option for option in options):
        options.append('model.bbox_head.num_classes=80')  # which is replaced by the file's number
    return options


def _ask_for_classes(cfg: Config) -> list[str]:
    return [
        f'{key}.classwise=True'
        for key, metric in _metrics(cfg)
        if type_name(metric).rpartition('.')[-1] == 'CocoMetric' and not metric.get('classwise')
    ]


def _metrics(cfg: Config) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for split in ('val', 'test'):
        key = f'{split}_evaluator'
        value = cfg.get(key)
        many = {f'{key}.{i}': v for i, v in enumerate(value)} if isinstance(value, list) else {}
        yield from (many or {key: value or {}}).items()


def _check_variants_differ(parts: Sequence[tuple[Settings, Settings, Config, Any]]) -> None:
    known: dict[tuple[str, str], str] = {}
    for data, variant, cfg, _ in parts:
        key = data.name, repr(cfg.to_dict())
        if key in known:
            raise ValueError(
                f'variants {known[key]!r} and {variant.name!r} have the same settings on '
                f'{data.name}: one of them is enough'
            )
        known[key] = variant.name
