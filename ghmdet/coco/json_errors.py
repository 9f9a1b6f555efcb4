"""Says what is wrong with a file that is to be JSON, and where."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from contextlib import contextmanager

_BLOCK = 2**20


@contextmanager
def explain_json(ann_file: str) -> Iterator[None]:
    """Turn what goes wrong when JSON is decoded into ValueErrors that name the file."""
    try:
        yield
    except RecursionError:
        raise ValueError(
            f'{ann_file}: lists or objects are nested in each other too deeply for a COCO file'
        ) from None
    except json.JSONDecodeError as error:
        if not error.doc:
            raise ValueError(f'{ann_file}: the file is empty (0 bytes)') from None
        raise ValueError(
            f'{ann_file}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}; '
            'was the file cut short while it was written or copied?'
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{ann_file}: expected a JSON text file in UTF-8, but byte {error.start} is none of it '
            f'({error.reason})'
        ) from None
    except ValueError as error:
        # Python reads no integer of more than 4300 digits.
        raise ValueError(f'{ann_file}: {str(error).removeprefix(f"{ann_file}: ")}') from None


def find_line(text: bytes | mmap.mmap, place: int) -> tuple[str, int]:
    """Return as much of the text as tells the line and column of a byte, and its place there."""
    line_feeds, begin = 0, -1
    for start in range(place // _BLOCK * _BLOCK, -1, -_BLOCK):
        block = text[start : min(start + _BLOCK, place)]
        line_feeds += block.count(b'\n')
        if begin < 0 <= (last := block.rfind(b'\n')):
            begin = start + last + 1
    begin = max(begin, 0)
    # Of a line as long as the file it is enough to know the byte.
    short = place - begin < _BLOCK
    column = len(text[begin:place].decode(errors='replace')) if short else place - begin
    return '\n' * line_feeds + ' ' * column, line_feeds + column
