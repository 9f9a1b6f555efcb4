"""Files written as a whole or not at all, text in any encoding, and names from other systems."""

from __future__ import annotations

import codecs
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

# The byte order marks of UTF-32 begin like those of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: 'utf-8-sig',
    codecs.BOM_UTF32_LE: 'utf-32',
    codecs.BOM_UTF32_BE: 'utf-32',
    codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
}


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary name in the same folder; what was written there becomes `file`.

    If the body fails, `file` stays as it was and the temporary file is removed.

    Example:
        >>> from tempfile import mkdtemp
        >>> file = Path(mkdtemp(), 'a.txt')
        >>> with replacing(file) as draft:
        ...     _ = draft.write_text('whole')
        >>> [each.name for each in file.parent.iterdir()]
        ['a.txt']
    """
    draft = file.with_name(f'.{file.name}.tmp')
    try:
        yield draft
        publish(draft, file)
    finally:
        draft.unlink(missing_ok=True)


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
    r"""Decode a text file as Windows programs write it; line ends become `\n`.

    Args:
        content: of the file. A byte order mark is obeyed and removed; UTF-16 is recognised without
            one too.
        source: name of the file, for messages.
        encoding: that the file declares, used where it is neither of these.

    Raises:
        ValueError: the encoding is unknown, or the content is not in it.

    Example:
        >>> decode_text('cat\r\ndog'.encode('utf-16'), 'classes.txt')
        'cat\ndog'
    """
    found = next((name for mark, name in _MARKS.items() if content.startswith(mark)), '')
    if not found and b'\0' in content[:2]:
        found = 'utf-16-be' if content[:1] == b'\0' else 'utf-16-le'
    try:
        text = content.decode(found or encoding)
    except LookupError:
        raise ValueError(f'{source} declares the unknown encoding {encoding!r}') from None
    except UnicodeDecodeError as error:
        line = content.count(b'\n', 0, error.start) + 1
        raise ValueError(
            f'{source}: byte {error.start} in line {line} is not {error.encoding} '
            f'({error.reason}); save the file as UTF-8'
        ) from None
    return text.replace('\r\n', '\n').replace('\r', '\n')


def read_text(file: str | os.PathLike[str], encoding: str = 'utf-8') -> str:
    """Read a text file, see `decode_text`."""
    path = Path(file).expanduser()
    return decode_text(path.read_bytes(), str(file), encoding)


def find_look_alike(
    path: str | os.PathLike[str], listings: dict[str, dict[str, list[str]]] | None = None
) -> str | None:
    r"""Find what exists under nearly the name of a missing file or folder.

    Its name may differ in case, in the Unicode normal form, and in `\` for `/`, in any part.

    Args:
        path: of the missing file.
        listings: names in each folder, which are added; for many calls in a row.

    Returns:
        The path; None if there is no such file, or more than one.
    """
    listings = {} if listings is None else listings
    parts = PurePath(os.fspath(path).replace('\\', '/')).parts
    found = parts[0] if os.path.isabs(parts[0]) else ''
    rest = parts[1:] if found else parts
    for number, part in enumerate(rest):
        if os.path.lexists(candidate := os.path.join(found, part)):
            found = candidate
            continue
        names = _list_folder(found, listings)
        whole = names.get(_fold('/'.join(rest[number:])), [])  # its `\` are in the name
        near = names.get(_fold(part), []) or whole
        if len(near) != 1:
            return None
        found = os.path.join(found, near[0])
        if near is whole:
            break
    return found


def explain_look_alike(path: str | os.PathLike[str]) -> str:
    """Return the part of a message that names the look-alike of a missing file, '' if none."""
    found = find_look_alike(path)
    if found is None or found == os.fspath(path):
        return ''
    asked, there = os.fspath(path).replace('\\', '/'), found.replace('\\', '/')
    differences = []
    if '\\' in os.fspath(path) or '\\' in found:
        differences.append(r'in \ for /')
    if unicodedata.normalize('NFC', asked).casefold() != asked.casefold() or (
        unicodedata.normalize('NFC', there).casefold() != there.casefold()
    ):
        differences.append('in the Unicode normal form (both look the same)')
    if (
        unicodedata.normalize('NFC', asked) != unicodedata.normalize('NFC', there)
        or not differences
    ):
        differences.append('in upper and lower case')
    return f'; there is {found!r}, which differs {" and ".join(differences)}'


def _list_folder(folder: str, listings: dict[str, dict[str, list[str]]]) -> dict[str, list[str]]:
    if folder not in listings:
        names: dict[str, list[str]] = {}
        with suppress(OSError):
            for name in os.listdir(folder or '.'):
                names.setdefault(_fold(name), []).append(name)
        listings[folder] = names
    return listings[folder]


def _fold(name: str) -> str:
    return unicodedata.normalize('NFC', name.replace('\\', '/')).casefold()
