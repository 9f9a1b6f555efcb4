"""Checkpoints by address: http(s), `torchvision://`, `open-mmlab://`, `mmcls://` and local paths.

A file is downloaded once into torch's hub cache (`TORCH_HOME`), completely or not at all. If its
name ends in digits of a hash (`model-0676ba61.pth`), they are checked each time the file is used.
torch.hub.download_url_to_file is not used: it has no time-out and accepts a truncated file.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import Request, urlopen
from uuid import uuid4

import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.logging import print_log
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from ghmdet.checkpoint.reader import CheckpointError, RefusedError, load_checkpoint_file
from ghmdet.files import publish
from ghmdet.messages import did_you_mean, nearest
from ghmdet.version import __version__

TIMEOUT_VARIABLE = 'GHMDET_DOWNLOAD_TIMEOUT'

_HASH_IN_NAME = re.compile(r'-(?!20\d\d[01]\d[0-3]\d\.)([0-9a-f]{8,64})\.')  # but no date
_MIN_RATE = 1000  # bytes per second
_CHUNK = 1 << 18  # bytes
_STALE = 3600  # seconds; a download in progress writes at least once per time-out


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Loader for local paths; mmengine passes no `map_location` for the CPU."""
    scheme, found, _ = filename.partition('://')
    if found:
        known = ', '.join(filter(None, itertools.chain(*_LOADERS.values())))
        raise CheckpointError(
            f'cannot load {filename}: {scheme}:// is not one of {known}; a local file is given by '
            'its path alone'
        )
    file = Path(filename).expanduser()
    checkpoint = load_checkpoint_file(file, map_location or 'cpu')
    _has_right_hash(
        file, hash_in_name(file.name), 'it was renamed or changed after it was published'
    )
    return checkpoint


