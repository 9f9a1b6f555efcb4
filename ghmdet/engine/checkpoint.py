"""The one reader of checkpoint files: it never runs code from a file it was not told to trust.

A checkpoint is a pickle, and a pickle may call any function. Files are therefore read with torch's
weights-only reader plus the few classes that mmengine itself writes. A file that asks for anything
else is refused by name; `GHMDET_TRUST_CHECKPOINT=1` in the environment lets it in nevertheless.

`register_loaders` makes mmengine (`load_from`, `resume`, `init_cfg`) use this reader.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

TRUST_VARIABLE = 'GHMDET_TRUST_CHECKPOINT'

_DAMAGE = (
    *(EOFError, RuntimeError, OSError, ValueError, TypeError, AttributeError, AssertionError),
    *(LookupError, ImportError, ArithmeticError, MemoryError, SystemError, struct.error),
)
_ASKED_FOR = re.compile(r'GLOBAL (\S+) (?:was not|whose module)')
_HASHED_NAME = re.compile(r'-([0-9a-f]{8,})\.')
_ADVICE = ('Weights only load failed', 'Please file an issue', 'Check the documentation')
_NUMERIC_KINDS = 'biufc'


class CheckpointError(ValueError):
    """A file that cannot serve as a checkpoint; the message names it and says what to do."""


class _Refused(Exception):
    """The file asks for something that is not on the allow-list."""


def load_checkpoint_file(path: str | os.PathLike[str], map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint, or a bare state dict, from a local file.

    Args:
        path: file written by `torch.save`; `~` is expanded.
        map_location: where the tensors go, as in `torch.load`.

    Returns:
        What was saved: a dict with `state_dict`, or a plain {name: tensor} dict.

    Raises:
        FileNotFoundError: no such file; the message lists the nearest names.
        IsADirectoryError: a folder was given.
        CheckpointError: the file is empty, damaged, no checkpoint, or asks for a class that is
            not allowed and `GHMDET_TRUST_CHECKPOINT=1` is not set.
    """
    file = Path(path).expanduser()
    _check_file(file)
    try:
        checkpoint = _read(file, map_location, weights_only=True)
    except _Refused as refusal:
        if os.environ.get(TRUST_VARIABLE) != '1':
            raise CheckpointError(
                f'{file} was refused: loading it would use {refusal}, and only tensors, plain '
                'Python values, numeric numpy arrays and the log history of mmengine are expected '
                'in a checkpoint. Such a file can run any code on this machine. If you trust '
                f'whoever made it, set {TRUST_VARIABLE}=1 in the environment and run again.'
            ) from None
        print_log(
            f'{file} uses {refusal}; loaded in full because {TRUST_VARIABLE}=1 is set',
            logger='current',
            level=logging.WARNING,
        )
        checkpoint = _read(file, map_location, weights_only=False)
    _check_content(checkpoint, file)
    return checkpoint


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Loader for paths; mmengine passes no `map_location` where it means the CPU."""
    return load_checkpoint_file(filename, map_location or 'cpu')


def load_from_http(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Loader for http(s): download once into torch's hub cache, check the hash, then read.

    The hash is the one in the file's name (`model-0676ba61.pth`), where there is one.
    """
    rank, world_size = get_dist_info()
    if rank == 0:
        path = _download(filename)
    if world_size > 1:
        barrier()  # the first process fills the cache, the others of its node find it full
        path = _download(filename)
    return load_from_local(str(path), map_location)


