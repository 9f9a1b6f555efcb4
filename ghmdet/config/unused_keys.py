"""Keys of a config that nothing reads: found before a run, each with the nearest that is read."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.config import Config

from ghmdet import registry
from ghmdet.config.from_mmdet import sources_of


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TOP_LEVEL_KEYS = _words(
    # What mmengine's Runner reads (a test compares), then what it finds in the config beside.
    'model work_dir train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg '
    'auto_scale_lr optim_wrapper param_scheduler val_evaluator test_evaluator default_hooks '
    'custom_hooks data_preprocessor load_from resume launcher env_cfg log_processor log_level '
    'visualizer default_scope randomness experiment_name '
    'model_wrapper_cfg find_unused_parameters sync_bn compile activation_checkpointing '
    'efficient_conv_bn_eval runner_type strategy custom_imports env_variables '
    # Of ghmdet's and MMDetection's tools.
    'tta_model tta_pipeline'
)
"""Keys at the top of a config that something reads."""

# Read by nothing in MMDetection 3.x either, which has them in some configs.
_HARMLESS = _words('cudnn_benchmark opencv_num_threads mp_start_method')
# Variables of its base files, which stay in a config that was dumped by a run.
_USUAL_VARIABLES = _words(
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
# Taken out of a dict by mmengine or mmcv before the constructor sees it.
_TAKEN_OUT = _words(
    'type constructor paramwise_cfg by_epoch convert_to_iter_based priority requires_grad '
    '_scope_ _delete_'
)
LOADER_KEYS = _words(
    'dataset sampler batch_sampler batch_size num_workers collate_fn pin_memory drop_last timeout '
    'worker_init_fn multiprocessing_context prefetch_factor persistent_workers num_batch_per_epoch '
    'disable_subprocess_warning pin_memory_device in_order'
)
"""Keys of a data loader."""
_MOST_PLACES = 6


def find_unused_keys(cfg: Config) -> Iterator[str]:
    """Yield a sentence for each key of the files of a config that nothing reads.

    Exempt at the top level are names that begin with `_` and names that a file reads, as
    `x = dict(lr=lr)` reads lr; but setting such a name again in a file that inherits is to no
    effect, unless that file reads it too.

    Example:
        >>> list(find_unused_keys(Config(dict(modle=dict(type='RetinaNet')))))
        ["modle={'type': 'RetinaNet'} is read by nothing; nearest: model"]
    """
    values = cfg.to_dict()
    files = [_names_of(source) for source in sources_of(cfg.text)]
    read = set().union(*(names for _, names in files))
    is_dump = not read and 'launcher' in values
    for key, value in values.items():
        if key in TOP_LEVEL_KEYS | _HARMLESS | read or key.startswith('_'):
            continue
        near = nearest(key, TOP_LEVEL_KEYS)
        # The dump of a run's config has lost the code that read its variables.
        if is_dump and (not near or key in _USUAL_VARIABLES or any(_places_of(values, key))):
            continue
        yield f'{key}={_shorten(value)} is read by nothing{_told(near)}'
    for key in values.keys() - TOP_LEVEL_KEYS:
        setters = [i for i, (assigned, _) in enumerate(files) if key in assigned]
        readers = [i for i, (_, names) in enumerate(files) if key in names]
        in_vain = len(setters) > 1 and readers and readers[-1] < setters[-1]
        if in_vain and not any(_places_of(values, key)):
            root = ', or --data-root DIR' if key == 'data_root' else ''
            yield (
                f'{key}={_shorten(values[key])} changes nothing: the base files, which are read '
                f'first, have used the value that they give it. Set the keys that they used it for '
                f'(print_config.py shows them){root}'
            )


def find_unused_options(cfg: Config, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each option of the command line that would change nothing.

    Args:
        cfg: the config before the options are merged.
        options: values by dotted key.
    """
    values = cfg.to_dict()
    for key, value in options.items():
        first, *rest = key.split('.')
        if first in TOP_LEVEL_KEYS or first.startswith('_'):
            yield from _find_unused_part(values, first, rest, f'{key}={_shorten(value)}')
        elif first in values:
            yield _describe_variable(values, first)
        else:
            near = nearest(first, TOP_LEVEL_KEYS | values.keys())
            yield f'{key}={_shorten(value)} is read by nothing{_told(near)}'


