"""The checkpoints of a work dir that a training can resume from, and whether they can be read.

`best_*` files have no optimizer state, so they do not count.
"""

from __future__ import annotations

import os
import re
import string
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ghmdet.checkpoint.reader import DAMAGE, CheckpointError, RefusedError, load_checkpoint_file
from ghmdet.messages import type_name

POINTER_FILE = 'last_checkpoint'
_LONGEST = 10_000  # bytes of a path
_TEMPLATES = ('epoch_{}.pth', 'iter_{}.pth')


def list_checkpoints(cfg: Config) -> list[str]:
    """Return the paths of the checkpoints in a run's `work_dir` and the hook's `out_dir`.

    They are sorted by time, the last written first, then by the number in their names, as there may
    be files of an earlier, longer run.
    """
    given = (hook.get('filename_tmpl') for hook in _hook_configs(cfg))
    templates = {*_TEMPLATES, *map(str, filter(None, given))}
    patterns = [_pattern(template) for template in sorted(templates)]
    found: dict[str, tuple[int, int]] = {}
    for folder in dict.fromkeys(_folders(cfg)):
        for entry in os.scandir(folder) if os.path.isdir(folder) else ():
            match = next(filter(None, (p.fullmatch(entry.name) for p in patterns)), None)
            if match and entry.is_file():
                number = int(match[1]) if match.re.groups else 0
                found[os.path.join(folder, entry.name)] = (entry.stat().st_mtime_ns, number)
    return sorted(found, key=lambda path: found[path], reverse=True)


def read_pointer(cfg: Config) -> tuple[str | None, str]:
    """Return the path that the file `last_checkpoint` of a work dir names, and what is wrong.

    If the folder was moved, so that the named file does not exist, a file of the same name in the
    folder of the checkpoints is used. Without a file `last_checkpoint` the answer is `None, ''`.
    """
    file = os.path.join(cfg.work_dir, POINTER_FILE)
    if not os.path.lexists(file):
        return None, ''
    try:
        with open(file, 'rb') as stream:
            text = os.fsdecode(stream.read(_LONGEST)).strip()
    except OSError as error:
        return None, f'{file} cannot be read ({error.strerror})'
    if not text:
        return None, f'{file} is empty'
    if not text.isprintable():
        return None, f'{file} does not contain the name of a file'
    if '://' in text:
        return text, ''
    names = (text, os.path.basename(text))
    paths = [text, *(os.path.join(folder, name) for folder in _folders(cfg) for name in names)]
    existing = next(filter(os.path.isfile, paths), None)
    if existing is not None:
        return os.path.abspath(existing), ''
    what = 'is a folder' if os.path.isdir(text) else 'does not exist'
    return None, f'{file} names {text}, which {what}'


def find_damage(path: str) -> str | None:
    """Return what is wrong with a checkpoint file; None if it can be read.

    It is loaded to the meta device, and compared with the checksums in the zip archive that
    torch.save writes, which torch.load does not check. A file that the reader refuses counts as
    readable here: loading it gives the reason.
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
    except (zipfile.BadZipFile, zlib.error, *DAMAGE) as error:
        with open(path, 'rb') as stream:
            if stream.read(2) != b'PK':  # as torch < 1.6 wrote, without checksums
                return None
        return f'{path} is damaged ({error or type(error).__name__})'
    return None if bad is None else f'{path} is damaged: the checksum of {bad} in it is wrong'


def last_checkpoint(runner: Runner) -> str:
    """Return the path in `last_checkpoint` of the work dir, or 'none'."""
    file = Path(runner.work_dir) / POINTER_FILE
    return file.read_text().strip() if file.is_file() else 'none'


def checkpoint_hooks(runner: Runner) -> list[CheckpointHook]:
    """Return the hooks of a runner that save checkpoints."""
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]


def _hook_configs(cfg: Config) -> Iterator[Mapping[str, Any]]:
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    if isinstance(hook, Mapping):
        yield hook
    for each in cfg.get('custom_hooks') or ():
        if isinstance(each, Mapping) and type_name(each).endswith('CheckpointHook'):
            yield each


def _folders(cfg: Config) -> list[str]:
    """Where CheckpointHook writes: the work dir, or a subfolder of its `out_dir` if that is set."""
    work_dir = os.path.abspath(cfg.work_dir)
    given = (hook.get('out_dir') for hook in _hook_configs(cfg))
    out_dirs = [str(out_dir) for out_dir in given if out_dir is not None]
    local = [os.path.abspath(out_dir) for out_dir in out_dirs if '://' not in out_dir]
    return [work_dir, *(os.path.join(out_dir, os.path.basename(work_dir)) for out_dir in local)]


def _pattern(template: str) -> re.Pattern[str]:
    """A pattern for the names of a template such as 'epoch_{}.pth', with the number as a group."""
    text = ''
    for literal, field, *_ in string.Formatter().parse(template):
        text += re.escape(literal) + ('' if field is None else r'0*(\d+)')
    return re.compile(text)
