"""Keys of a config that no code uses, found before a run, each with the nearest that is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from ghmdet.config.data_root import find_datasets
from ghmdet.config.from_mmdet import HARMLESS_KEYS
from ghmdet.config.parts import LOADER_KEYS, TOP_LEVEL_KEYS, arguments_of, nodes_in, value_at, words
from ghmdet.config.sources import names_per_file
from ghmdet.messages import did_you_mean, list_items, nearest, shorten, type_name

# Variables of MMDetection's base files, which stay in a config that was dumped by a run.
_USUAL_VARIABLES = words(
    'dataset_type data_root backend_args file_client_args classes metainfo train_pipeline '
    'test_pipeline val_pipeline vis_backends img_scales base_lr max_epochs norm_cfg'
)
# Of dicts that are read key by key, so that no constructor would refuse another.
_RETINANET_KEYS = {
    'model.train_cfg': 'assigner sampler allowed_border pos_weight debug',
    'model.test_cfg': 'nms_pre min_bbox_size score_thr nms max_per_img',
}
_KEYS = {
    'env_cfg': 'cudnn_benchmark mp_cfg dist_cfg resource_limit',
    'auto_scale_lr': 'enable base_batch_size',
    'custom_imports': 'imports allow_failed_imports',
    'tta_model.tta_cfg': 'nms max_per_img',
    'optim_wrapper.paramwise_cfg': 'custom_keys bias_lr_mult bias_decay_mult norm_decay_mult '
    'dwconv_decay_mult flat_decay_mult dcn_offset_lr_mult bypass_duplicate',
}
# Those of MMDetection's datasets; `classes` and `palette` are used.
_METAINFO_KEYS = (
    'classes palette dataset_type task_name thing_classes stuff_classes classes_supervised'
)
# Taken out of a dict by mmengine or mmcv before the constructor sees it.
_TAKEN_OUT = words(
    'type constructor paramwise_cfg by_epoch convert_to_iter_based priority requires_grad '
    '_scope_ _delete_'
)


def find_unused_keys(cfg: Config) -> Iterator[str]:
    """Yield a sentence for each key at the top of a config's files that is not used.

    Exempt are names that begin with `_` and names that a file reads, as `x = dict(lr=lr)` reads lr;
    but setting such a name again in a file that inherits has no effect, unless that reads it too.
    """
    values = cfg.to_dict()
    files = names_per_file(cfg.text)
    read = set().union(*(names.read for names in files))
    is_dump = not read and 'launcher' in values
    for key, value in values.items():
        if key in TOP_LEVEL_KEYS | HARMLESS_KEYS | read or key.startswith('_'):
            continue
        near = nearest(key, TOP_LEVEL_KEYS)
        # The dump of a run's config has lost the code that read its variables.
        if is_dump and (not near or key in _USUAL_VARIABLES or any(_keys_with(values, key))):
            continue
        yield f'{key}={shorten(value)} is not used{did_you_mean(near)}'
    for key in values.keys() - TOP_LEVEL_KEYS:
        setters = [i for i, names in enumerate(files) if key in names.assigned]
        readers = [i for i, names in enumerate(files) if key in names.read]
        set_too_late = len(setters) > 1 and readers and readers[-1] < setters[-1]
        if set_too_late and not any(_keys_with(values, key)):
            root = ', or --data-root DIR' if key == 'data_root' else ''
            yield (
                f'{key}={shorten(values[key])} has no effect: the base files are read first and '
                f'have used their own value of {key}. Set the keys that it was used for '
                f'(print_config.py shows them){root}'
            )


def find_unused_options(cfg: Config, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each option, by dotted key, that would have no effect in a config."""
    values = cfg.to_dict()
    for key, value in options.items():
        first, *rest = key.split('.')
        if first in TOP_LEVEL_KEYS or first.startswith('_'):
            yield from _find_unused_part(values, first, rest, f'{key}={shorten(value)}')
        elif first in values:
            keys = list_items(_keys_with(values, first), 6)
            yield (
                f'{first} is a variable of the config files, which are read before --cfg-options: '
                f'setting it has no effect. Set what it was used for{keys and f": {keys}"}'
            )
        else:
            near = did_you_mean(nearest(first, TOP_LEVEL_KEYS | values.keys()))
            yield f'{key}={shorten(value)} is not used{near}'


def find_unused_parts(cfg: Config) -> Iterator[str]:
    """Yield a sentence for each unknown key of a dict that no constructor would refuse."""
    values = cfg.to_dict()
    for key, names in _keys_of_dicts(values).items():
        node, known = value_at(values, key), names.split()
        for name in node.keys() - {*known, *_TAKEN_OUT} if isinstance(node, dict) else ():
            near = did_you_mean(nearest(name, known), f'{key}.')
            advice = near or f'; the keys of {key} are {", ".join(known)}'
            yield f'{key}.{name}={shorten(node[name])} is not used{advice}'


def _find_unused_part(values: Any, key: str, names: list[str], option: str) -> Iterator[str]:
    """Check the first key of an option that is not in the config yet."""
    for name in names:
        node = value_at(values, key)
        if isinstance(node, dict) and name not in node:
            if name not in _TAKEN_OUT and key not in _keys_of_dicts(values):
                accepted = _arguments_in(node, key)
                near = nearest(name, accepted or node)
                if name not in accepted and near:
                    yield f'{option}: the config has no {key}.{name}{did_you_mean(near, f"{key}.")}'
            return
        key += f'.{name}'


def _arguments_in(node: Mapping[str, Any], key: str) -> set[str]:
    """What can be set in a dict of the config, as far as that can be known."""
    if key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        return set(LOADER_KEYS)
    accepted = arguments_of(node['type']) if isinstance(node.get('type'), str) else set()
    return accepted | set(node) if accepted else set()


def _keys_of_dicts(values: Mapping[str, Any]) -> dict[str, str]:
    """Known keys by the dotted key of the dict that they are in."""
    kinds = [type_name(value_at(values, key) or '') for key in ('model', 'model.bbox_head')]
    is_ours = [kind.rpartition('.')[2] for kind in kinds] == ['RetinaNet', 'RetinaHead']
    keys = _KEYS | _RETINANET_KEYS if is_ours else dict(_KEYS)
    for key, dataset in find_datasets(values):
        if type_name(dataset).rpartition('.')[2] in ('CocoDataset', 'VOCDataset'):
            keys[f'{key}.metainfo'] = _METAINFO_KEYS
    return keys


def _keys_with(values: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield the dotted keys that have the value of a variable, or a text that begins with it."""
    wanted = values[name]
    if not wanted or isinstance(wanted, int | float):  # found in too many keys to mean anything
        return
    used = nodes_in({key: value for key, value in values.items() if key in TOP_LEVEL_KEYS})
    for key, node in sorted(used, key=lambda item: item[0].count('.')):  # outer ones first
        begins = isinstance(node, str) and isinstance(wanted, str) and node.startswith(wanted)
        if begins or (type(node) is type(wanted) and repr(node) == repr(wanted)):
            yield key