def find_unused_parts(cfg: Config) -> Iterator[str]:
    """Yield a sentence for each unknown key of a dict that is read key by key.

    No constructor would refuse these.
    """
    values = cfg.to_dict()
    for place, names in _tables(values).items():
        node: Any = values
        for name in place.split('.'):
            node = node.get(name) if isinstance(node, dict) else None
        known = names.split()
        for key in node.keys() - {*known, *_TAKEN_OUT} if isinstance(node, dict) else ():
            told = _told(nearest(key, known), place) or f'; {place} knows {", ".join(known)}'
            yield f'{place}.{key}={_shorten(node[key])} is read by nothing{told}'


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """The names, at most two, for which `name` may be a typing error; the best first."""
    others = {other.lower(): other for other in names if other != name}
    found = difflib.get_close_matches(name.lower(), others, n=2, cutoff=0.75)
    return [others[near] for near in found]


def parameters_of(part: Any) -> set[str]:
    """Names of the arguments that a function, or the constructor of a class, has itself."""
    try:
        parameters = inspect.signature(part).parameters.values()
    except (TypeError, ValueError):  # of C
        return set()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {each.name for each in parameters if each.kind in kinds} - {'self'}


def _find_unused_part(
    values: dict[str, Any], place: str, names: list[str], option: str
) -> Iterator[str]:
    """Look at the first key of an option that is not in the config yet."""
    node: Any = values.get(place)
    for name in names:
        if isinstance(node, list | tuple):
            node = node[int(name)] if name.isdigit() and int(name) < len(node) else None
        elif isinstance(node, dict) and name in node:
            node = node[name]
        elif isinstance(node, dict) and name not in _TAKEN_OUT and place not in _tables(values):
            accepted = _arguments_of(node, place)
            near = nearest(name, accepted or node)
            if name not in accepted and near:
                yield f'{option}: the config has no {place}.{name}{_told(near, place)}'
            return
        else:
            return
        place += f'.{name}'


def _arguments_of(node: Mapping[str, Any], place: str) -> set[str]:
    """What the part that a dict describes can be given, as far as that can be known."""
    if place in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        return set(LOADER_KEYS)
    kind, accepted = node.get('type'), set()
    for each in vars(registry).values():
        if isinstance(each, registry.Registry) and isinstance(kind, str) and kind in each:
            found = each.get(kind)
            for part in inspect.getmro(found) if inspect.isclass(found) else (found,):
                accepted |= parameters_of(part)  # of its bases too: it may hand arguments on
    return accepted | set(node) if accepted else set()


def _tables(values: Mapping[str, Any]) -> dict[str, str]:
    """Known keys by the dotted key of the dict that they are in."""
    model = values.get('model')
    is_ours = isinstance(model, dict) and _types(model) == ('RetinaNet', 'RetinaHead')
    return _KEYS | _RETINANET_KEYS if is_ours else _KEYS


def _types(model: Mapping[str, Any]) -> tuple[str, ...]:
    parts = [model, model.get('bbox_head')]
    kinds = [part.get('type') if isinstance(part, dict) else None for part in parts]
    return tuple(str(getattr(kind, '__name__', kind)).rpartition('.')[2] for kind in kinds)


def _describe_variable(values: dict[str, Any], name: str) -> str:
    places = list(_places_of(values, name))
    shown = ', '.join(places[:_MOST_PLACES]) + (', ...' if len(places) > _MOST_PLACES else '')
    return (
        f'{name} is a variable of the config files, which are read before --cfg-options: setting '
        f'it changes nothing. Set what it was used for{f": {shown}" if shown else ""}'
    )


def _places_of(values: Mapping[str, Any], name: str) -> Iterator[str]:
    """Where the value of a variable stands, for texts also what begins with it."""
    wanted = values[name]
    if not wanted or isinstance(wanted, int | float):  # too common to tell anything
        return
    nodes = [(key, value) for key, value in values.items() if key in TOP_LEVEL_KEYS]
    while nodes:
        key, node = nodes.pop(0)
        begins = isinstance(node, str) and isinstance(wanted, str) and node.startswith(wanted)
        if begins or (type(node) is type(wanted) and repr(node) == repr(wanted)):
            yield key
        elif isinstance(node, dict):
            nodes += [(f'{key}.{inner}', value) for inner, value in node.items()]
        elif isinstance(node, list | tuple):
            nodes += [(f'{key}.{number}', value) for number, value in enumerate(node)]


def _names_of(source: str) -> tuple[set[str], set[str]]:
    """The names that a file assigns, and those that it reads."""
    read = set(re.findall(r'_base_\.(\w+)', source))
    try:
        tree = ast.parse(source)
    except SyntaxError:  # not Python, e.g. a base in YAML
        return set(), read
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    read |= {node.id for node in names if isinstance(node.ctx, ast.Load)} - {'dict', 'len'}
    return {node.id for node in names if isinstance(node.ctx, ast.Store)}, read


def _told(near: list[str], place: str = '') -> str:
    prefix = f'{place}.' if place else ''
    return f'; nearest: {" or ".join(prefix + name for name in near)}' if near else ''


def _shorten(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f'{text[:limit]}...'
