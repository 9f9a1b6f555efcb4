"""Tables: CSV files, and the images that their rows name, one image by many of them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from export_records import Export, Image, find_split, list_files
from image_finder import ImageFinder, image_file, image_folder, read_size
from shapes_to_boxes import Corners

from ghmdet.files import decode_text

_LAYOUTS = (  # of files without a header
    ('path', 'x1', 'y1', 'x2', 'y2', 'class'),
    ('set', 'path', 'class', 'x1', 'y1', '', '', 'x2', 'y2', '', ''),
)
_SETS = ('TRAIN', 'TRAINING', 'VALIDATE', 'VALIDATION', 'TEST', 'UNASSIGNED')
_HEAD = 2**20
_ABOUT_LABELS = re.compile(
    r'[-_. ]*(annotations?|labels?|bbox(es)?|boxes|detections?)(?=[-_. ]|$)', re.IGNORECASE
)
csv.field_size_limit(2**31 - 1)  # polygons may be longer than the usual limit


@dataclass
class Table:
    """The rows of a CSV file."""

    file: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]
    """Line number and cells of each."""
    delimiter: str = ','


class TableImages:
    """The images of an export, found by the names that many rows have."""

    def __init__(self, export: Export, finder: ImageFinder, source: Path) -> None:
        self.export = export
        self.finder = finder
        self._base = source if source.is_dir() else source.parent
        self._by_name: dict[tuple[Path, str, str], Image | None] = {}
        self._by_path: dict[tuple[Path, Path, str], Image] = {}

    def find(self, name: str, file: Path, split: str = '') -> Image | None:
        """Return the image that a name in a file means; None if there is none.

        It is always the same for a file, but another for each file: two files may have the same
        boxes, which to_coco.py then sees.

        Its split is that given, or that of the file or of a folder, see `split_of`.
        """
        key = file, name, split
        if key not in self._by_name:
            split = split or split_of(file.relative_to(self._base))
            fit = self.finder.find_all(name, beside=file.parent) if name else []
            if len(fit) > 1 and split:
                fit = [path for path in fit if self._split_of_image(path) == split] or fit
            self._by_name[key] = self._add(fit[0], file, split) if len(fit) == 1 else None
        return self._by_name[key]

    def find_or_report(
        self, name: str, file: Path, place: str, num: int, split: str = ''
    ) -> Image | None:
        """As `find`; report an image that is not there, once, and count its `num` boxes as lost."""
        is_new = (file, name, split) not in self._by_name
        image = self.find(name, file, split)
        if image is None:
            self.export.lost['boxes'] += num
            if is_new:
                problem = self.finder.explain(name) if name else 'no image is named'
                self.export.report(f'{place}: {name}', problem, 'images')
        return image

    def print_unused(self) -> None:
        """Say how many images of the folder have not been named."""
        count = len(set(self.finder.paths) - {path for path, _, _ in self._by_path})
        if count:
            print(f'{count} images are in none of the files, and are left out')

    def _add(self, path: Path, file: Path, split: str) -> Image:
        key = path, file, split or self._split_of_image(path)
        if key not in self._by_path:
            self._by_path[key] = Image(path, split=key[2])
            self.export.images.append(self._by_path[key])
        return self._by_path[key]

    def _split_of_image(self, path: Path) -> str:
        folders = (path.relative_to(f) for f in self.finder.folders if path.is_relative_to(f))
        return find_split(next(folders, Path()).parent)


def split_of(path: Path) -> str:
    """Return the split by the name of a table, `train_labels.csv`, or of the folders above it."""
    return find_split(path.parent / _ABOUT_LABELS.sub('', path.stem))


def scale(corners: Corners, image: Image) -> Corners:
    """Return relative corners in pixels of the image."""
    x1, y1, x2, y2 = corners
    w, h = displayed_size(image)
    return x1 * w, y1 * h, x2 * w, y2 * h


def displayed_size(image: Image) -> tuple[int, int]:
    """Return (width, height); (1, 1) if it cannot be read."""
    try:
        return _cached_size(image.path)
    except image_file.ImageError:
        return 1, 1  # to_coco.py reports the image, and leaves it out


def list_tables(source: Path) -> list[Path]:
    """List the CSV files of a source; a file without a known ending if it is given itself."""
    known = ('.json', '.xml', '.yaml', '.yml', '.data')
    is_other = source.is_dir() or source.suffix.lower() in known
    return list_files(source, '.csv', '.tsv') or ([] if is_other else [source])


def read_head(file: Path) -> Table:
    """Read the first rows of a table; one that is no text is empty."""
    with file.open('rb') as stream:
        content = stream.read(_HEAD)
    try:
        if len(content) == _HEAD:
            return _make_table(file, content[: content.rfind(b'\n')].decode('utf-8-sig', 'ignore'))
        return _make_table(file, decode_text(content, str(file)))
    except (ValueError, csv.Error):
        return Table(file, [], [])


def read_table(file: Path) -> Table:
    """Read a table in any encoding that has a mark, or in UTF-8.

    Raises:
        ValueError: it is no text.
    """
    return _make_table(file, decode_text(file.read_bytes(), str(file)))


def read_rows(lines: Iterable[str], file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row that is not empty."""
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield rows.line_num, cells
    except csv.Error as error:
        raise ValueError(f'{file}: line {rows.line_num}: {error}') from None


def _make_table(file: Path, text: str) -> Table:
    if match := re.match(r'"?sep=(.)"?\n', text):  # of Excel
        delimiter, start = match[1], match.end()
    else:
        start = 0
        first = text.lstrip('\n').partition('\n')[0]
        delimiter = max('\t;,|', key=lambda sign: _count_cells(first, sign))
    lines = io.StringIO(text[start:], newline='')
    rows = list(read_rows(lines, file, delimiter))
    if start:
        rows = [(line + 1, cells) for line, cells in rows]
    layout = _find_layout(rows[0][1]) if rows else ()
    header = list(layout) if layout else rows.pop(0)[1] if rows else []
    return Table(file, header, rows, delimiter)


def _count_cells(line: str, delimiter: str) -> int:
    return len(next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), []))


def _find_layout(cells: Sequence[str]) -> Sequence[str]:
    """Return the columns of a table without a header by its first row; none if it has one."""
    keras, automl = _LAYOUTS
    if len(cells) == len(automl) and cells[0].upper() in _SETS:
        return automl
    is_image = cells[0].lower().endswith(tuple(image_folder.SUFFIXES))
    if len(cells) == len(keras) and is_image:
        numbers = [cell for cell in cells[1:5] if cell]
        if all(re.fullmatch(r'[-+\d.,e]+', cell) for cell in numbers):
            return keras
    return ()


_cached_size = lru_cache(maxsize=1 << 16)(read_size)
