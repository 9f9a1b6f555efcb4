"""Class names of checkpoints, and the rows of the head that belong to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ghmdet.checkpoint.key_maps import HEAD_CLS, Weights, channels_per_anchor
from ghmdet.checkpoint.reader import CheckpointError


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