def load_from_torchvision(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Loader for `torchvision://resnet50`."""
    urls = mmengine_checkpoint.get_torchvision_models()
    return load_from_http(_resolve(filename, urls), map_location)


def load_from_openmmlab(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Loader for `open-mmlab://name`: a URL, or a file below `MMENGINE_HOME`."""
    renamed = mmengine_checkpoint.get_deprecated_model_names()
    scheme, _, name = filename.partition('://')
    urls = mmengine_checkpoint.get_external_models()
    target = _resolve(f'{scheme}://{renamed.get(name, name)}', urls)
    if target.startswith(('http://', 'https://')):
        return load_from_http(target, map_location)
    home = os.environ.get('MMENGINE_HOME', '~/.cache/mmengine')
    return load_from_local(os.path.join(home, target), map_location)


def load_from_mmcls(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Loader for `mmcls://name`: the backbone of a classifier."""
    checkpoint = load_from_http(
        _resolve(filename, mmengine_checkpoint.get_mmcls_models()), map_location
    )
    weights = checkpoint.get('state_dict', checkpoint)
    prefix = 'backbone.'
    backbone = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    return {'state_dict': backbone}


def register_loaders() -> None:
    """Put these loaders in the place of mmengine's."""
    loaders: dict[Callable, str | tuple[str, ...]] = {
        load_from_local: '',
        load_from_http: ('http://', 'https://'),
        load_from_torchvision: ('modelzoo://', 'torchvision://'),
        load_from_openmmlab: ('open-mmlab://', 'openmmlab://'),
        load_from_mmcls: 'mmcls://',
    }
    for loader, prefixes in loaders.items():
        CheckpointLoader.register_scheme(prefixes=prefixes, loader=loader, force=True)


def _read(file: Path, map_location: Any, weights_only: bool) -> Any:
    try:
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(file, map_location=map_location, weights_only=weights_only)
    except (UnpicklingError, *_DAMAGE) as error:
        if weights_only and isinstance(error, UnpicklingError):
            asked_for = _ASKED_FOR.search(str(error))
            raise _Refused(asked_for.group(1) if asked_for else _reason(error)) from None
        raise CheckpointError(
            f'{file} ({file.stat().st_size} bytes) cannot be read ({_reason(error)}). It is '
            'truncated or damaged, as an interrupted save or download leaves it, or another kind '
            'of archive: take an earlier checkpoint or fetch it again.'
        ) from error


def _reason(error: BaseException) -> str:
    """The line of a torch error that says what happened; the rest is advice."""
    # torch 2.6 puts it behind advice, on the same line
    text = str(error).rpartition('WeightsUnpickler error: ')[2]
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if line and not line.startswith(_ADVICE)]
    return (told or [''])[0] or type(error).__name__


def _check_file(file: Path) -> None:
    if file.is_dir():
        raise IsADirectoryError(
            f'expected a checkpoint file, but {file} is a folder; {_neighbours(file, "")}'
        )
    if not file.is_file():
        raise FileNotFoundError(f'no checkpoint {file}; {_neighbours(file.parent, file.name)}')
    with file.open('rb') as stream:
        head = stream.read(16)
    if not head:
        raise CheckpointError(f'{file} is empty (0 bytes): the save or download did not finish.')
    if not head.startswith((b'PK', b'\x80')):  # a zip archive, or a pickle as torch < 1.6 wrote
        raise CheckpointError(
            f'{file} is not a checkpoint: it begins with {head!r}, and torch.save never writes '
            'that. Give the .pth file itself.'
        )


def _neighbours(folder: Path, name: str) -> str:
    if not folder.is_dir():
        return f'there is no folder {folder} either'
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    near = near or [other for other in names if other.endswith(('.pth', '.pt'))][-3:]
    return f'it holds {", ".join(near)}' if near else 'there is no checkpoint in that folder'


def _check_content(checkpoint: Any, file: Path) -> None:
    if not isinstance(checkpoint, Mapping):
        found = f'a {type(checkpoint).__name__}'
    elif 'state_dict' in checkpoint:
        if isinstance(checkpoint['state_dict'], Mapping):
            return
        found = f'a {type(checkpoint["state_dict"]).__name__} under state_dict'
    elif checkpoint and all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        return
    else:
        found = f'the keys {list(checkpoint)[:8]}'
    raise CheckpointError(
        f"{file} is not a checkpoint: expected a dict with 'state_dict' or a plain dict of tensors "
        f'by name, but it holds {found}. If the weights lie deeper, save them as '
        'dict(state_dict=...).'
    )


def _download(url: str) -> Path:
    """Fetch a file into torch's hub cache unless it is there."""
    name = Path(urlparse(url).path).name
    file = Path(torch.hub.get_dir(), 'checkpoints', name)
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    digits = _HASHED_NAME.search(name)
    try:
        torch.hub.download_url_to_file(
            url, str(file), digits and digits.group(1), progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f'cannot download {url} ({error}). Fetch it another way and give its path, or put it '
            f'at {file}.'
        ) from error
    return file


def _resolve(filename: str, urls: Mapping[str, str]) -> str:
    scheme, _, name = filename.partition('://')
    if name not in urls:
        near: Iterable[str] = difflib.get_close_matches(name, urls, n=3)
        raise CheckpointError(
            f'no model {name!r} for {scheme}://; nearest are: {", ".join(near) or "none"}'
        )
    return urls[name]


def _allowed() -> list[Any]:
    """What a checkpoint of mmengine needs beyond torch's own list, as (object, name in the file).

    A name without a dot cannot occur in a pickle. It permits the reader to set the state of such
    an object, while the file itself cannot reach the class and call it.
    """
    pairs: list[tuple[Any, str]] = [
        (HistoryBuffer, 'mmengine.logging.history_buffer.HistoryBuffer'),
        (_statistics_method, 'builtins.getattr'),
        (_new_array, 'numpy.ndarray'),
        (np.ndarray, 'state of an array'),
        (_numeric_dtype, 'numpy.dtype'),
    ]
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):  # numpy 2 and numpy 1
        pairs += [(_new_array, f'{module}._reconstruct'), (_new_scalar, f'{module}.scalar')]
    for code in np.typecodes['All']:
        if np.dtype(code).kind in _NUMERIC_KINDS:
            pairs.append((type(np.dtype(code)), f'state of a dtype {code}'))
    return pairs


def _statistics_method(owner: Any, name: str) -> Callable:
    """The `getattr` of a file: HistoryBuffer saves its four methods by name."""
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise _Refused(f'builtins.getattr({getattr(owner, "__name__", owner)!s}, {name!r})')


def _new_array(*_: Any) -> np.ndarray:
    """An array whose shape, type and data come with its state."""
    return np.empty(0)


def _numeric_dtype(spec: str, *_: Any) -> np.dtype:
    """Numbers only: the flags of an object dtype can be forged to make addresses of raw bytes."""
    if not isinstance(spec, str) or np.dtype(spec).kind not in _NUMERIC_KINDS:
        raise _Refused(f'numpy.dtype({spec!r})')
    return np.dtype(spec, False, True)  # a copy: the state in the file must not reach numpy's own


def _new_scalar(dtype: np.dtype, raw: bytes) -> np.generic:
    return np.frombuffer(raw, dtype, count=1)[0]
