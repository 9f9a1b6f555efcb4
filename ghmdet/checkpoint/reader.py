"""The reader of all checkpoint files: it runs no code from a file, unless the user trusts it.

A checkpoint is a pickle, and a pickle may call any function. docs/use/checkpoints.md says what is
allowed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import re
import struct
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from safetensors import SafetensorError, safe_open
from torch import nn

from ghmdet.files import explain_look_alike
from ghmdet.messages import nearest

TRUST_VARIABLE = 'GHMDET_TRUST_CHECKPOINT'
SAFETENSORS = '.safetensors'

DAMAGE = (  # what torch.load and others raise for damaged files
    *(EOFError, RuntimeError, OSError, ValueError, TypeError, AttributeError, AssertionError),
    *(LookupError, ImportError, ArithmeticError, MemoryError, SystemError, struct.error),
)
_GLOBAL = re.compile(r'GLOBAL (\S+) (?:was not|whose module)')
_ADVICE = ('Weights only load failed', 'Please file an issue', 'Check the documentation')
_NUMERIC_KINDS = 'biufc'
# Where other programs have the weights; the first that a file has is used.
_NAMES = ('state_dict', 'model', 'model_state_dict', 'model_state', 'net', 'network', 'weights')
# Paths of any system, by the names that Python 3.13 and others give them.
_PATHS = [
    (partial(kind), f'{module}.{prefix}{name}')  # not a class, whose objects may get a state
    for module in ('pathlib', 'pathlib._local')
    for name, kind in (('PosixPath', PurePosixPath), ('WindowsPath', PureWindowsPath))
    for prefix in ('', 'Pure')
]


class CheckpointError(ValueError):
    """A file that cannot be used as a checkpoint; the message names it and says what to do."""


class RefusedError(CheckpointError):
    """A file that was not read because it needs more than a checkpoint may contain."""


class _Refused(Exception):
    """The file needs something that is not on the allow-list."""


def load_checkpoint_file(path: str | os.PathLike[str], map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a file written by `torch.save`, or a `.safetensors` file; `~` in its path is expanded.

    Returns:
        A dict with `state_dict`, or a plain {name: tensor} dict. The `meta` of a safetensors file
        are its texts, with `epoch` and `iter` as numbers; the JSON lists `classes` and `palette`
        (see `tools/model_converters/publish_model.py`) become `meta['dataset_meta']`.

    Raises:
        FileNotFoundError: no such file; the message lists the nearest names.
        IsADirectoryError: a folder was given.
        CheckpointError: the file is empty, damaged, no checkpoint, or needs a class that is not
            allowed and `GHMDET_TRUST_CHECKPOINT=1` is not set (a `RefusedError`).
    """
    file = Path(path).expanduser()
    _check_file(file)
    if file.suffix == SAFETENSORS:
        return _read_safetensors(file, map_location)
    try:
        checkpoint = _read(file, map_location, weights_only=True)
    except _Refused as refusal:
        if os.environ.get(TRUST_VARIABLE) != '1':
            raise RefusedError(
                f'{file} was refused: loading it would use {refusal}, and only tensors, plain '
                'Python values, numeric numpy arrays and the log history of mmengine are expected '
                'in a checkpoint. Such a file can run any code on this machine. If you trust '
                f'whoever made it, set {TRUST_VARIABLE}=1 in the environment and run again.'
            ) from None
        text = f'{file} uses {refusal}; loaded because {TRUST_VARIABLE}=1 is set'
        print_log(text, logger='current', level=logging.WARNING)
        checkpoint = _read(file, map_location, weights_only=False)
    return _find_weights(checkpoint, file)


def _read(file: Path, map_location: Any, weights_only: bool) -> Any:
    try:
        with torch.serialization.safe_globals(_allowed()):
            reader: Any = {} if weights_only else {'pickle_module': _PATH_READER}
            return torch.load(file, map_location=map_location, weights_only=weights_only, **reader)
    except (UnpicklingError, *DAMAGE) as error:
        if weights_only and isinstance(error, UnpicklingError):
            found = _GLOBAL.search(str(error))
            raise _Refused(_python_3_name(found[1]) if found else _reason(error)) from None
        if not weights_only and isinstance(error, ImportError | AttributeError):
            raise CheckpointError(
                f'{file} needs code that is not here ({error}): read it where that can be '
                "imported, and save the weights alone: torch.save(dict(state_dict=...), 'new.pth')"
            ) from error
        raise _unreadable(file, error) from error


