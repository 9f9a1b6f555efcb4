"""Open Images: tables of boxes with ImageID, LabelName, XMin, XMax, YMin, YMax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export_records import Box, Export
from image_finder import find_images
from rich import progress
from rich.console import Console

from formats.tables import Table, TableImages, list_tables, read_head, read_rows, read_table, scale
from ghmdet.files import explain_undecodable
from ghmdet.messages import list_items, shorten

NAME = 'Open Images'
_COLUMNS = ('ImageID', 'LabelName', 'XMin', 'YMin', 'XMax', 'YMax')
_NO_IMAGE = 'of images that are not in the folder'
_LONG = 2**24  # bytes of a table that is read with a progress bar


def recognise(source: Path) -> str:
    """Say why a source is of this format, '' if it is not."""
    names = list_items((head.file.name for head in _list_files(source)), 3)
    return f'{names} with the columns {", ".join(_COLUMNS)}' if names else ''


def read(source: Path, images: Path | None) -> Export:
    """Read the tables of boxes; train, validation and test in a name is the split.

    The tables list all images of Open Images, of which most users have a part: boxes of images
    that are not there are skipped and counted. A table of LabelName and DisplayName, or one with
    the two columns and no header, gives the codes, such as /m/0199g, their names.

    Raises:
        ValueError: there is no such table, or no image that they list.
        FileNotFoundError: there is no image.
    """
    export, heads = Export(NAME, relative=True), _list_files(source)
    if not heads:
        raise ValueError(f'{source}: no .csv file with the columns {", ".join(_COLUMNS)}')
    table_images = TableImages(export, find_images(source, images), source)
    names = _read_names(source)
    for head in heads:
        _read_file(table_images, head, names)
    if not export.images and export.skipped[_NO_IMAGE]:
        folders = list_items(table_images.finder.folders)
        raise ValueError(f'{source}: none of the images that are listed is in {folders}: --images')
    used = {box.name for image in export.images for box in image.boxes}
    if codes := sorted(name for name in used if name.startswith('/')):
        print(
            f'{len(codes)} classes have no name in a class-descriptions*.csv beside the tables, '
            f'and are named by their code: {list_items(codes)}'
        )
    export.classes = [name for name in dict.fromkeys(names.values()) if name in used]
    table_images.print_unused()
    return export


def _list_files(source: Path) -> list[Table]:
    heads = map(read_head, list_tables(source))
    return [head for head in heads if set(_COLUMNS) <= set(head.header)]


def _read_names(source: Path) -> dict[str, str]:
    """Read the names of the codes, of all tables of two columns that begin with a code."""
    names: dict[str, str] = {}
    for file in list_tables(source if source.is_dir() else source.parent):
        head = read_head(file)
        if len(head.header) == 2 and any(row[0].startswith('/') for _, row in head.rows[:1]):
            rows = [head.header, *(row for _, row in read_table(file).rows)]
            names |= {row[0]: row[1] for row in rows if row[0].startswith('/') and len(row) == 2}
    return names


def _read_file(table_images: TableImages, head: Table, names: dict[str, str]) -> None:
    """Add the boxes of a table, which is not read as a whole: those of Open Images have 2 GB."""
    file, missing = head.file, set()
    options: Any = dict(encoding='utf-8-sig', newline='', console=Console(stderr=True))
    is_short = file.stat().st_size < _LONG
    with progress.open(file, 'r', description=file.name, disable=is_short, **options) as stream:
        rows = read_rows(stream, file, head.delimiter)
        header = next(rows)[1]
        try:
            for line, cells in rows:
                missing.update(
                    _read_row(
                        table_images, file, line, dict(zip(header, cells, strict=False)), names
                    )
                )
        except UnicodeDecodeError as error:
            raise ValueError(f'{file}: {explain_undecodable(error)}') from None
    if missing:
        print(f'{file}: {len(missing)} images that it lists are not there')


def _read_row(
    table_images: TableImages, file: Path, line: int, row: dict[str, str], names: dict[str, str]
) -> list[str]:
    """Add the box of a row; return the id of its image if this is not there."""
    export, place = table_images.export, f'{file}: line {line}'
    export.num_boxes += 1
    try:
        x1, y1, x2, y2 = (float(row[key]) for key in _COLUMNS[2:])
    except (KeyError, ValueError):
        problem = f'expected a box in {", ".join(_COLUMNS[2:])}, got {shorten(row)}'
        export.report(place, problem, 'boxes')
        return []
    image = table_images.find(row['ImageID'], file)
    if image is None:
        export.skipped[_NO_IMAGE] += 1
        return [row['ImageID']]
    name = names.get(row['LabelName'], row['LabelName'])
    crowd = row.get('IsGroupOf', '').lower() in ('1', 'true')
    image.boxes.append(Box(name, scale((x1, y1, x2, y2), image), crowd=crowd, place=place))
    return []
