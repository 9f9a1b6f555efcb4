"""Completes class lists, `num_classes` and annotation files in a config, and compares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.fileio import join_path
from mmengine.registry import Registry
from mmengine.runner import CheckpointLoader
from mmengine.utils import is_abs

from ghmdet.checkpoint.key_maps import HEAD_CLS, HEAD_REG, channels_per_anchor, strip_wrappers
from ghmdet.checkpoint.weights import class_names, compare_classes
from ghmdet.coco.classes import (
    COCO_CLASSES,
    FileClasses,
    find_classes,
    read_class_names,
    suggest_name,
)
from ghmdet.coco.reader import read_coco
from ghmdet.config.data_root import find_datasets
from ghmdet.messages import list_items
from ghmdet.registry import DATASETS, METRICS

_INHERITED = 80  # `num_classes` of the shipped base config, which the user need not have chosen
# Names, the kind of their source (config, COCO, checkpoint, file), its name, and the file's roots.
_Choice = tuple[tuple[str, ...], str, str, dict[str, str]]


@dataclass
class _Source:
    """A dataset of the config: the classes given there, and those of its annotation file."""

    key: str
    cfg: ConfigDict
    given: tuple[str, ...] | None
    ann_file: str = ''
    file: FileClasses | None = None

    def read(self) -> None:
        """Read the annotation file, which the dataset then need not read again."""
        self.ann_file = _ann_path(self.cfg)
        with suppress(FileNotFoundError):  # the dataset raises it too, if it is built
            need = not self.cfg.get('test_mode')
            backend = self.cfg.get('backend_args')
            records = read_coco(self.ann_file, backend, need_annotations=need, keep=True)
            self.file = find_classes(records)

    def __str__(self) -> str:
        categories = list_items(self.file.categories, 20) if self.file else ''
        listed = f', categories of {self.ann_file}: {categories or "none"}' if self.file else ''
        return f'{self.key}: metainfo.classes {list_items(self.given or ("none",), 20)}{listed}'


def resolve_classes(cfg: Config, splits: Sequence[str] = ('train', 'val')) -> str | None:
    """Give every `CocoDataset` of a config and the head the same classes, in place.

    docs/judge/test_results.md says which. `model.bbox_head.num_classes` is set with them if it is
    absent or still 80. Datasets of other types are not changed, nor configs for an installed
    MMDetection.

    The annotation files of `splits` are read. With 'train' among them, the other splits must have
    the same classes. Returned is, for the log, what was taken from where, and which of two
    categories of one name counts.

    Raises:
        ValueError: the names, their order or their number disagree. One message names the key of
            each dataset, its classes in the config and the categories of its file.
    """
    if cfg.get('default_scope') == 'mmdet':  # kept by convert_mmdet_config for MMDetection
        return None
    parts = sorted(find_datasets(cfg), key=lambda item: _split(item[0]) not in splits)
    sources = [
        _Source(key, part, _read_class_names(key, part))
        for key, part in parts
        if is_ours(part, DATASETS, 'CocoDataset', 'ImageFolder')
    ]
    for source in sources:
        if _split(source.key) in splits and source.cfg.get('ann_file'):
            source.read()
    chosen = _choose(cfg, sources, splits, others=len(sources) < len(parts))
    notes = [f'{s.ann_file}: {note}' for s in sources if s.file for note in s.file.notes]
    if chosen is None:
        return '. '.join(dict.fromkeys(notes)) or None
    names, kind, _, roots = chosen
    notes += roots.values()
    if 'train' not in splits:
        sources = [source for source in sources if _split(source.key) in splits]
    errors = [error for source in sources for error in _find_errors(source, chosen)]
    head = _head(cfg)
    number = None if head is None or _is_free(head, kind) else head.get('num_classes')
    if isinstance(number, int) and number != len(names):
        errors.append(
            f'model.bbox_head.num_classes is {number}, but there are {len(names)} classes: set '
            f'model.bbox_head.num_classes={len(names)}'
        )
        if roots:
            advice = 'to make it one, list all in metainfo=dict(classes=(...)) of every dataset'
            errors += [*roots.values(), advice]
    if errors:
        listed = '; '.join(map(str, sources))
        raise ValueError(f'the classes do not agree: {"; ".join(errors)}. [{listed}]')
    text = _apply(sources, chosen, head)
    return '. '.join(dict.fromkeys(filter(None, [text, *notes]))) or None


def take_checkpoint_classes(cfg: Config, checkpoint: Mapping[str, Any]) -> None:
    """Give the head as many classes as the checkpoint names and has, where the config names none.

    That is, `model.bbox_head.num_classes` of `cfg` is changed if it is absent or still 80.
    """
    names, head = class_names(checkpoint), _head(cfg)
    given = any(_read_class_names(key, part) for key, part in find_datasets(cfg))
    if not names or head is None or given or not _is_free(head, 'checkpoint'):
        return
    head_weights = {f'{HEAD_CLS}.weight': None, f'{HEAD_REG}.weight': None}
    weights = strip_wrappers(checkpoint.get('state_dict', checkpoint), head_weights)
    shape = channels_per_anchor(weights)
    if shape is not None and shape[1] == len(names):
        head.num_classes = len(names)


def is_ours(part: Mapping[str, Any], registry: Registry, *names: str) -> bool:
    """Whether `type` means one of these classes of ghmdet, not a subclass or another package's."""
    kind = part.get('type')
    if isinstance(kind, str):
        kind = registry.get(kind) if kind in registry else None
    return kind in [registry.get(name) for name in names]