def _python_3_name(path: str) -> str:
    """The name in Python 3 of what a pickle may call by its name in Python 2."""
    module, _, name = path.rpartition('.')
    return '.'.join(NAME_MAPPING.get((module, name)) or (IMPORT_MAPPING.get(module, module), name))


def _read_safetensors(file: Path, map_location: Any) -> dict[str, Any]:
    try:
        with safe_open(file, framework='pt') as content:
            texts = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, *DAMAGE) as error:
        raise _unreadable(file, error) from error
    if isinstance(map_location, str | torch.device):
        tensors = {name: tensor.to(map_location) for name, tensor in tensors.items()}
    return dict(state_dict=tensors, meta=_meta_of_texts(texts))


def _meta_of_texts(texts: Mapping[str, str]) -> dict[str, Any]:
    """The `meta` of a checkpoint from the metadata of a safetensors file."""
    meta: dict[str, Any] = dict(texts)
    for name in ('epoch', 'iter'):
        if texts.get(name, '').isdecimal():
            meta[name] = int(texts[name])
    lists = {}
    for name in ('classes', 'palette'):
        with suppress(ValueError, RecursionError):  # another program's text stays as it is
            if isinstance(items := json.loads(texts.get(name, '')), list):
                del meta[name]
                lists[name] = tuple(items) if name == 'classes' else items
    if lists:
        meta['dataset_meta'] = lists
    return meta


def _unreadable(file: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f'{file} ({file.stat().st_size} bytes) cannot be read ({_reason(error)}). It is truncated '
        'or damaged, as an interrupted save or download leaves it, or another kind of file: take '
        'an earlier checkpoint or fetch it again.'
    )


def _reason(error: BaseException) -> str:
    """The line of a torch error that says what happened, without the advice."""
    # torch 2.6 puts it after the advice, on the same line
    text = str(error).rpartition('WeightsUnpickler error: ')[2]
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(_ADVICE)]
    return lines[0] if lines else type(error).__name__


def _check_file(file: Path) -> None:
    if file.is_dir():
        raise IsADirectoryError(
            f'expected a checkpoint file, but {file} is a folder; {_neighbours(file, "")}'
        )
    if not file.is_file():
        near = explain_look_alike(file) or f'; {_neighbours(file.parent, file.name)}'
        raise FileNotFoundError(f'no checkpoint {file}{near}')
    with file.open('rb') as stream:
        head = stream.read(16)
    if not head:
        raise CheckpointError(f'{file} is empty (0 bytes): the save or download did not finish.')
    starts = (b'PK', b'\x80')  # of a zip archive, or of a pickle as torch < 1.6 wrote
    if file.suffix != SAFETENSORS and not head.startswith(starts):
        raise CheckpointError(
            f'{file} is not a checkpoint: it begins with {head!r}, and torch.save never writes '
            'that. Give the .pth file itself (a safetensors file must be called .safetensors).'
        )


def _neighbours(folder: Path, name: str) -> str:
    if not folder.is_dir():
        return f'there is no folder {folder} either'
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    near = nearest(name, names, count=3, cutoff=0.5)
    near = near or [other for other in names if other.endswith(('.pth', '.pt'))][-3:]
    return f'it contains {", ".join(near)}' if near else 'there is no checkpoint in that folder'


def _find_weights(checkpoint: Any, file: Path) -> dict[str, Any]:
    """The checkpoint itself, or one with the weights that it has under another name."""
    if isinstance(checkpoint, nn.Module):
        return dict(state_dict=checkpoint.state_dict())
    if isinstance(checkpoint, Mapping):
        if isinstance(checkpoint.get('state_dict'), Mapping) or _is_state_dict(checkpoint):
            return checkpoint  # type: ignore[return-value]
        found = dict(_state_dicts(checkpoint, ''))
        names = [name for name in _NAMES if name in found] or list(found)
        if names[:1] and (names[0] in _NAMES or len(names) == 1):
            rest = [name for name in found if name != names[0]]
            text = f'{file}: the weights under {names[0]!r} are used'
            print_log(f'{text}, not {", ".join(rest)}' if rest else text, logger='current')
            return dict(state_dict=found[names[0]])
        content = f'the keys {[*checkpoint][:8]}'
        if 'param_groups' in checkpoint:
            content = 'the state of an optimizer'
        if names:
            code = f"import torch; old = torch.load({str(file)!r}, 'cpu', weights_only=False)"
            path = ''.join(f'[{name!r}]' for name in names[0].split('.'))
            content += (
                f', with tensors in {", ".join(names)}. Choose, and save it alone:\n  {code}\n'
                f"  torch.save(dict(state_dict=old{path}), 'weights.pth')"
            )
    else:
        content = f'a {type(checkpoint).__name__}'
    raise CheckpointError(
        f"{file} is not a checkpoint: expected a dict with 'state_dict' or a plain dict of tensors "
        f'by name, but it contains {content}'
    )


