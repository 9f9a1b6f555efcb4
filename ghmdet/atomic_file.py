"""Files that are there as a whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
