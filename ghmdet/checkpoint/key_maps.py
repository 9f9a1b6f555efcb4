"""Names of weights in checkpoints of other projects, and the names of the same weights here.

docs/use/checkpoints.md has the names and classes of torchvision's RetinaNet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

Weights = dict[str, Any]

HEAD_CLS, HEAD_REG = 'bbox_head.retina_cls', 'bbox_head.retina_reg'

_WRAPPERS = re.compile(r'^((module|_orig_mod)\.)+')
_BACKBONE, _BODY = 'backbone.', 'backbone.body.'
_TOWER = 'head.classification_head.'
_EXTRA = re.compile(r'backbone\.fpn\.extra_blocks\.p([67])\.(.+)')
_LAYER = re.compile(r'backbone\.fpn\.layer_blocks\.(\d+)\.')
# (pattern with the block's index and the rest, the name of the block here)
_BLOCKS = (
    (re.compile(r'backbone\.fpn\.inner_blocks\.(\d+)\.(.+)'), 'neck.lateral_convs'),
    (re.compile(r'backbone\.fpn\.layer_blocks\.(\d+)\.(.+)'), 'neck.fpn_convs'),
    (re.compile(r'head\.classification_head\.conv\.(\d+)\.(.+)'), 'bbox_head.cls_convs'),
    (re.compile(r'head\.regression_head\.conv\.(\d+)\.(.+)'), 'bbox_head.reg_convs'),
)
_RENAMED = {
    _BODY: _BACKBONE,
    'head.classification_head.cls_logits.': f'{HEAD_CLS}.',
    'head.regression_head.bbox_reg.': f'{HEAD_REG}.',
}
_COCO_IDS: tuple[str, ...] = tuple(RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta['categories'])


class Translated(NamedTuple):
    """A state dict with the names of this project."""

    weights: Weights
    classes: tuple[str, ...] | None = None  # that follow from the number of classes, if known
    notes: list[str] = []  # which classes were taken
    warnings: list[str] = []  # settings with which the model differs from that of the file


def translate(weights: Mapping[str, Any], model: nn.Module, own: Mapping[str, Any]) -> Translated:
    """Rename weights of other projects to the names of a model, whose state dict is `own`."""
    translated = Translated(dict(weights))
    if any(key.startswith(_BODY) for key in weights):
        translated = _from_torchvision(weights, model, own)
    return translated._replace(weights=_move_backbone(translated.weights, own))


def strip_wrappers(weights: Mapping[str, Any], own: Mapping[str, Any]) -> Weights:
    """Remove the prefixes of DistributedDataParallel, torch.compile, and of a module around all.

    The last is whatever most names begin with, as `model.` in files of Lightning, if the model has
    more than half of its names after it.
    """
    stripped = {
        key if key in own else _WRAPPERS.sub('', key): (
            value.detach() if isinstance(value, Tensor) else value
        )
        for key, value in weights.items()
    }
    prefixes = Counter(_outer_names(key, own) for key in stripped)
    del prefixes[None]
    prefix, count = max(prefixes.items(), key=lambda item: item[1], default=('', 0))
    if not prefix or 2 * count <= len(own):
        return stripped
    return {key.removeprefix(prefix): value for key, value in stripped.items()}


def _outer_names(key: str, own: Mapping[str, Any]) -> str | None:
    """What stands before a name of the model, or of torchvision's; None if there is no such."""
    names = key.split('.')
    for depth in range(min(3, len(names))):
        rest = '.'.join(names[depth:])
        if rest in own or f'{_BACKBONE}{rest}' in own or rest.startswith((_BODY, _TOWER)):
            return key.removesuffix(rest)
    return None


