"""The one place where the weights of a checkpoint meet a model.

`fit_state_dict` gives foreign weights the names of the model and says what fits; what comes of a
misfit depends on the purpose: training goes on, a resumed run, a test and a prediction do not.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from ghmdet.checkpoint.key_maps import (
    HEAD_CLS,
    Weights,
    channels_per_anchor,
    strip_wrappers,
    translate,
)
from ghmdet.checkpoint.reader import CheckpointError
from ghmdet.models.wrappers import unwrap

Shape = tuple[int, ...]

# What the GHM losses count while training: no weights, and another loss has none.
_LOSS_STATE = re.compile(r'(^|\.)loss_(cls|bbox)\.(edges|acc_sum|acc_share)$')
_LISTED = 6


@dataclass
class LoadReport:
    """What became of a file's tensors; its text is the table for the log."""

    source: str
    """Where the weights come from."""
    loaded: list[str] = field(default_factory=list)
    """Names of the model that the file fills."""
    missing: list[str] = field(default_factory=list)
    """Names of the model that are not in the file."""
    unexpected: list[str] = field(default_factory=list)
    """Names in the file that the model does not have."""
    mismatched: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    """Names whose shapes, in file and model, differ; they are not loaded."""
    missing_parameters: list[str] = field(default_factory=list)
    """Parameters and batch norm statistics among the missing and mismatched."""
    classes: tuple[str, ...] | None = None
    """Class names of the file."""
    num_classes: tuple[int, int] | None = None
    """Classes of the head in file and model, where both have one."""
    notes: list[str] = field(default_factory=list)
    """What else was done."""
    warnings: list[str] = field(default_factory=list)
    """What a user may not have meant."""

    @property
    def same_names(self) -> bool:
        """Whether file and model have the same tensors, all of the same shape."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        """Return one line where all fits, else the table."""
        total = len(self.loaded) + len(self.missing) + len(self.mismatched)
        lines = [f'{self.source}: {len(self.loaded)} of {total} tensors of the model loaded']
        if self.same_names:
            lines[0] += ', none missing, unexpected or skipped for its shape'
        else:
            lines += _row('missing', self.missing)
            lines += _row('unexpected', self.unexpected)
            lines.append(f'  {"skipped for shape":18}{len(self.mismatched):5}')
            for name, shapes in list(self.mismatched.items())[:_LISTED]:
                lines.append(f'    {name}: {shapes[0]} in the file, {shapes[1]} in the model')
            if len(self.mismatched) > _LISTED:
                lines.append(f'    and {len(self.mismatched) - _LISTED} more')
        lines += [f'  {note}' for note in self.notes]
        return '\n'.join(lines + [f'  WARNING: {warning}' for warning in self.warnings])

    def log(self) -> None:
        """Write the text to the log of the first process, as a warning if the model has gaps."""
        incomplete = self.missing_parameters or self.warnings
        print_log(str(self), 'current', logging.WARNING if incomplete else logging.INFO)

    def head_mismatch(self) -> str:
        """Say which class counts differ, '' where they do not."""
        if self.num_classes is None or self.num_classes[0] == self.num_classes[1]:
            return ''
        in_file, in_model = self.num_classes
        return f"the file's head has {in_file} classes, the config's {in_model}"

    def require_complete(self) -> None:
        """Check that the model can make predictions with what was loaded.

        Raises:
            CheckpointError: a parameter or batch norm statistic keeps its initial value.
        """
        if not self.missing_parameters:
            return
        if head := self.head_mismatch():
            advice = (
                f'{head}. Give the config that the file was trained with (its '
                "bbox_head.num_classes and the datasets' metainfo.classes), or train from the file "
                'first: load_from'
            )
        else:
            advice = (
                f'{len(self.missing_parameters)} of the weights would keep their initial values. '
                'Give the config that the file was trained with, or another file'
            )
        raise CheckpointError(
            f'this checkpoint cannot be used for a test or prediction: {advice}.\n{self}'
        )


def fit_state_dict(
    checkpoint: Mapping[str, Any],
    model: nn.Module,
    source: str = 'checkpoint',
    prefix: str | None = None,
    match_classes: Sequence[str] | None = None,
) -> tuple[OrderedDict[str, Any], LoadReport]:
    """Make a model's state dict from a checkpoint; the model itself stays as it is.

    Args:
        checkpoint: a dict with `state_dict`, or a plain {name: tensor}.
        model: detector or part of one, perhaps wrapped (distributed, test-time augmentation).
        source: name of the file, for messages.
        prefix: use only names that begin so, without it, e.g. 'backbone.'.
        match_classes: class names of the model; the head's rows of classes with the same name in
            the file are used, the others keep the model's values. None: the head as a whole.

    Returns:
        The state dict, in which what the file does not fill has the model's values, to be loaded
        strictly into the unwrapped model; and the report.

    Raises:
        CheckpointError: no tensor fits, no name begins with `prefix`, or the classes cannot be
            matched.

    Example:
        >>> import torch
        >>> weights = dict(weight=torch.zeros(2, 3), other=torch.zeros(1))
        >>> fitted, report = fit_state_dict(weights, nn.Linear(3, 2))
        >>> list(fitted), report.loaded, report.missing, report.unexpected
        (['weight', 'bias'], ['weight'], ['bias'], ['other'])
    """
    model = unwrap(model)
    own = model.state_dict()
    given = strip_wrappers(checkpoint.get('state_dict', checkpoint), own)
    if prefix is not None:
        given = _select(given, prefix.removesuffix('.') + '.', source)
    translated = translate(given, model, own)
    given = translated.weights
    report = LoadReport(source, classes=class_names(checkpoint) or translated.classes)
    report.notes += translated.notes
    report.warnings += translated.warnings
    in_file, in_model = channels_per_anchor(given), channels_per_anchor(own)
    if in_file is not None and in_model is not None:
        report.num_classes = (in_file[1], in_model[1])
    if match_classes is not None:
        report.notes.append(copy_matching_rows(given, own, report.classes, match_classes, source))
    fitted = _compare(given, own, report)
    vital = dict(model.named_parameters(remove_duplicate=False))
    report.missing_parameters = [
        name
        for name in (*report.missing, *report.mismatched)
        if name in vital or name.endswith(('running_mean', 'running_var'))
    ]
    if not report.loaded and vital:
        raise CheckpointError(
            f'no tensor of {source} fits the model: the file has {shorten(list(given))}, the '
            f'model {shorten(list(own))}. It is a checkpoint of another model; a part of one is '
            "chosen by init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)."
        )
    return fitted, report


def _select(weights: Mapping[str, Any], prefix: str, source: str) -> dict[str, Any]:
    chosen = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    if not chosen:
        raise CheckpointError(
            f'prefix={prefix!r}: no name in {source} begins so; it has {shorten(list(weights))}'
        )
    return chosen


def _compare(
    given: Mapping[str, Any], own: Mapping[str, Any], report: LoadReport
) -> OrderedDict[str, Any]:
    """Enter into the report what fits, and return a copy of `own` with it."""
    fitted: OrderedDict[str, Any] = OrderedDict(own)
    fitted._metadata = getattr(own, '_metadata', OrderedDict())  # type: ignore[attr-defined]
    loss_state = 0
    for name, value in own.items():
        found = given.get(name)
        if name in given and _shape(found) == _shape(value):
            fitted[name] = found
            report.loaded.append(name)
        elif _LOSS_STATE.search(name):
            loss_state += 1
        elif name.endswith('num_batches_tracked'):
            pass  # FrozenBatchNorm and old files have none, and nothing here depends on it
        elif name in given:
            report.mismatched[name] = (_shape(found), _shape(value))
        else:
            report.missing.append(name)
    extra = [name for name in given if name not in own]
    report.unexpected += [name for name in extra if not _LOSS_STATE.search(name)]
    loss_state += len(extra) - len(report.unexpected)
    if loss_state:
        report.notes.append(f'counts of another loss setting: {loss_state} tensors left alone')
    return fitted


def _shape(value: Any) -> Shape:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _row(title: str, names: Sequence[str]) -> list[str]:
    return [f'  {title:18}{len(names):5}  {shorten(names)}'.rstrip()]


def shorten(names: Sequence[str]) -> str:
    """Return the names, those with the same parent together; many of them by their beginnings."""
    parents: dict[str, list[str]] = {}
    for name in names:
        parent, _, last = name.rpartition('.')
        parents.setdefault(parent, []).append(last)
    if len(parents) <= _LISTED and len(names) <= 4 * _LISTED:
        return ', '.join(
            f'{parent}{"." * bool(parent)}{{{", ".join(lasts)}}}'
            if len(lasts) > 1 and parent
            else ', '.join(f'{parent}{"." * bool(parent)}{last}' for last in lasts)
            for parent, lasts in parents.items()
        )
    for depth in (3, 2, 1):
        groups = Counter('.'.join(name.split('.')[:depth]) for name in names)
        if len(groups) <= _LISTED:
            break
    shown = [f'{group}.* ({n})' if n > 1 else group for group, n in groups.items()]
    rest = len(shown) - _LISTED
    return ', '.join(shown[:_LISTED]) + (f' and {rest} more' if rest > 0 else '')


def class_names(checkpoint: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the class names in a checkpoint's meta, None where it has none.

    They stand under `dataset_meta.classes` (mmengine), `dataset_meta.CLASSES` (its first releases)
    or `CLASSES` (MMDetection 2.x).
    """
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    dataset_meta = meta.get('dataset_meta')
    dataset_meta = dataset_meta if isinstance(dataset_meta, Mapping) else {}
    for place, key in ((dataset_meta, 'classes'), (dataset_meta, 'CLASSES'), (meta, 'CLASSES')):
        names = place.get(key)
        if names:
            return (names,) if isinstance(names, str) else tuple(map(str, names))
    return None


