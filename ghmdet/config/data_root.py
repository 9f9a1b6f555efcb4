"""The folder of the data: `--data-root`, or GHMDET_DATA_ROOT in the environment."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from ghmdet.argument_checks import check_dataset_arguments
from ghmdet.config.errors import ConfigError
from ghmdet.config.parts import nodes_in, value_at

DATA_ROOT_VARIABLE = 'GHMDET_DATA_ROOT'
_PATHS = {'data_root', 'data_prefix'}
_SPLITS = ('train', 'val', 'test')
_EVALUATOR_FILE = re.compile(r'(train|val|test)_evaluator\.(\d+\.)?ann_file')


def relocate_data(cfg: Config, root: str) -> dict[str, Any]:
    """Return what must change for all data of a config to lie below `root`, by dotted key.

    That is `data_root` of every dataset, also of those inside others, and every `ann_file` and
    `data_prefix` of a dataset or an evaluator that begins with the old root, which is the
    `data_root` of the datasets or, where they have none, of the config. A ConfigError if the
    datasets have several roots, or a path would stay outside of the new one.
    """
    root = posixpath.join(os.path.expanduser(root), '')
    values = cfg.to_dict()
    datasets = dict(find_datasets(values))
    if not datasets:
        raise ConfigError(
            f'--data-root {root} (or {DATA_ROOT_VARIABLE}): there is no dataset in the config'
        )
    for key, dataset in datasets.items():
        paths = {name: dataset[name] for name in _PATHS & dataset.keys()}
        check_dataset_arguments(paths, f'{key}.')
    old = _old_root(values, datasets)
    changes: dict[str, Any] = {}
    outside: dict[str, str] = {}
    for key, dataset in datasets.items():
        changes[f'{key}.data_root'] = root
        prefixes = dict(dataset.get('data_prefix') or {})
        paths = {f'data_prefix.{name}': path for name, path in prefixes.items()}
        for name, path in {'ann_file': dataset.get('ann_file'), **paths}.items():
            if not isinstance(path, str) or not path:
                continue
            # A path below the root is relative to it, unless the config has put the two together.
            inner = _relative(path, old)
            moved = path if inner is None else inner
            if moved != path:
                changes[f'{key}.{name}'] = moved
            if _relative(os.path.join(root, moved), root) is None or '://' in moved:
                outside[f'{key}.{name}'] = path
    for key, path in nodes_in(values):
        if not (_EVALUATOR_FILE.fullmatch(key) and isinstance(path, str) and path):
            continue
        inner = _relative(path, old)
        if inner is not None:
            changes[key] = root + inner
        elif _relative(path, root) is None:
            outside[key] = path
    if outside:
        raise ConfigError(
            f'--data-root {root} (or {DATA_ROOT_VARIABLE}) does not apply to '
            f'{_list_settings(outside)}: not below the data_root of the datasets, {old!r}. Set '
            'each path with --cfg-options KEY=VALUE instead'
        )
    if isinstance(values.get('data_root'), str):
        changes['data_root'] = root
    return changes


def _old_root(values: Mapping[str, Any], datasets: Mapping[str, Mapping[str, Any]]) -> str:
    found = {f'{key}.data_root': part.get('data_root') for key, part in datasets.items()}
    roots = {key: root for key, root in found.items() if root}
    if len({posixpath.join(root, '') for root in roots.values()}) > 1:
        raise ConfigError(
            f'--data-root (or {DATA_ROOT_VARIABLE}) needs all data below one folder, but there are '
            f'several: {_list_settings(roots)}. Set each with --cfg-options KEY=VALUE instead'
        )
    old = next(iter(roots.values()), None) or values.get('data_root')
    return posixpath.join(old, '') if isinstance(old, str) else ''


def find_datasets(values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield dotted key and config of each dataset that reads files."""
    keys = [f'{split}_dataloader.dataset' for split in _SPLITS]
    while keys:
        key = keys.pop(0)
        dataset = value_at(values, key)
        inner = dataset.get('datasets') if isinstance(dataset, Mapping) else None
        if isinstance(value_at(dataset, 'dataset'), Mapping):
            keys.insert(0, f'{key}.dataset')
        elif isinstance(inner, list | tuple):
            keys[:0] = [f'{key}.datasets.{number}' for number in range(len(inner))]
        elif isinstance(dataset, Mapping):
            yield key, dataset


def _list_settings(settings: Mapping[str, str]) -> str:
    return ', '.join(f'{key}={value!r}' for key, value in settings.items())


def _relative(path: str, root: str) -> str | None:
    """The path as seen from a folder, None if it does not lie below it."""
    relative = os.path.relpath(path, root) if root else os.pardir
    return None if relative.split(os.sep)[0] == os.pardir else relative