def _split(key: str) -> str:
    return key.partition('_dataloader')[0]


def _ann_path(dataset: Mapping[str, Any]) -> str:
    path, root = dataset.get('ann_file', ''), dataset.get('data_root')
    return join_path(root, path) if root and path and not is_abs(path) else path


def _head(cfg: Config) -> ConfigDict | None:
    model = cfg.get('model') or {}
    return model.get('module', model).get('bbox_head')  # test-time augmentation wraps the model


def _is_free(head: ConfigDict, kind: str) -> bool:
    """Whether nobody has chosen the number of classes."""
    return kind in ('checkpoint', 'file') and head.get('num_classes', _INHERITED) == _INHERITED


def _read_class_names(key: str, dataset: Mapping[str, Any]) -> tuple[str, ...] | None:
    classes = (dataset.get('metainfo') or {}).get('classes')
    return None if classes is None else read_class_names(classes, f'{key}.metainfo.classes')


def _choose(
    cfg: Config, sources: Sequence[_Source], splits: Sequence[str], others: bool
) -> _Choice | None:
    """Choose the classes; `sources` begin with those of `splits`, `others` are of other types."""
    given = next((source for source in sources if source.given), None)
    of_coco: _Choice = COCO_CLASSES, 'COCO', "COCO's 80 classes", {}
    config_first = 'train' in splits or (given and _split(given.key) in splits)
    if sources and not config_first and cfg.get('load_from'):
        names = class_names(CheckpointLoader.load_checkpoint(cfg.load_from, 'meta', 'silent'))
        if names:
            differ = compare_classes(names, COCO_CLASSES)
            return (names, 'checkpoint', cfg.load_from, {}) if differ else of_coco
    if given:
        return given.given or (), 'config', 'metainfo.classes', {}
    files = ((s.file, s.ann_file) for s in sources if s.file and s.file.categories)
    file, path = next(files, (None, ''))
    if file is None or others:  # which may have their own classes
        return None
    if set(COCO_CLASSES) <= set(file.categories):
        return of_coco
    return file.classes, 'file', path, file.roots


def _find_errors(source: _Source, chosen: _Choice) -> list[str]:
    """Compare a dataset and its file with the classes chosen."""
    names, kind, origin, roots = chosen
    errors = []
    labels = 'this list', f'the {origin} of the other datasets'
    if source.given and (difference := compare_classes(source.given, names, labels, exact=True)):
        errors.append(
            f'{source.key}.metainfo.classes: {difference}; every dataset needs the same list in '
            'the same order, since a label is an index into it'
        )
    if source.file is None or (not source.file.categories and source.cfg.get('test_mode')):
        return errors
    known = source.file.categories
    if missing := [name for name in source.given or names if name not in known]:
        hints = list_items((suggest_name(name, known) for name in missing), 10)
        errors.append(
            f'{source.key}: of {origin}, {len(missing)} of {len(names)} are not among the '
            f'categories of {source.ann_file}: {hints}'
        )
    without = {*names, *source.file.unused.intersection(roots)}
    extra = [name for name in source.file.classes if name not in without]
    if extra and kind == 'file':
        errors.append(
            f'{source.key}: the categories {list_items(extra, 10)} of {source.ann_file} are not in '
            f'{origin}, which the classes are taken from; to leave them out, name the classes '
            'in metainfo=dict(classes=(...)) of every dataset, and set num_classes of the head'
        )
    return errors


def _apply(sources: Sequence[_Source], chosen: _Choice, head: Any) -> str | None:
    """Write the classes where the config has none, and describe this for the log."""
    names, kind, origin, _ = chosen
    for source in sources:
        if source.given or kind != 'COCO':
            source.cfg.metainfo = {**(source.cfg.get('metainfo') or {}), 'classes': names}
    without = [source.key for source in sources if not source.given]
    if not without or kind == 'COCO':
        return None
    text = f'{len(names)} classes ({list_items(names, 12)})'
    if kind == 'config':
        return f'{", ".join(without)}: no metainfo.classes, so the {text} of the other datasets'
    text += f' taken from {origin}, since the config names none'
    if head is not None and head.get('num_classes') != len(names):
        text += f'; model.bbox_head.num_classes = {len(names)}'
        head.num_classes = len(names)
    return text


def complete_evaluators(cfg: Config) -> None:
    """Give every `CocoMetric` without `ann_file` the file of its dataloader's `CocoDataset`.

    For subclasses, other datasets, and several datasets in one loader nothing is set: the metric
    then takes the ground truth from the samples.
    """
    if cfg.get('default_scope') == 'mmdet':  # kept by convert_mmdet_config for MMDetection
        return
    for split in ('val', 'test'):
        datasets = [part for key, part in find_datasets(cfg) if key.startswith(f'{split}_')]
        if len(datasets) != 1 or not is_ours(datasets[0], DATASETS, 'CocoDataset'):
            continue
        for metric in list_metrics(cfg, split):
            if is_ours(metric, METRICS, 'CocoMetric') and not metric.get('ann_file'):
                metric.ann_file = _ann_path(datasets[0])
                metric.setdefault('backend_args', datasets[0].get('backend_args'))


def list_metrics(cfg: Config, split: str) -> list[ConfigDict]:
    """Return the configs of the metrics of a split, of which there may be one or a list."""
    evaluator = cfg.get(f'{split}_evaluator')
    several = evaluator if isinstance(evaluator, list | tuple) else [evaluator]
    return [metric for metric in several if isinstance(metric, dict)]