def channels_per_anchor(weights: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the number of anchors per cell and of classes of a head, None if there is no head."""
    logits, deltas = (weights.get(f'{name}.weight') for name in (HEAD_CLS, HEAD_REG))
    if not isinstance(logits, Tensor) or not isinstance(deltas, Tensor):
        return None
    anchors = len(deltas) // 4
    if anchors < 1 or len(deltas) % 4 or len(logits) % anchors:
        return None
    return anchors, len(logits) // anchors


def _from_torchvision(
    weights: Mapping[str, Any], model: nn.Module, own: Mapping[str, Any]
) -> Translated:
    if not any(key.startswith(_TOWER) for key in weights):  # Faster R-CNN, say: another neck
        return Translated({key.replace(_BODY, _BACKBONE): weights[key] for key in weights})
    levels = len({match[1] for match in map(_LAYER.match, weights) if match})
    renamed = {_rename(key, weights, levels): value for key, value in weights.items()}
    translated = Translated(renamed, warnings=_neck_differences(renamed, model, levels))
    in_file, in_model = channels_per_anchor(renamed), channels_per_anchor(own)
    if in_file is None or in_model is None:
        return translated
    if in_file[1] == in_model[1] == len(_COCO_IDS):
        return translated._replace(classes=_COCO_IDS)
    if in_file[1] == len(_COCO_IDS):
        rows = [i for i, name in enumerate(_COCO_IDS) if name not in ('__background__', 'N/A')]
        classes = tuple(_COCO_IDS[i] for i in rows)
        note = f'of its 91 classes the {len(rows)} that COCO uses, in the order of their ids'
    elif in_file[1] == in_model[1] + 1:
        rows, classes = list(range(1, in_file[1])), None
        note = f"of its {in_file[1]} classes all but the first, torchvision's background"
    else:
        return translated
    for key in (f'{HEAD_CLS}.weight', f'{HEAD_CLS}.bias'):  # channel = anchor * classes + class
        renamed[key] = renamed[key].unflatten(0, in_file)[:, rows].flatten(0, 1)
    return translated._replace(classes=classes, notes=[note])


def _rename(key: str, weights: Mapping[str, Any], levels: int) -> str:
    for old, new in _RENAMED.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    if extra := _EXTRA.fullmatch(key):
        return f'neck.fpn_convs.{levels + int(extra[1]) - 6}.conv.{extra[2]}'
    for pattern, block in _BLOCKS:
        if match := pattern.fullmatch(key):
            index, rest = int(match[1]), match[2]
            if rest.startswith('0.'):
                return f'{block}.{index}.conv.{rest[2:]}'
            if rest.startswith('1.'):
                statistics = f'{key.removesuffix(rest)}1.running_mean'
                return f'{block}.{index}.{"bn" if statistics in weights else "gn"}.{rest[2:]}'
            # In older files convolutions and ReLUs of a tower alternate.
            return f'{block}.{index // 2 if "head." in key else index}.conv.{rest}'
    return key


def _neck_differences(weights: Weights, model: nn.Module, levels: int) -> list[str]:
    """Settings of torchvision's extra levels that cannot be seen in the shapes."""
    neck = getattr(model, 'neck', None)
    first_extra, output = (weights.get(f'neck.fpn_convs.{i}.conv.weight') for i in (levels, 0))
    if first_extra is None or output is None or not hasattr(neck, 'relu_before_extra_convs'):
        return []
    # The rule of torchvision's LastLevelP6P7.
    source = 'on_output' if first_extra.size(1) == output.size(0) else 'on_input'
    wanted = dict(add_extra_convs=source, relu_before_extra_convs=True)
    wrong = {key: value for key, value in wanted.items() if getattr(neck, key) != value}
    if not wrong:
        return []
    settings = ' '.join(f'model.neck.{key}={value}' for key, value in wrong.items())
    return [f'the file is of a model with {settings}, but the config has other settings']


def _move_backbone(weights: Weights, own: Mapping[str, Any]) -> Weights:
    """Add the prefix of the backbone if only the model is a detector; if only the file, remove."""
    if all(any(key.startswith(_BACKBONE) for key in names) for names in (weights, own)):
        return weights
    moved = {}
    for key, value in weights.items():
        names = (key, _BACKBONE + key, key.removeprefix(_BACKBONE))
        moved[next((name for name in names if name in own), key)] = value
    return moved
