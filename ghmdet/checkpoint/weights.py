"""Compares the weights of a checkpoint with a model.

`fit_state_dict` renames the weights as the model does and reports what fits.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from ghmdet.checkpoint import key_maps
from ghmdet.checkpoint.key_maps import HEAD_CLS, Weights, channels_per_anchor
from ghmdet.checkpoint.reader import CheckpointError
from ghmdet.messages import list_items
from ghmdet.models.wrappers import unwrap

Shape = tuple[int, ...]

# Running counts of the GHM losses: they are no weights, and other losses have none.
_LOSS_STATE = re.compile(r'(^|\.)loss_(cls|bbox)\.(edges|acc_sum|acc_share)$')
_LISTED = 6


@dataclass
class LoadReport:
    """Which tensors of a file fit a model; as text, a table for the log."""

    source: str  # name of the file
    loaded: list[str] = field(default_factory=list)  # in file and model, with the same shape
    missing: list[str] = field(default_factory=list)  # in the model only
    unexpected: list[str] = field(default_factory=list)  # in the file only
    mismatched: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)  # in file and model
    # parameters and batch norm statistics among the missing and mismatched
    missing_parameters: list[str] = field(default_factory=list)
    classes: tuple[str, ...] | None = None  # class names in the file
    num_classes: tuple[int, int] | None = None  # of the head in file and model, if both have one
    notes: list[str] = field(default_factory=list)  # what else was done
    warnings: list[str] = field(default_factory=list)  # what the user may not have intended

    @property
    def fits_exactly(self) -> bool:
        """Whether file and model have the same tensors, with the same shapes."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        """Return one line if all fits, otherwise a table."""
        total = len(self.loaded) + len(self.missing) + len(self.mismatched)
        lines = [f'{self.source}: {len(self.loaded)} of {total} tensors of the model loaded']
        if self.fits_exactly:
            lines[0] += ', none missing, unexpected or of another shape'
        else:
            for title, names in (('missing', self.missing), ('unexpected', self.unexpected)):
                lines.append(f'  {title:18}{len(names):5}  {shorten_names(names)}'.rstrip())
            lines.append(f'  {"of another shape":18}{len(self.mismatched):5}')
            for name, shapes in list(self.mismatched.items())[:_LISTED]:
                lines.append(f'    {name}: {shapes[0]} in the file, {shapes[1]} in the model')
            if (more := len(self.mismatched) - _LISTED) > 0:
                lines.append(f'    and {more} more')
        lines += [f'  {note}' for note in self.notes]
        return '\n'.join(lines + [f'  WARNING: {warning}' for warning in self.warnings])

    def log(self) -> None:
        """Log the text, as a warning if parameters are missing or there are other warnings."""
        incomplete = self.missing_parameters or self.warnings
        print_log(str(self), 'current', logging.WARNING if incomplete else logging.INFO)

    def head_mismatch(self) -> str:
        """Return a text if the head has another number of classes than the model, else ''."""
        if self.num_classes is None or self.num_classes[0] == self.num_classes[1]:
            return ''
        in_file, in_model = self.num_classes
        return f"the file's head has {in_file} classes, the config's {in_model}"

    def require_complete(self) -> None:
        """Raise a CheckpointError unless all parameters and batch norm statistics were loaded."""
        if not self.missing_parameters:
            return
        problem = f'{len(self.missing_parameters)} of the weights would keep their initial values'
        advice = ', or another file'
        if head := self.head_mismatch():
            problem = head
            advice = (
                " (its bbox_head.num_classes and the datasets' metainfo.classes), or train from "
                'the file first: load_from'
            )
        raise CheckpointError(
            f'this checkpoint cannot be used for a test or prediction: {problem}. Give the config '
            f'that the file was trained with{advice}.\n{self}'
        )


def fit_state_dict(
    checkpoint: Mapping[str, Any],
    model: nn.Module,
    source: str = 'checkpoint',
    prefix: str | None = None,
    match_classes: Sequence[str] | None = None,
) -> tuple[OrderedDict[str, Any], LoadReport]:
    """Make a model's state dict from a checkpoint; the model itself is not changed.

    `checkpoint` is a dict with `state_dict`, or a plain {name: tensor}; `model` a detector or part
    of one, perhaps wrapped (distributed, test-time augmentation). Only names that begin with
    `prefix`, e.g. 'backbone.', are used, without it. If the class names of the model are given by
    `match_classes`, the head's rows of classes with the same name in the file are used, and the
    others keep the model's values.

    Returns:
        The state dict, with the model's own values for all that does not fit, to be loaded strictly
        into the unwrapped model; and the report.

    Raises:
        CheckpointError: no tensor fits, no name begins with `prefix`, or the classes cannot be
            matched.
    """
    model = unwrap(model)
    own = model.state_dict()
    if prefix is not None:
        prefix = f'{prefix.removesuffix(".")}.'
    in_file = {f'{prefix or ""}{name}': value for name, value in own.items()}
    given = key_maps.strip_wrappers(checkpoint.get('state_dict', checkpoint), in_file)
    if prefix is not None:
        names = shorten_names(given)
        given = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
        if not given:
            raise CheckpointError(
                f'prefix={prefix!r}: no name in {source} begins with it; it has {names}'
            )
    translated = key_maps.translate(given, model, own)
    given = translated.weights
    report = LoadReport(source, classes=class_names(checkpoint) or translated.classes)
    report.notes += translated.notes
    report.warnings += translated.warnings
    theirs, ours = channels_per_anchor(given), channels_per_anchor(own)
    if theirs is not None and ours is not None:
        report.num_classes = (theirs[1], ours[1])
    if match_classes is not None:
        report.notes.append(_copy_matching_rows(given, own, report, match_classes))
    fitted = _compare(given, own, report)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    report.missing_parameters = [
        name
        for name in (*report.missing, *report.mismatched)
        if name in parameters or name.endswith(('running_mean', 'running_var'))
    ]
    if not report.loaded and parameters:
        raise CheckpointError(
            f'no tensor of {source} fits the model: the file has {shorten_names(given)}, the '
            f'model {shorten_names(own)}. It is a checkpoint of another model; a part of one is '
            "chosen by init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)."
        )
    return fitted, report


def _compare(
    given: Mapping[str, Any], own: Mapping[str, Any], report: LoadReport
) -> OrderedDict[str, Any]:
    """Fill in the report, and return a copy of `own` with the weights that fit."""
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
            pass  # FrozenBatchNorm and old files have none, and it is not used here
        elif name in given:
            report.mismatched[name] = (_shape(found), _shape(value))
        else:
            report.missing.append(name)
    extra = [name for name in given if name not in own]
    report.unexpected += [name for name in extra if not _LOSS_STATE.search(name)]
    loss_state += len(extra) - len(report.unexpected)
    if loss_state:
        report.notes.append(f'counts of another loss setting: {loss_state} tensors not loaded')
    return fitted


def _shape(value: Any) -> Shape:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def shorten_names(names: Collection[str]) -> str:
    """Return a list of dotted names, those with the same parent together."""
    parents: dict[str, list[str]] = {}
    for name in names:
        parent, _, last = name.rpartition('.')
        parents.setdefault(parent, []).append(last)
    if len(parents) <= _LISTED and len(names) <= 4 * _LISTED:
        together = {parent: ', '.join(lasts) for parent, lasts in parents.items()}
        return ', '.join(
            (f'{parent}.{{{text}}}' if ', ' in text else f'{parent}.{text}') if parent else text
            for parent, text in together.items()
        )
    for depth in (3, 2, 1):
        groups = Counter('.'.join(name.split('.')[:depth]) for name in names)
        if len(groups) <= _LISTED:
            break
    return list_items((f'{g}.* ({n})' if n > 1 else g for g, n in groups.items()), _LISTED)


def class_names(checkpoint: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the class names in a checkpoint's meta, None if it has none."""
    meta = checkpoint.get('meta')
    dataset_meta = meta.get('dataset_meta') if isinstance(meta, Mapping) else None
    # as mmengine, its first releases and MMDetection 2.x write them
    for part, key in ((dataset_meta, 'classes'), (dataset_meta, 'CLASSES'), (meta, 'CLASSES')):
        if isinstance(part, Mapping) and (names := part.get(key)):
            return (names,) if isinstance(names, str) else tuple(map(str, names))
    return None