def load_from_http(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Loader for http(s): download the file unless it is in the cache, then read it."""
    try:
        file = fetch(filename) if get_dist_info()[0] == 0 else None
    finally:
        barrier()  # then the other processes of this machine find the file in the cache
    file = file or fetch(filename)
    try:
        return load_checkpoint_file(file, map_location or 'cpu')
    except RefusedError:
        raise
    except CheckpointError as error:
        if hash_in_name(file.name):
            raise
        # A web page, or truncated by a server that gave no length: not to be used again.
        file.unlink(missing_ok=True)
        raise CheckpointError(
            f'{error} It came from {filename}; it was deleted, and the next run downloads it again.'
        ) from error


def load_from_zoo(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Loader for the names of mmengine's tables: a URL, or a file below `MMENGINE_HOME`.

    Of a classifier in `mmcls://` it is the backbone.
    """
    scheme, _, name = filename.partition('://')
    if _ZOOS[scheme] == 'external':
        name = mmengine_checkpoint.get_deprecated_model_names().get(name, name)
    urls = getattr(mmengine_checkpoint, f'get_{_ZOOS[scheme]}_models')()
    if name not in urls:
        near = did_you_mean(nearest(name, urls, count=3, cutoff=0.6))
        raise CheckpointError(f'no model {name!r} for {scheme}://{near}')
    if not urls[name].startswith(('http://', 'https://')):
        home = os.environ.get('MMENGINE_HOME', '~/.cache/mmengine')
        return load_from_local(os.path.join(home, urls[name]), map_location)
    checkpoint = load_from_http(urls[name], map_location)
    if scheme == 'mmcls':
        return mmengine_checkpoint._process_mmcls_checkpoint(checkpoint)
    return checkpoint


# By scheme the kind of mmengine's table.
_ZOOS = {'modelzoo': 'torchvision', 'torchvision': 'torchvision'}
_ZOOS |= {'open-mmlab': 'external', 'openmmlab': 'external', 'mmcls': 'mmcls'}
_LOADERS: dict[Callable[..., dict[str, Any]], tuple[str, ...]] = {
    load_from_local: ('',),
    load_from_http: ('http://', 'https://'),
    load_from_zoo: tuple(f'{scheme}://' for scheme in _ZOOS),
}


def register_loaders() -> None:
    """Replace mmengine's loaders (of `load_from`, `resume` and `init_cfg`) by these."""
    for loader, prefixes in _LOADERS.items():
        CheckpointLoader.register_scheme(prefixes=prefixes, loader=loader, force=True)


def fetch(url: str) -> Path:
    """Return the file of a URL in the cache, after downloading it if necessary.

    If the name in the URL has no digits of a hash, the file's name gets digits of the SHA-256 of
    the URL, as many servers have an `epoch_12.pth`.

    Raises:
        CheckpointError: the download failed and left no file; the message says where to put it.
    """
    timeout = _timeout()
    name = Path(urlparse(url).path).name
    if name in ('', '..'):
        raise CheckpointError(f'no file to download: {url} does not end in the name of one')
    digits = hash_in_name(name)
    if not digits:
        address = hashlib.sha256(url.encode()).hexdigest()[:8]
        name = f'{Path(name).stem}.{address}{Path(name).suffix}'
    file = Path(torch.hub.get_dir()).expanduser() / 'checkpoints' / name
    if file.is_file() and _has_right_hash(file, digits, 'it is damaged and downloaded again'):
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _download(url, file, digits, timeout)
    except (OSError, HTTPException, ValueError) as error:
        check = f' (its SHA-256 must begin with {digits})' if digits else ''
        raise CheckpointError(
            f'cannot download {url}: {_reason(error, timeout)}. No partial file is left. To run '
            f'without a download, get {url} by other means and put it at {file}{check}, or give '
            'the path of the file instead of the address.'
        ) from error
    return file


def hash_in_name(name: str) -> str:
    """Digits of the SHA-256 in a file name such as `model-0676ba61.pth`; '' if there are none."""
    found = _HASH_IN_NAME.search(name)
    return found.group(1) if found else ''


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file, in 64 hex digits."""
    with file.open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()


def _has_right_hash(file: Path, digits: str, otherwise: str) -> bool:
    """Whether a file has the hash in its name ('' if there is none); if not, log what it means."""
    if not digits or file_sha256(file).startswith(digits):
        return True
    text = f'{file}: its SHA-256 does not begin with {digits}, as its name says; {otherwise}'
    print_log(text, logger='current', level=logging.WARNING)
    return False


def _download(url: str, file: Path, digits: str, timeout: float) -> None:
    """Download to a temporary name that no other process uses, then rename."""
    for other in file.parent.glob('*.ghmdet.part'):  # of a process that was killed
        with contextlib.suppress(OSError):  # another process may delete it too
            if time.time() - other.stat().st_mtime > _STALE:
                other.unlink()
    draft = file.with_name(f'{file.name}.{uuid4().hex}.ghmdet.part')
    start = time.monotonic()
    try:
        request = Request(url, headers={'User-Agent': f'ghmdet/{__version__}'})
        with urlopen(request, timeout=timeout) as response, draft.open('xb') as stream:
            _check_redirect(url, response.url)
            size, found = _copy(response, stream, url, file, timeout)
        if not found.startswith(digits):
            raise ValueError(
                f'wrong hash: the name says {digits}, but the {size} bytes received have the '
                f'SHA-256 {found[:8]}...'
            )
        publish(draft, file)
    finally:
        draft.unlink(missing_ok=True)
    seconds = time.monotonic() - start
    print_log(f'downloaded {file.name}: {size / 1e6:.1f} MB in {seconds:.1f} s', logger='current')


def _copy(
    response: HTTPResponse, stream: BinaryIO, url: str, file: Path, timeout: float
) -> tuple[int, str]:
    """Copy the response of a server; return its size in bytes and its SHA-256."""
    expected = response.length  # None if the server does not say
    size_text = 'of unknown size' if expected is None else f'{expected / 1e6:.1f} MB'
    print_log(f'downloading {url} ({size_text}) to {file}', logger='current')
    digest, size = hashlib.sha256(), 0
    since, size_then = time.monotonic(), 0
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    # a bar on a terminal, nothing in a log file
    console, disable = Console(stderr=True), not sys.stderr.isatty()
    with Progress(*columns, console=console, disable=disable) as bar:
        task = bar.add_task(file.name, total=expected)
        # read1 returns what has arrived; read waits for a whole chunk, and hides a broken one
        while size != expected and (chunk := response.read1(_CHUNK)):
            stream.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            bar.update(task, advance=len(chunk))
            if (elapsed := time.monotonic() - since) > timeout:
                if size - size_then < _MIN_RATE * elapsed:
                    raise TimeoutError(f'fewer than {_MIN_RATE} bytes per second arrived')
                since, size_then = time.monotonic(), size
    if size == 0 or (expected is not None and size < expected):
        raise ConnectionError(f'the connection ended after {size} bytes of {expected or "a file"}')
    return size, digest.hexdigest()


def _check_redirect(url: str, final_url: str) -> None:
    if not final_url.startswith('https://' if url.startswith('https://') else 'http'):
        raise ValueError(f'it redirects to {final_url}, which is less secure')


def _reason(error: BaseException, timeout: float) -> str:
    if isinstance(error, HTTPError):
        return f'the server answered {error.code} {error.reason}'.splitlines()[0].rstrip('.')
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f'{cause} (the limit is {timeout:g} s; {TIMEOUT_VARIABLE} sets another)'
    if isinstance(cause, socket.gaierror):
        return f'there is no network, or no such host ({cause})'
    if isinstance(cause, IncompleteRead):
        return 'the connection ended before the end of the file'
    return str(cause) or type(cause).__name__


def _timeout() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, '30')
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e6:
            return float(text)
    raise CheckpointError(f'{TIMEOUT_VARIABLE} must be a number of seconds above 0, got {text!r}')
