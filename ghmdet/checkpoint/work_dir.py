"""One training at a time in a work dir, and who it is.

The first process of a training holds a POSIX record lock on `training.lock` in its work dir till
it ends. The kernel frees it then, however the process ends, and the workers that it forked do not
inherit it; so the file may stay behind. Its text says who holds the lock, or held it last.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = 'training.lock'

_PATIENCE = 2.0  # seconds: a process that was killed may still be giving its memory back
# Descriptors of the locks that this process holds. Nothing else here may open these files: when a
# process closes any descriptor of a file, the kernel frees its record locks on it.
_held: list[int] = []
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_held.clear)


class WorkDirError(RuntimeError):
    """A work dir that cannot be used; the message names it and says what to do."""


@dataclass
class Record:
    """What a training says of itself in the lock file."""

    host: str = ''
    pid: int = 0
    started: str = ''
    command: str = ''
    agents: list[str] = field(default_factory=list)
    """Those of torchrun that started its processes, see `find_agent`."""
    earlier: dict[str, int] = field(default_factory=dict)
    """Checkpoints that were there when torchrun started the job: path to time of writing in ns."""


def own_record() -> Record:
    """Return what this process has to say."""
    command = shlex.join([sys.executable, *sys.argv])
    return Record(socket.gethostname(), os.getpid(), time.strftime('%Y-%m-%d %H:%M:%S'), command)


def find_agent() -> str | None:
    """Tell one torchrun from every other, also of an earlier or later one on the same machine.

    It gives its processes, the restarted ones too, a folder made for this one job. Neither the job
    id, which a user may repeat, nor TORCHELASTIC_RESTART_COUNT says as much: where the processes of
    another machine failed, the count stays as it was.

    Returns:
        None where the process was not started by torchrun.
    """
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return None
    file = os.environ.get('TORCHELASTIC_ERROR_FILE')  # FOLDER/attempt_N/LOCAL_RANK/error.json
    of_job = Path(file).parents[2] if file and len(Path(file).parents) > 3 else os.getppid()
    return f'{socket.gethostname()}: {of_job}'


def hold_work_dir(folder: str) -> None:
    """Hold the lock of a work dir, which is made if need be, till the process ends.

    A process may hold the same one again. Where the file system has no locks, there is a warning.

    Raises:
        WorkDirError: another training holds it, or nothing can be written there.
    """
    file = os.path.join(folder, LOCK_FILE)
    if _own_descriptor(file) is not None:
        return
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


def read_record(folder: str) -> Record:
    """Return what the lock file says; an empty record where there is none."""
    file = os.path.join(folder, LOCK_FILE)
    own = _own_descriptor(file)
    if own is not None:
        return _read(own)
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return Record()
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def write_record(folder: str, record: Record) -> None:
    """Write into the lock file, which this process must hold."""
    descriptor = _own_descriptor(os.path.join(folder, LOCK_FILE))
    if descriptor is None:
        raise WorkDirError(f'{folder} is not held by this process')
    text = json.dumps(asdict(record), indent=1).encode() + b'\n'
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text)  # in one piece: other processes may be reading
    os.ftruncate(descriptor, len(text))


def _own_descriptor(file: str) -> int | None:
    """The descriptor of a lock that this process holds; None also if the file was removed since."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    same = (held for held in _held if os.path.samestat(os.fstat(held), status))
    return next(same, None)


def _try_to_lock(descriptor: int, folder: str) -> bool:
    """Whether the lock was free, or there are no locks."""
    problem = 'this system has no record locks'
    if fcntl is not None:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            problem = f'its file system has no record locks: {error.strerror}'
    print_log(
        f'{os.path.abspath(folder)} cannot be locked ({problem}); do not start another training in '
        'it while this one runs',
        logger='current',
        level=logging.WARNING,
    )
    return True


def _read(descriptor: int) -> Record:
    """The record in a file; what is missing or makes no sense is left empty."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    record = Record()
    found: Any = None
    with suppress(ValueError):
        found = json.loads(os.read(descriptor, os.fstat(descriptor).st_size))
    for each in fields(Record) if isinstance(found, dict) else ():
        value = found.get(each.name)
        if isinstance(value, type(getattr(record, each.name))):
            setattr(record, each.name, value)
    return record


def _refusal(folder: str, holder: Record) -> str:
    who = 'another training (its lock file does not say which)'
    if holder.pid:
        who = (
            f'another training: pid {holder.pid} on {holder.host}, started {holder.started} as '
            f'`{holder.command}`'
        )
    advice = 'give this one another with --work-dir, or stop that one first'
    if os.environ.get('WORLD_SIZE', '1') != '1' and holder.agents == [find_agent()]:
        advice = (
            'it is of the same torchrun, whose processes train together only with --launcher '
            f'pytorch; otherwise {advice}'
        )
    return (
        f'the work dir {os.path.abspath(folder)} is in use by {who}. Two trainings in one work dir '
        f'would overwrite each other: {advice}.'
    )
