"""The lock that allows one training at a time in a work dir.

The process of rank 0 holds a POSIX record lock on `training.lock` in the work dir until it ends.
The kernel then releases the lock, even if the process was killed, and forked workers do not inherit
it; so the file may stay. Its text names the training that holds the lock, or held it last.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = 'training.lock'

_PATIENCE = 2.0  # seconds: a killed process may still be freeing its memory
# Descriptors of the locks that this process holds. Nothing else may open these files: when a
# process closes any descriptor of a file, the kernel releases its record locks on it.
_held: list[int] = []
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_held.clear)


class WorkDirError(RuntimeError):
    """A work dir that cannot be used; the message names it and says what to do."""


def own_record() -> dict[str, Any]:
    """Return the text of a lock file of this process: which training it is."""
    return dict(
        host=socket.gethostname(),
        pid=os.getpid(),
        started=time.strftime('%Y-%m-%d %H:%M:%S'),
        command=shlex.join([sys.executable, *sys.argv]),
        agent=_find_agent(),
    )


def _find_agent() -> str:
    """The folder that torchrun made for this job; '' if it did not start the process.

    TORCHELASTIC_RESTART_COUNT is not enough to recognise a restart: it counts only on the machine
    whose processes failed. And several jobs may have the same TORCHELASTIC_RUN_ID.
    """
    file = os.environ.get('TORCHELASTIC_ERROR_FILE', '')  # FOLDER/attempt_N/LOCAL_RANK/error.json
    return str(Path(file).parents[2]) if len(Path(file).parents) > 3 else ''


def hold_work_dir(folder: str) -> dict[str, Any]:
    """Create a work dir if it does not exist, and lock it until the process ends.

    A process may lock the same one again. If the file system has no locks, a warning is logged.
    Returned is the record of the training that held the lock last, empty if there was none.

    Raises:
        WorkDirError: another training holds the lock, or the folder is not writable.
    """
    file = os.path.join(folder, LOCK_FILE)
    held = _own_descriptor(file)
    if held is not None:
        return _read(held)
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise WorkDirError(
            f'the work dir {os.path.abspath(folder)} cannot be written to ({error.strerror}: '
            f'{error.filename}); choose another with --work-dir or work_dir in the config'
        ) from error
    end = time.monotonic() + _PATIENCE
    while not _try_to_lock(descriptor, folder):
        if time.monotonic() > end:
            holder = _read(descriptor)
            os.close(descriptor)
            raise WorkDirError(_refusal(folder, holder))
        time.sleep(0.1)
    _held.append(descriptor)
    before = _read(descriptor)
    text = json.dumps(own_record(), indent=1).encode() + b'\n'
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text)  # in one call: other processes may read it
    os.ftruncate(descriptor, len(text))
    return before


def _own_descriptor(file: str) -> int | None:
    """The descriptor of a lock that this process holds; None if the file was removed meanwhile."""
    with suppress(OSError):
        status = os.stat(file)
        return next((held for held in _held if os.path.samestat(os.fstat(held), status)), None)
    return None


def _try_to_lock(descriptor: int, folder: str) -> bool:
    """Whether this process has the lock now, or there are no locks."""
    problem = 'this system has no record locks'
    if fcntl is not None:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            problem = f'its file system has no record locks: {error.strerror}'
    text = f'{os.path.abspath(folder)} cannot be locked ({problem}); do not start another training'
    print_log(f'{text} in it while this one runs', logger='current', level=logging.WARNING)
    return True


def _read(descriptor: int) -> dict[str, Any]:
    """The record in a file; an empty dict if it has none."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    found: Any = None
    with suppress(ValueError):
        found = json.loads(os.read(descriptor, os.fstat(descriptor).st_size))
    return found if isinstance(found, dict) else {}


def _refusal(folder: str, holder: Mapping[str, Any]) -> str:
    who = 'another training (the lock file does not say which)'
    if {'pid', 'host', 'started', 'command'} <= holder.keys():
        who = (
            f'another training: pid {holder["pid"]} on {holder["host"]}, started '
            f'{holder["started"]} as `{holder["command"]}`'
        )
    advice = 'give this one another with --work-dir, or stop that one first'
    if holder.get('agent') and holder['agent'] == _find_agent():
        advice = (
            'both were started by the same torchrun, whose processes train together only with '
            f'--launcher pytorch; otherwise {advice}'
        )
    return (
        f'the work dir {os.path.abspath(folder)} is in use by {who}. Two trainings in one work dir '
        f'would overwrite each other: {advice}.'
    )
