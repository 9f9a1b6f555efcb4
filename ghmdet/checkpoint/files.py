"""The checkpoints of a work dir: which there are, and whether one can be read.

Those that a training can go on from: `epoch_*.pth`, `iter_*.pth` and what CheckpointHook's
`filename_tmpl` calls them, and whatever the pointer file `last_checkpoint` names. `best_*` hold no
optimizer. Saves that did not finish have other names, `.epoch_3.pth.tmp` say.
"""

from __future__ import annotations

import os
import re
import string
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ghmdet.checkpoint.reader import CheckpointError, RefusedError, load_checkpoint_file

POINTER_FILE = 'last_checkpoint'
_LONGEST = 10_000  # bytes of a path
_TEMPLATES = ('epoch_{}.pth', 'iter_{}.pth')
_ZIP_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError),
    *(LookupError, ArithmeticError, MemoryError),
)


class CheckpointFile(NamedTuple):
    """A checkpoint as the folder shows it."""

    path: str
    written: int
    """Time of the last writing, in ns."""
    progress: int
    """The number in its name."""


class Pointer(NamedTuple):
    """What `last_checkpoint` says."""

    path: str | None
    """None where it is of no use."""
    written: int
    """Time of the last writing of that file, or of the pointer if that is no local file, in ns."""
    problem: str
    """What is the matter if it is of no use."""


def list_checkpoints(cfg: Config) -> list[CheckpointFile]:
    """Return the checkpoints of a run, the one written last first.

    The time goes before the number: files of an earlier, longer run may lie beside those of the
    last one.

    Args:
        cfg: of the run. Its `work_dir` is searched, and the hook's `out_dir` if that is a folder.
    """
    hooks = list(_checkpoint_hooks(cfg))
    templates = {*_TEMPLATES, *(str(h['filename_tmpl']) for h in hooks if h.get('filename_tmpl'))}
    patterns = [_pattern(template) for template in sorted(templates)]
    found = {}
    for folder in dict.fromkeys(_folders(cfg.work_dir, hooks)):
        for entry in os.scandir(folder) if os.path.isdir(folder) else ():
            match = next(filter(None, (p.fullmatch(entry.name) for p in patterns)), None)
            if match and entry.is_file():
                path = os.path.join(folder, entry.name)
                written = entry.stat().st_mtime_ns
                progress = int(match[1]) if match.re.groups else 0
                found[path] = CheckpointFile(path, written, progress)
    return sorted(found.values(), key=lambda file: (file.written, file.progress), reverse=True)


def read_pointer(cfg: Config) -> Pointer | None:
    """Return what the pointer file of a work dir names; None where there is no such file.

    Where the named file does not exist, as after the folder was moved, it is the file of that name
    in the folder of the checkpoints.
    """
    file = os.path.join(cfg.work_dir, POINTER_FILE)
    if not os.path.lexists(file):
        return None
    try:
        with open(file, 'rb') as stream:
            text = os.fsdecode(stream.read(_LONGEST)).strip()
            written = os.fstat(stream.fileno()).st_mtime_ns
    except OSError as error:
        return Pointer(None, 0, f'{file} cannot be read ({error.strerror})')
    if not text:
        return Pointer(None, 0, f'{file} is empty')
    if not text.isprintable():
        return Pointer(None, 0, f'{file} does not hold the name of a file')
    if '://' in text:
        return Pointer(text, written, '')
    folders = _folders(cfg.work_dir, list(_checkpoint_hooks(cfg)))
    names = (text, os.path.basename(text))
    places = [text, *(os.path.join(folder, name) for folder in folders for name in names)]
    existing = next(filter(os.path.isfile, places), None)
    if existing is not None:
        return Pointer(os.path.abspath(existing), os.stat(existing).st_mtime_ns, '')
    what = 'is a folder' if os.path.isdir(text) else 'does not exist'
    return Pointer(None, 0, f'{file} names {text}, which {what}')


def find_damage(path: str) -> str | None:
    """Say what makes a checkpoint unreadable; None where it is whole.

    It is loaded, its tensors one after the other, and held against the checksums of the zip archive
    that torch.save writes, which torch.load does not look at. A file that is refused for what it
    asks for counts as whole: who loads it is told.
    """
    if '://' in path:
        return None
    try:
        load_checkpoint_file(path, map_location='meta')
    except RefusedError:
        pass
    except CheckpointError as error:
        return str(error)
    except OSError as error:
        return f'{path} cannot be read ({error.strerror})' if error.strerror else str(error)
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except _ZIP_DAMAGE as error:
        with open(path, 'rb') as stream:
            if stream.read(2) != b'PK':  # as torch < 1.6 wrote, without checksums
                return None
        return f'{path} is damaged ({error or type(error).__name__})'
    return None if bad is None else f'{path} is damaged: the checksum of {bad} in it is wrong'


def _checkpoint_hooks(cfg: Config) -> Iterator[Mapping[str, Any]]:
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    if isinstance(hook, Mapping):
        yield hook
    for each in cfg.get('custom_hooks') or ():
        if isinstance(each, Mapping) and str(each.get('type')).endswith('CheckpointHook'):
            yield each


def _folders(work_dir: str, hooks: list[Mapping[str, Any]]) -> list[str]:
    """Where CheckpointHook writes: into a subfolder of its `out_dir` if it has one."""
    work_dir = os.path.abspath(work_dir)
    places = [str(hook['out_dir']) for hook in hooks if hook.get('out_dir') is not None]
    local = [place for place in places if '://' not in place]
    below = [os.path.abspath(os.path.join(p, os.path.basename(work_dir))) for p in local]
    return [work_dir, *below]


def _pattern(template: str) -> re.Pattern[str]:
    """What matches the names of a template such as 'epoch_{}.pth', with the number as a group."""
    text = ''
    for literal, field, *_ in string.Formatter().parse(template):
        text += re.escape(literal) + ('' if field is None else r'0*(\d+)')
    return re.compile(text)


def last_checkpoint(runner: Runner) -> str:
    """Path of the checkpoint that was saved last in the work dir, or 'none'."""
    file = Path(runner.work_dir) / POINTER_FILE
    return file.read_text().strip() if file.is_file() else 'none'


def _saving_hooks(runner: Runner) -> list[CheckpointHook]:
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