def copy_matching_rows(
    weights: Weights,
    own: Mapping[str, Any],
    in_file: tuple[str, ...] | None,
    wanted: Sequence[str],
    source: str,
) -> str:
    """Turn the head of a file into one for other classes.

    The rows of classes that both have, by name, come from the file, the others from the model.

    Args:
        weights: of the file; its head is replaced.
        own: state dict of the model.
        in_file: class names of the file.
        wanted: class names of the model.
        source: the file, for messages.

    Returns:
        What was copied, for the log.

    Raises:
        CheckpointError: the file does not name its classes, or their number is not its head's.
    """
    there, here = channels_per_anchor(weights), channels_per_anchor(own)
    if there is None or here is None or there[0] != here[0]:
        return 'match_classes: no rows to match, the file has no head with as many anchors per cell'
    if in_file is None:
        raise CheckpointError(
            f'match_classes=True needs the class names of {source}, but its meta has neither '
            'dataset_meta.classes nor CLASSES. Leave match_classes out, or save the names: '
            "checkpoint['meta'] = dict(dataset_meta=dict(classes=(...)))."
        )
    if len(in_file) != there[1]:
        raise CheckpointError(
            f'match_classes=True: the meta of {source} names {len(in_file)} classes, but its head '
            f'has {there[1]}, so it is unknown which row is which class. Correct the names in the '
            'file or leave match_classes out.'
        )
    if len(wanted) != here[1]:
        raise CheckpointError(
            f'match_classes=True: the training dataset has {len(wanted)} classes, but '
            f'model.bbox_head.num_classes is {here[1]}'
        )
    rows = {name: row for row, name in reversed(list(enumerate(in_file)))}
    common = [(place, rows[name]) for place, name in enumerate(wanted) if name in rows]
    places, sources = [place for place, _ in common], [row for _, row in common]
    for key in (f'{HEAD_CLS}.weight', f'{HEAD_CLS}.bias'):
        theirs = weights[key].unflatten(0, there)
        ours = own[key].clone().unflatten(0, here)
        if theirs.shape[2:] != ours.shape[2:]:
            return 'match_classes: no rows to match, the towers of the file have another width'
        ours[:, places] = theirs[:, sources].to(ours)
        weights[key] = ours.flatten(0, 1)
    return _describe([wanted[place] for place in places], wanted)


