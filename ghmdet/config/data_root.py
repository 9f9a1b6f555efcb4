"""One switch for the folder of the data: `--data-root`, or GHMDET_DATA_ROOT in the environment."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from ghmdet.config.errors import ConfigError

DATA_ROOT_VARIABLE = 'GHMDET_DATA_ROOT'
_SPLITS = ('train', 'val', 'test')


def relocate_data(cfg: Config, root: str) -> dict[str, Any]:
    """Return what must change in a config for all its data to lie below another folder.

    That is `data_root` of every data set, also inside of others, and every `ann_file` and
    `data_prefix` of a data set or an evaluator that begins with the old root, which is the
    `data_root` of the data sets or, where they have none, of the config.

    Args:
        cfg: left as it is.
        root: the new folder.

    Returns:
        Values by dotted key, for `merge_options`.

    Raises:
        ConfigError: the data sets have several roots, or a path would stay outside of the new one.

    Example:
        >>> dataset = dict(type='CocoDataset', data_root='data/coco/', ann_file='train.json')
        >>> relocate_data(Config(dict(train_dataloader=dict(dataset=dataset))), '/data/pets')
        {'train_dataloader.dataset.data_root': '/data/pets/'}
    """
    root = _with_slash(os.path.expanduser(root))
    values = cfg.to_dict()
    datasets = dict(find_datasets(values))
    if not datasets:
        raise ConfigError(
            f'--data-root {root} (or {DATA_ROOT_VARIABLE}): no data set in the config'
        )
    old = _old_root(values, datasets)
    changes: dict[str, Any] = {}
    outside: dict[str, str] = {}
    for key, dataset in datasets.items():
        changes[f'{key}.data_root'] = root
        for name, path in _paths_of(dataset):
            # A path below the root is relative to it, unless the config has put the two together.
            moved = _move(path, old, '') if _is_below(path, old) else path
            if moved != path:
                changes[f'{key}.{name}'] = moved
            if not _is_below(os.path.join(root, moved), root) or '://' in moved:
                outside[f'{key}.{name}'] = path
    for key, path in _find_evaluator_files(values):
        if _is_below(path, old):
            changes[key] = _move(path, old, root)
        elif not _is_below(path, root):
            outside[key] = path
    if outside:
        listed = ', '.join(f'{key}={path!r}' for key, path in outside.items())
        raise ConfigError(
            f'--data-root {root} (or {DATA_ROOT_VARIABLE}) cannot reach {listed}: not below the '
            f'data_root of the data sets, {old!r}. Set each with --cfg-options KEY=VALUE'
        )
    if isinstance(values.get('data_root'), str):
        changes['data_root'] = root
    return changes


def _old_root(values: Mapping[str, Any], datasets: Mapping[str, Mapping[str, Any]]) -> str:
    roots = {
        key: dataset['data_root'] for key, dataset in datasets.items() if dataset.get('data_root')
    }
    if len({_with_slash(root) for root in roots.values()}) > 1:
        listed = ', '.join(f'{key}.data_root={root!r}' for key, root in roots.items())
        raise ConfigError(
            f'--data-root (or {DATA_ROOT_VARIABLE}) is for data below one folder, but the config '
            f'has several: {listed}. Set each with --cfg-options KEY=VALUE'
        )
    old = next(iter(roots.values()), None) or values.get('data_root')
    return _with_slash(old) if isinstance(old, str) else ''


def find_datasets(values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Dotted key and config of each data set that reads files."""
    for split in _SPLITS:
        loader = values.get(f'{split}_dataloader')
        if isinstance(loader, Mapping) and isinstance(loader.get('dataset'), Mapping):
            yield from _find_inside(f'{split}_dataloader.dataset', loader['dataset'])


def _find_inside(key: str, dataset: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    inner = dataset.get('dataset')
    several = dataset.get('datasets')
    if isinstance(inner, Mapping):
        yield from _find_inside(f'{key}.dataset', inner)
    elif isinstance(several, list | tuple):
        for number, part in enumerate(several):
            if isinstance(part, Mapping):
                yield from _find_inside(f'{key}.datasets.{number}', part)
    else:
        yield key, dataset


def _paths_of(dataset: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    prefixes = dataset.get('data_prefix')
    paths = {f'data_prefix.{name}': path for name, path in dict(prefixes or {}).items()}
    for name, path in {'ann_file': dataset.get('ann_file'), **paths}.items():
        if isinstance(path, str) and path:
            yield name, path


def _find_evaluator_files(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for split in _SPLITS:
        key = f'{split}_evaluator'
        evaluator = values.get(key)
        several = isinstance(evaluator, list | tuple)
        parts = list(evaluator) if isinstance(evaluator, list | tuple) else [evaluator]
        for number, part in enumerate(parts):
            path = part.get('ann_file') if isinstance(part, Mapping) else None
            if isinstance(path, str) and path:
                yield f'{key}.{number}.ann_file' if several else f'{key}.ann_file', path


def _with_slash(path: str) -> str:
    return posixpath.join(path, '')


def _is_below(path: str, root: str) -> bool:
    if not root:
        return False
    path, root = os.path.normpath(path), os.path.normpath(root)
    if root == os.curdir:
        return not os.path.isabs(path) and path.split(os.sep)[0] != os.pardir
    return path == root or path.startswith(root + os.sep)


def _move(path: str, old: str, new: str) -> str:
    return new + os.path.relpath(path, old)
