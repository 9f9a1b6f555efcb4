"""Errors that name the key, or the file and line, of the config that caused them.

A constructor does not know the key of the dict that its arguments came from. The key is found in
the traceback, which has the calls that build parts from dicts.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.config.utils import ConfigParsingError

from ghmdet.config.cli import describe
from ghmdet.config.origins import file_name, origins_of
from ghmdet.config.parts import LOADER_KEYS, arguments_of, find_mismatches, nodes_in, value_at
from ghmdet.config.sources import BASE_FORM, names_in, read_config_text
from ghmdet.files import explain_look_alike
from ghmdet.messages import did_you_mean, nearest, type_name
from ghmdet.registry import MODELS, UnknownPartError

# Functions of mmengine and mmcv that build a part from the dict they call `cfg`.
_BUILDERS = ('build_from_cfg', 'build_norm_layer', 'build_conv_layer', 'build_activation_layer')
_READERS = ('_file2dict', '_parse_lazy_import', '_is_lazy_import')
# Functions that are called with a dict of the config as their arguments.
_CALLED_WITH = {'set_randomness': 'randomness', 'set_multi_processing': 'env_cfg.mp_cfg'}
# Methods of the Runner, and the key that each reads; `build_model` and others are named after it.
_SECTIONS = {
    'set_randomness': 'randomness',
    'setup_env': 'env_cfg',
    'build_logger': 'log_level',
    'wrap_model': 'model_wrapper_cfg',
    'scale_lr': 'auto_scale_lr',
}
_LOOP = re.compile(r'build_(train|val|test)_loop')
_NAMED_AFTER_KEY = re.compile(r'(?:build|register)_(\w+)')
_UNEXPECTED = re.compile(r"(\w+)\(\) got an unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r'missing \d+ required [\w-]+ arguments?: .+', re.DOTALL)
_OPTIONS = '--cfg-options'


class ConfigError(ValueError):
    """A setting is wrong; the message names its dotted key, or its file and line."""


@contextmanager
def name_the_key(cfg: Config, options: Mapping[str, Any]) -> Iterator[None]:
    """Replace an error of a constructor by a ConfigError with the dotted key of what was built.

    For example `model (GHMC): unexpected keyword argument 'binz'; did you mean bins?`. `options`
    is what `--cfg-options` has set, by dotted key.
    """
    try:
        yield
    except Exception as error:
        part = _find_part(error, cfg.to_dict())
        if part is None:
            raise
        raise ConfigError(_explain(error, part, cfg, options)) from error


@contextmanager
def name_the_file() -> Iterator[None]:
    """Replace an error in a config file by a ConfigError with the file, and the line if known."""
    try:
        yield
    except Exception as error:
        frames = list(traceback.walk_tb(error.__traceback__))
        reading = [frame.f_locals for frame, _ in frames if frame.f_code.co_name in _READERS]
        files = [os.path.abspath(each['filename']) for each in reading]
        if not files and isinstance(error, ImportError) and 'custom modules' in str(error):
            cause = describe(error.__cause__ or error.__context__ or error)
            advice = 'the folder of your package must be in PYTHONPATH'
            raise ConfigError(f'custom_imports: {cause}; {advice}') from error
        if not files:
            raise
        file = files[-1]
        children = [each for each in files if each != file]
        if children and not os.path.exists(file):
            hint = explain_look_alike(file)
            raise ConfigError(f'{children[-1]}: its _base_ {file} does not exist{hint}') from error
        line, message = None, _explain_reading(error, file) or describe(error)
        for frame, number in frames:
            if os.path.realpath(frame.f_code.co_filename) == os.path.realpath(file):
                line = number
        if isinstance(error, SyntaxError):
            line, message = error.lineno, f'SyntaxError: {error.msg}'
        where = file if line is None else f'{file}, line {line}'
        raise ConfigError(f'{where}: {message.removeprefix(f"{file}: ")}') from error


def _explain_reading(error: Exception, file: str) -> str | None:
    """What mmengine cannot read in a config file, and what to do; None for other errors."""
    code = list(traceback.walk_tb(error.__traceback__))[-1][0].f_code
    if code.co_filename == '':  # where it evaluates `_base_` alone
        return f'{BASE_FORM}; it is read before the rest of the file ({describe(error)})'
    if found := re.fullmatch(r"cannot pickle '(?:.*\.)?(\w+)' object", str(error)):
        return f'a variable holds a {found[1]}, which cannot be copied: `del` it after its use'
    is_mixed = 'inheritance chain' in str(error)
    is_lazy = isinstance(error, RuntimeError) and not str(error)  # a call of what is not imported
    if not is_mixed and not is_lazy and not isinstance(error, ConfigParsingError | AttributeError):
        return None
    text = read_config_text(file)
    names = names_in(text)
    if 'read_base' in names.read:
        advice = f'with read_base(): from .{Path(file).stem} import *, not by `_base_`'
        return f'a file with read_base is inherited by {advice}' if is_mixed else None
    if '_base_' not in names.assigned:
        return (
            'imports are not run, and `with` is not allowed, in a file without `_base_`: write '
            '_base_ = [] in its first line, which makes it a plain Python file'
        )
    if 'import' in text.partition('_base_')[0]:
        return '`_base_` must stand above all imports: move it to the first line'
    return "a file with `_base_` is inherited by _base_ = '...', not by read_base"


class _Part(NamedTuple):
    """What was being built."""

    key: str
    given: Mapping[str, Any]  # its dict in the config, with what the caller has added
    kind: str = ''  # name of its class
    accepts: Set[str] = frozenset()  # arguments that it takes, as far as they are known
    built: Any = None  # its class or function


def _find_part(error: BaseException, values: dict[str, Any]) -> _Part | None:
    """The innermost part that was being built when an error was raised."""
    called = _UNEXPECTED.search(str(error))
    if called and called[1] in _CALLED_WITH:
        key = _CALLED_WITH[called[1]]
        return _Part(key, value_at(values, key))
    part: _Part | None = None
    loop = 'train'
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name, local = frame.f_code.co_name, frame.f_locals
        named_after, of_loop = _NAMED_AFTER_KEY.fullmatch(name), _LOOP.fullmatch(name)
        section = _SECTIONS.get(name, named_after and named_after[1])
        if of_loop:
            loop, section = of_loop[1], f'{of_loop[1]}_cfg'
        elif section in ('dataloader', 'evaluator'):
            section = f'{loop}_{section}'
        if section is not None and section in values:
            known = LOADER_KEYS if name == 'build_dataloader' else frozenset()
            given = values[section] if isinstance(values[section], dict) else {}
            part = _Part(section, given, accepts=known)
        if name == '__call__' and hasattr(local.get('self'), 'optimizer_cfg'):  # its constructor
            part = _Part('optim_wrapper.optimizer', local['self'].optimizer_cfg)
        if name in _BUILDERS and isinstance(given := local.get('cfg'), Mapping):
            key = _search(given, values, part.key if part else '')
            if key:
                built = local.get('obj_cls')
                accepts: Set[str] = arguments_of(built) if built else frozenset()
                part = _Part(key, given, type_name(given), accepts, built)
    return part


def _search(given: Mapping[str, Any], values: dict[str, Any], outer: str) -> str:
    """The key of the dict most like `given`: inside `outer`, else inside what holds that."""
    key = outer
    while True:
        nodes = nodes_in(value_at(values, key), key)
        found = {path: node for path, node in nodes if isinstance(node, dict)}
        best = max(found, key=lambda each: _likeness(found[each], given), default='')
        if best and _likeness(found[best], given):
            return best
        if not key:
            return outer
        key = key.rpartition('.')[0]


def _likeness(node: Mapping[str, Any], given: Mapping[str, Any]) -> int:
    """How many values are the same, 0 for another type."""
    if repr(node.get('type')) != repr(given.get('type')):
        return 0
    return sum(key in given and repr(value) == repr(given[key]) for key, value in node.items())


def _explain(error: Exception, part: _Part, cfg: Config, options: Mapping[str, Any]) -> str:
    message = describe(error)
    key = _without_tta(part.key, cfg)
    subject = f'{key} ({part.kind})' if part.kind else key
    if 'Cannot find None in registry' in message and part.kind not in MODELS:  # of mmcv
        return f'{key}.type: {part.kind} is in no registry'
    if isinstance(error, UnknownPartError):
        return f'{key}.type: {message}'
    if not part.kind and 'must contain the key "type"' in message:
        return f'{key} needs a `type`, the name of what to build; it has {part.given}'
    unexpected, missing = _UNEXPECTED.search(message), _MISSING.search(message)
    if isinstance(error, TypeError) and unexpected and unexpected[2] in part.given:
        argument = unexpected[2]
        near = nearest(argument, part.accepts)
        advice = _advise_deletion(argument, part.key, bool(near), cfg, options)
        if not advice and not near and part.accepts:
            advice = f'; it takes {", ".join(sorted(part.accepts))}'
        return f'{subject}: unexpected keyword argument {argument!r}{advice or did_you_mean(near)}'
    if isinstance(error, TypeError) and missing:
        return f'{subject}: {missing[0]}'
    if isinstance(error, TypeError | AttributeError | AssertionError) and part.built:
        for name, expected in find_mismatches(part.built, part.given):
            return f'{key}.{name} must be {expected}, got {part.given[name]!r} ({message})'
    if re.split('[. =]', message)[0] in part.accepts:
        return f'{key}.{message}'
    return message if key in message else f'{subject}: {message}'


def _advise_deletion(
    argument: str, key: str, may_be_typo: bool, cfg: Config, options: Mapping[str, Any]
) -> str:
    """What to do about an argument that is left over from the base's dict of another type."""
    if not cfg.filename:
        return ''
    record = origins_of(cfg)
    record.merge(dict(options), _OPTIONS)
    files = {f'{each}.': file for each, _, file in record.list_leaves(cfg, otherwise='')}
    of_type = files.get(f'{key}.type.', '')
    inherited = (file for each, file in files.items() if each.startswith(f'{key}.{argument}.'))
    of_argument = next(inherited, of_type)
    if not of_type or of_argument == of_type:
        return ''
    ranks = {_OPTIONS: 2, file_name(cfg.filename): 1}
    higher = ranks.get(of_type, 0) - ranks.get(of_argument, 0)
    if higher < 0 or (higher == 0 and may_be_typo):
        return ''
    how = f'write {key.rpartition(".")[2]}=dict(_delete_=True, type=...) in {of_type}'
    if of_type == _OPTIONS:
        how = f'add {key}._delete_=True to {_OPTIONS}'
    return f'; it is inherited from {of_argument}, but the type is set in {of_type}: {how}'


def _without_tta(key: str, cfg: Config) -> str:
    """The key as the config has it, without the wrapper that --tta puts around the model."""
    if key.partition('.')[0] == 'model' and 'module' in (cfg.get('model') or {}):
        inner = key.removeprefix('model').removeprefix('.module')
        return f'model{inner}' if '.module' in key else f'tta_model{inner}'
    return key