def _state_dicts(node: Mapping[Any, Any], key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the state dicts in a file by dotted key, and those of the networks in it."""
    for name, value in node.items() if 'param_groups' not in node else ():
        if isinstance(value, nn.Module):
            yield f'{key}{name}', value.state_dict()
        elif _is_state_dict(value):
            yield f'{key}{name}', value
        elif isinstance(value, Mapping) and key.count('.') < 2:
            yield from _state_dicts(value, f'{key}{name}.')


def _is_state_dict(node: Any) -> bool:
    return (
        isinstance(node, Mapping)
        and bool(node)
        and all(isinstance(name, str) for name in node)
        and all(isinstance(value, torch.Tensor) for value in node.values())
    )


def _allowed() -> list[Any]:
    """What a checkpoint of mmengine needs beyond torch's own list, as (object, name in the file).

    A name without a dot cannot occur in a pickle. It allows the reader to set the state of such an
    object, but the file itself cannot name the class and call it.
    """
    pairs: list[tuple[Any, str]] = [
        (HistoryBuffer, 'mmengine.logging.history_buffer.HistoryBuffer'),
        (_no_scheduler, f'{OneCycleParamScheduler.__module__}.OneCycleParamScheduler'),
        (_known_method, 'builtins.getattr'),
        (_new_array, 'numpy.ndarray'),
        (np.ndarray, 'state of an array'),
        (argparse.Namespace, 'argparse.Namespace'),
        *_PATHS,
        (_numeric_dtype, 'numpy.dtype'),
    ]
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):  # numpy 2 and numpy 1
        pairs += [(_new_array, f'{module}._reconstruct'), (_new_scalar, f'{module}.scalar')]
    for code in np.typecodes['All']:
        if np.dtype(code).kind in _NUMERIC_KINDS:
            pairs.append((type(np.dtype(code)), f'state of a dtype {code}'))
    return pairs


class _PurePathUnpickler(pickle.Unpickler):
    """Reads the paths of any system, which cannot be created on another."""

    def find_class(self, module: str, name: str) -> Any:
        known = {path: kind for kind, path in _PATHS}
        return known.get(f'{module}.{name}') or super().find_class(module, name)


_PATH_READER = SimpleNamespace(
    __name__='pickle',
    Unpickler=_PurePathUnpickler,
    load=lambda f, **k: _PurePathUnpickler(f, **k).load(),
)


def _known_method(owner: Any, name: str) -> Callable:
    """The `getattr` of a file: HistoryBuffer and OneCycleLR save methods of theirs by name."""
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    if owner is _no_scheduler and name in ('_annealing_cos', '_annealing_linear'):
        return getattr(OneCycleParamScheduler, name)
    raise _Refused(f'builtins.getattr({getattr(owner, "__name__", owner)!s}, {name!r})')


def _no_scheduler(*_: Any) -> None:
    """Replaces the class OneCycleParamScheduler, which a file may name but not create."""
    raise _Refused('OneCycleParamScheduler')


_no_scheduler.__name__ = 'OneCycleParamScheduler'  # as in the message


def _new_array(*_: Any) -> np.ndarray:
    """An array; its shape, type and data are in its state."""
    return np.empty(0)


def _numeric_dtype(spec: str, *_: Any) -> np.dtype:
    """Numbers only: with forged flags, an object dtype would use raw bytes as addresses."""
    if not isinstance(spec, str) or np.dtype(spec).kind not in _NUMERIC_KINDS:
        raise _Refused(f'numpy.dtype({spec!r})')
    return np.dtype(spec, False, True)  # a copy: the state in the file must not reach numpy's own


def _new_scalar(dtype: np.dtype, raw: bytes) -> np.generic:
    return np.frombuffer(raw, dtype, count=1)[0]
