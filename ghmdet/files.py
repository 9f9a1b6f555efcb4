"""Files written as a whole or not at all, text in any encoding, and names from other systems."""

from __future__ import annotations

import codecs
import csv
import os
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

# The byte order marks of UTF-32 begin like those of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: 'utf-8-sig',
    codecs.BOM_UTF32_LE: 'utf-32',
    codecs.BOM_UTF32_BE: 'utf-32',
    codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
}
_ASIAN = re.compile('big5|cp9|euc|gb|iso-?2022|ks|s(hift_?)?jis')
# Files that declare the former are often in the latter, which contain them.
_SUPERSETS = {'gb2312': 'gb18030', 'gbk': 'gb18030', 'shift_jis': 'cp932', 'euc_kr': 'cp949'}


def is_exported(path: object) -> bool:
    """Whether it is the path of a file of `python -m ghmdet.export`, by its ending."""
    suffixes = ('.onnx', '.pt2')
    return isinstance(path, str | os.PathLike) and os.fspath(path).lower().endswith(suffixes)


@contextmanager
def replacing(file: Path, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary name in the same folder; what was written there becomes `file`.

    If the body fails, `file` stays as it was and the temporary file is removed. Without `flush`,
    which takes milliseconds, this holds when the process is killed, not when the power fails.
    """
    draft = file.with_name(f'.{file.name}.tmp')
    try:
        yield draft
        (publish if flush else os.replace)(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def write_table(file: Path, rows: Iterable[Iterable[Any]], line_end: str = '\r\n') -> None:
    """Write rows as CSV in UTF-8; what is no text in it becomes escapes."""
    options: Any = dict(encoding='utf-8', errors='backslashreplace', newline='')
    with replacing(file) as draft, draft.open('w', **options) as stream:
        csv.writer(stream, lineterminator=line_end).writerows(rows)


def publish(draft: Path, file: Path) -> None:
    """Flush a file to the disk, then give it its name, in place of the file of that name."""
    with draft.open('rb+') as stream:
        os.fsync(stream.fileno())
    os.replace(draft, file)
    with suppress(OSError):  # put the name on the disk too, where the system can
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def decode_text(content: bytes, source: str, encoding: str = 'utf-8') -> str:
    r"""Decode a text file of any system; line ends become `\n`.

    UTF-8 is tried before the declared encoding, which is left as it was by many programs that
    convert a file to UTF-8. UTF-16 is recognised with and without a byte order mark, which is
    removed. `source` is the name of the file, for messages.

    Raises:
        ValueError: the content is in none of these, or the encoding is unknown.
    """
    found = next((name for mark, name in _MARKS.items() if content.startswith(mark)), '')
    if not found and (zero := content.find(b'\0')) >= 0:  # half of an ASCII character
        found = 'utf-16-le' if zero % 2 else 'utf-16-be'
    try:
        text = content.decode(found) if found else _decode_8_bit(content, encoding)
    except LookupError:
        raise ValueError(
            f'{source}: declares the unknown encoding {encoding!r}; save it as UTF-8'
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f'{source}: {explain_undecodable(error)}') from None
    return text.replace('\r\n', '\n').replace('\r', '\n')


def _decode_8_bit(content: bytes, declared: str) -> str:
    # Windows and browsers have names that Python does not know.
    name = declared.lower().removeprefix('x-').replace('windows-', 'cp')
    with suppress(UnicodeDecodeError):
        text = content.decode()
        # A few characters of an Asian encoding may be valid UTF-8, but of two bytes each.
        if not _ASIAN.match(name) or max(text, default='') > '\u07ff':
            return text
    name = codecs.lookup(name).name
    return content.decode(_SUPERSETS.get(name, name))


def explain_undecodable(error: UnicodeDecodeError, offset: int = 0, line: int = 0) -> str:
    """Say which byte is not in the encoding; its `offset` and `line` if a part was decoded."""
    content, start = error.object, error.start
    return (
        f'expected text in {error.encoding.upper()}, but byte 0x{content[start]:02x} at offset '
        f'{offset or start} in line {line or content.count(10, 0, start) + 1} is not '
        f'({error.reason}); if it is text in another encoding, save it as UTF-8'
    )


def read_text(file: str | os.PathLike[str], encoding: str = 'utf-8') -> str:
    """Read a text file, see `decode_text`; `~` is expanded."""
    return decode_text(Path(file).expanduser().read_bytes(), str(file), encoding)


def read_lines(file: str | os.PathLike[str]) -> list[str]:
    """Read a list, one entry per line: without empty lines, and without spaces at their ends."""
    return [line.strip() for line in read_text(file).split('\n') if line.strip()]


def find_look_alike(path: str | os.PathLike[str]) -> str | None:
    r"""Find what exists under nearly the name of a missing path; None if nothing does, or several.

    Any part of the path may differ in case, in the Unicode normal form, and in `\` for `/`.
    """
    found = ''
    parts = PurePath(os.fspath(path).replace('\\', '/')).parts
    for number, part in enumerate(parts):
        candidate = os.path.join(found, part)
        if not os.path.lexists(candidate):
            names = _names_in(found)
            rest = names.get(fold_name('/'.join(parts[number:])), [])  # its `\` are in the name
            near = names.get(fold_name(part), []) or rest
            if len(near) != 1:
                return None
            candidate = os.path.join(found, near[0])
            if near is rest:
                return candidate
        found = candidate
    return found or None


def explain_look_alike(path: str | os.PathLike[str]) -> str:
    """Return the part of a message that names the look-alike of a missing file, '' if none."""
    found, asked = find_look_alike(path), str(PurePath(path))
    if found is None or found == asked:
        return ''
    a, b = (PurePath(name.replace('\\', '/')).as_posix() for name in (asked, found))
    nfc_a, nfc_b = (unicodedata.normalize('NFC', name) for name in (a, b))
    differences = {
        r'in \ for /': asked.count('\\') != found.count('\\'),
        'in the Unicode normal form (both look the same)': a.casefold() != b.casefold(),
        'in upper and lower case': nfc_a != nfc_b,
    }
    listed = ' and '.join(text for text, differs in differences.items() if differs)
    return f', but there is {found!r}, which differs {listed}'


def fold_name(name: str) -> str:
    """Return what look-alikes have in common."""
    return unicodedata.normalize('NFC', name.replace('\\', '/')).casefold()


def _names_in(folder: str) -> dict[str, list[str]]:
    """The names in a folder by `fold_name`; kept, since many files may be missing."""
    try:
        status = os.stat(folder or '.')
    except OSError:
        return {}
    # A folder changed within this second may change again with the same time stamp.
    is_new = time.time_ns() - status.st_mtime_ns < 10**9
    read = _list_folder.__wrapped__ if is_new else _list_folder
    return read(folder, status.st_dev, status.st_ino, status.st_mtime_ns)


@lru_cache(8)
def _list_folder(folder: str, *_: int) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    with suppress(OSError):
        for name in os.listdir(folder or '.'):
            names.setdefault(fold_name(name), []).append(name)
    return names