def _copy_matching_rows(
    weights: Weights, own: Mapping[str, Any], report: LoadReport, wanted: Sequence[str]
) -> str:
    """Replace the head in `weights` by the model's, with the file's rows of classes in both.

    `wanted` are the class names of the model. Returns a text for the log.
    """
    there, here = channels_per_anchor(weights), channels_per_anchor(own)
    if there is None or here is None or there[0] != here[0]:
        return 'match_classes: no rows to match, the file has no head with as many anchors per cell'
    if report.classes is None:
        raise CheckpointError(
            f'match_classes=True needs the class names of {report.source}, but its meta has '
            'neither dataset_meta.classes nor CLASSES. Leave match_classes out, or save the names: '
            "checkpoint['meta'] = dict(dataset_meta=dict(classes=(...)))."
        )
    if len(report.classes) != there[1]:
        raise CheckpointError(
            f'match_classes=True: the meta of {report.source} names {len(report.classes)} classes, '
            f'but its head has {there[1]}, so it is unknown which row is which class. Correct the '
            'names in the file or leave match_classes out.'
        )
    if len(wanted) != here[1]:
        raise CheckpointError(
            f'match_classes=True: the training dataset has {len(wanted)} classes, but '
            f'model.bbox_head.num_classes is {here[1]}'
        )
    targets = [row for row, name in enumerate(wanted) if name in report.classes]
    copied = [wanted[row] for row in targets]
    sources = [report.classes.index(name) for name in copied]
    for key in (f'{HEAD_CLS}.weight', f'{HEAD_CLS}.bias'):
        theirs = weights[key].unflatten(0, there)
        ours = own[key].clone().unflatten(0, here)
        if theirs.shape[2:] != ours.shape[2:]:
            return 'match_classes: no rows to match, the towers of the file have another width'
        ours[:, targets] = theirs[:, sources].to(ours)
        weights[key] = ours.flatten(0, 1)
    text = f'match_classes: {len(copied)} of {len(wanted)} classes copied from the file'
    text += f' ({list_items(copied, 12)})' if copied else ''
    rest = [name for name in wanted if name not in copied]
    return f'{text}; randomly initialised: {list_items(rest, 12)}' if rest else text


def compare_classes(
    one: Sequence[str],
    other: Sequence[str],
    labels: tuple[str, str] = ('the file', 'the dataset'),
    exact: bool = False,
) -> str:
    """Describe how two class lists differ; '' if they do not. `labels` say whose they are.

    Unless `exact`, upper case and `_` for a space are alike: MMDetection 1.x has `traffic_light`.
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
