"""Errors that say where in the config their cause stands.

A constructor knows its arguments, not the place of the dict that they came from. It is found here
afterwards: the calls that build parts from dicts are still in the traceback.
"""

from __future__ import annotations

import inspect
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config

from ghmdet.config.cli import describe
from ghmdet.config.origins import file_name, record_origins
from ghmdet.config.unused_keys import LOADER_KEYS, nearest, parameters_of
from ghmdet.registry import MODELS, UnknownPartError

# Functions of mmengine and mmcv that build a part from the dict they call `cfg`.
_BUILDERS = ('build_from_cfg', 'build_norm_layer', 'build_conv_layer', 'build_activation_layer')
_READERS = ('_file2dict', '_parse_lazy_import', '_is_lazy_import')
# Functions that are called with a dict of the config as their arguments.
_CALLED_WITH = {
    'set_randomness': 'randomness',
    'set_multi_processing': 'env_cfg.mp_cfg',
    'init_dist': 'env_cfg.dist_cfg',
}
# Methods of the Runner, and what of the config each is about.
_SECTIONS = {
    'set_randomness': 'randomness',
    'setup_env': 'env_cfg',
    'build_logger': 'log_level',
    'build_log_processor': 'log_processor',
    'build_visualizer': 'visualizer',
    'build_model': 'model',
    'wrap_model': 'model_wrapper_cfg',
    'register_default_hooks': 'default_hooks',
    'register_custom_hooks': 'custom_hooks',
    'build_train_loop': 'train_cfg',
    'build_val_loop': 'val_cfg',
    'build_test_loop': 'test_cfg',
    'build_optim_wrapper': 'optim_wrapper',
    'build_param_scheduler': 'param_scheduler',
    'scale_lr': 'auto_scale_lr',
}
_SECTIONS_OF_LOOPS = {'build_dataloader': 'dataloader', 'build_evaluator': 'evaluator'}
_UNEXPECTED = re.compile(r"(\w+)\(\) got an unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r'missing \d+ required [\w-]+ arguments?: .+', re.DOTALL)
_OPTIONS = '--cfg-options'


class ConfigError(ValueError):
    """A setting is wrong; the message says which, by its dotted key or its file and line."""


@contextmanager
def name_the_place(cfg: Config, options: Mapping[str, Any]) -> Iterator[None]:
    """Let an error of a constructor name the dotted key of what was to be built.

    Args:
        cfg: the config that is built from.
        options: what of it `--cfg-options` has set, by dotted key.

    Raises:
        ConfigError: in place of an error that was raised while a part was built.

    Example:
        >>> from ghmdet.registry import MODELS
        >>> cfg = Config(dict(model=dict(type='GHMC', binz=3)))
        >>> with name_the_place(cfg, {}):
        ...     MODELS.build(cfg.model)
        Traceback (most recent call last):
        ...
        ghmdet.config.errors.ConfigError: model (GHMC): unexpected keyword argument 'binz'; \
nearest: bins
    """
    try:
        yield
    except Exception as error:
        part = _find_part(error, cfg.to_dict())
        if part is None:
            raise
        raise ConfigError(_tell(error, part, cfg, options)) from error


@contextmanager
def name_the_file() -> Iterator[None]:
    """Let an error in a config file name the file, and the line where there is one.

    Raises:
        ConfigError: in place of an error that was raised while mmengine read a config file.
    """
    try:
        yield
    except Exception as error:
        files = [
            os.path.abspath(frame.f_locals['filename'])
            for frame, _ in traceback.walk_tb(error.__traceback__)
            if frame.f_code.co_name in _READERS
        ]
        if not files and isinstance(error, ImportError) and 'custom modules' in str(error):
            cause = error.__cause__ or error.__context__ or error
            raise ConfigError(
                f'custom_imports: {describe(cause)}; the folder of your package must be in '
                'PYTHONPATH'
            ) from error
        if not files:
            raise
        file = files[-1]
        heirs = [each for each in files if each != file]
        if heirs and not os.path.exists(file):
            raise ConfigError(f'{heirs[-1]}: there is no file {file} for its _base_') from error
        lines = [
            number
            for frame, number in traceback.walk_tb(error.__traceback__)
            if os.path.realpath(frame.f_code.co_filename) == os.path.realpath(file)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
        where = file if line is None else f'{file}, line {line}'
        said = error.msg if isinstance(error, SyntaxError) else describe(error)
        kind = 'SyntaxError: ' if isinstance(error, SyntaxError) else ''
        raise ConfigError(f'{where}: {kind}{said}') from error


@dataclass
class _Part:
    """What was being built."""

    place: str
    """Dotted key."""
    given: dict[str, Any]
    """What stands there, with what the caller has added."""
    kind: str | None = None
    """Name of its class."""
    accepts: set[str] = field(default_factory=set)
    """Names of the arguments that it takes, as far as they are known."""


def _find_part(error: BaseException, values: dict[str, Any]) -> _Part | None:
    """The innermost part that was being built when an error was raised."""
    part: _Part | None = None
    loop = 'train'
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name, local = frame.f_code.co_name, frame.f_locals
        section = _SECTIONS.get(name)
        if name in _SECTIONS_OF_LOOPS:
            section = f'{loop}_{_SECTIONS_OF_LOOPS[name]}'
        if section in ('train_cfg', 'val_cfg', 'test_cfg'):
            loop = section.partition('_')[0]
        if section is not None and section in values:
            accepts = LOADER_KEYS if name == 'build_dataloader' else ()
            part = _Part(section, _as_dict(values[section]), accepts=set(accepts))
        if name in _BUILDERS and isinstance(local.get('cfg'), Mapping):
            given = dict(local['cfg'])
            outer = None if part is None else part.place
            place = _search(given, values, outer) or outer
            kind = getattr(given.get('type'), '__name__', given.get('type'))
            part = _Part(place, given, kind, _arguments_of(local.get('obj_cls'))) if place else part
    called = _UNEXPECTED.search(str(error))
    if called and called[1] in _CALLED_WITH:
        place = _CALLED_WITH[called[1]]
        return _Part(place, _as_dict(_get(values, place)))
    return part


def _as_dict(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _arguments_of(built: Any) -> set[str]:
    """Arguments of a class and its bases, to which it may hand them on, or of a function."""
    if built is None:
        return set()
    classes = inspect.getmro(built) if inspect.isclass(built) else (built,)
    return set().union(*(parameters_of(each) for each in classes))


def _search(given: Mapping[str, Any], values: dict[str, Any], place: str | None) -> str | None:
    """The key of the dict most like `given`: below a place, else below what holds the place."""
    while True:
        node = _get(values, place)
        found = [(_likeness(inner, given), key) for key, inner in _dicts_in(node, place)]
        best = max(found, key=lambda pair: pair[0], default=(0, None))
        if best[0] > 0 or not place:
            return best[1] if best[0] > 0 else None
        place = place.rpartition('.')[0]


def _likeness(node: Mapping[str, Any], given: Mapping[str, Any]) -> int:
    """How many values are the same, 0 for another type."""
    if repr(node.get('type')) != repr(given.get('type')):
        return 0
    return sum(key in given and repr(value) == repr(given[key]) for key, value in node.items())


def _dicts_in(node: Any, key: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The dicts inside, outer ones first."""
    if isinstance(node, dict):
        if key:
            yield key, node
        items = list(node.items())
    else:
        items = list(enumerate(node)) if isinstance(node, list | tuple) else []
    for name, inner in items:
        yield from _dicts_in(inner, f'{key}.{name}' if key else str(name))


def _get(values: Any, place: str | None) -> Any:
    for name in place.split('.') if place else []:
        values = values[int(name)] if isinstance(values, list | tuple) else values.get(name)
    return values


def _tell(error: Exception, part: _Part, cfg: Config, options: Mapping[str, Any]) -> str:
    said = describe(error)
    place = _without_tta(part.place, cfg)
    subject = f'{place} ({part.kind})' if part.kind else place
    if 'Cannot find None in registry' in said and part.kind not in MODELS:  # mmcv, of its layers
        return f'{place}.type: {part.kind} is in no registry'
    if isinstance(error, UnknownPartError):
        return f'{place}.type: {said}'
    if part.kind is None and 'must contain the key "type"' in said:
        return f'{place} needs a `type`, the name of what to build; it has {part.given}'
    unexpected, missing = _UNEXPECTED.search(said), _MISSING.search(said)
    if isinstance(error, TypeError) and unexpected and unexpected[2] in part.given:
        argument = unexpected[2]
        near = nearest(argument, part.accepts)
        told = f'{subject}: unexpected keyword argument {argument!r}'
        advice = _advise_deletion(argument, part.place, bool(near), cfg, options)
        if advice:
            return f'{told}; {advice}'
        if near:
            return f'{told}; nearest: {" or ".join(near)}'
        return f'{told}; it takes {", ".join(sorted(part.accepts))}' if part.accepts else told
    if isinstance(error, TypeError) and missing:
        return f'{subject}: {missing[0]}'
    return said if place in said else f'{subject}: {said}'


def _advise_deletion(
    argument: str,
    place: str,
    may_be_typo: bool,
    cfg: Config,
    options: Mapping[str, Any],
) -> str | None:
    """What to do about an argument that is left over from the base's dict of another type."""
    if not cfg.filename:
        return None
    with record_origins() as record:
        Config.fromfile(cfg.filename)
    record.merge(dict(options), _OPTIONS)
    origins = {key: file for key, _, file in record.list_leaves(cfg, otherwise='')}
    own_type = origins.get(f'{place}.type')
    inner = [
        file
        for key, file in origins.items()
        if key == f'{place}.{argument}' or key.startswith(f'{place}.{argument}.')
    ]
    if not inner or not own_type or inner[0] == own_type:
        return None
    ranks = {_OPTIONS: 2, file_name(cfg.filename): 1}
    higher = ranks.get(own_type, 0) - ranks.get(inner[0], 0)
    if higher < 0 or (higher == 0 and may_be_typo):
        return None
    how = (
        f'add {place}._delete_=True to {_OPTIONS}'
        if own_type == _OPTIONS
        else f'write {place.rpartition(".")[2]}=dict(_delete_=True, type=...) in {own_type}'
    )
    return f'it is left over from {inner[0]}, while the type is from {own_type}: {how}'


def _without_tta(place: str, cfg: Config) -> str:
    """The key as the config has it, without the wrapper that --tta puts around the model."""
    if place.partition('.')[0] == 'model' and 'module' in (cfg.get('model') or {}):
        inner = place.removeprefix('model').removeprefix('.module')
        return f'model{inner}' if '.module' in place else f'tta_model{inner}'
    return place