def _describe(copied: Sequence[str], wanted: Sequence[str]) -> str:
    rest = [name for name in wanted if name not in set(copied)]
    text = f'match_classes: {len(copied)} of {len(wanted)} classes copied from the file'
    text += f' ({list_names(copied)})' if copied else ''
    return f'{text}; not in the file, start anew: {list_names(rest)}' if rest else text


def list_names(names: Sequence[str], limit: int = 12) -> str:
    """Return names with commas between, the end of a long list counted only."""
    rest = len(names) - limit
    return ', '.join(names[:limit]) + (f' and {rest} more' if rest > 0 else '')


def same_names(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two class lists mean the same, see `compare_classes`."""
    return not compare_classes(one, other)


def compare_classes(
    one: Sequence[str],
    other: Sequence[str],
    labels: tuple[str, str] = ('the file', 'the dataset'),
    exact: bool = False,
) -> str:
    """Describe how two class lists differ.

    Args:
        one: class names in the order of the labels.
        other: the list to compare it with.
        labels: what has these lists, for the text.
        exact: False ignores upper case and `_` for a space, since MMDetection 1.x wrote
            `traffic_light`.

    Returns:
        How many classes differ and the first of them, '' if the lists are the same.

    Example:
        >>> compare_classes(['Cat', 'hot_dog'], ['cat', 'hot dog'])
        ''
        >>> compare_classes(['cat'], ['cat', 'dog'])
        "1 of 2 classes differ: number 1 is missing in the file, 'dog' in the dataset"
    """

    def plain(name: str | None) -> str | None:
        return name if exact or name is None else str(name).lower().replace('_', ' ')

    pairs = list(zip_longest(one, other))
    differing = [number for number, (a, b) in enumerate(pairs) if plain(a) != plain(b)]
    if not differing:
        return ''
    here, there = ('missing' if name is None else repr(name) for name in pairs[differing[0]])
    return (
        f'{len(differing)} of {len(pairs)} classes differ: number {differing[0]} is {here} in '
        f'{labels[0]}, {there} in {labels[1]}'
    )
