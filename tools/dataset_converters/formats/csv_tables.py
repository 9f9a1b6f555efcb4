"""Tables of boxes: CSV files with a box per row, of Roboflow, TensorFlow, Kaggle, Excel and others.

The columns are found by their names, of which many are known. Without a header, the columns are
those of keras-retinanet (path, x1, y1, x2, y2, class) or of Google's AutoML.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from export_records import Box, Export, Image, find_split, show_progress
from image_finder import find_images
from shapes_to_boxes import Corners, polygon_box

from formats.tables import (
    Table,
    TableImages,
    displayed_size,
    list_tables,
    read_head,
    read_table,
    scale,
)
from ghmdet.messages import list_items, shorten

NAME = 'CSV'
# What columns are called, in lower case without signs. Of several lists the first that fits counts.
_IMAGE = (
    'filename imagefilename file imagefile filepath imagepath imgpath path imagename imgname image '
    'img imageid imgid imageurl url uri frame name id'
)
_NAMES = {
    'class': (
        'classname labelname categoryname objectname classtitle',
        'class label category objectclass classlabel',
        'object name type species tag kind cls classes labels target',
        'classid labelid categoryid clsid classindex',
    ),
    'x1': ('xmin x1 left xtl minx topleftx startx', 'x'),
    'y1': ('ymin y1 top ytl miny toplefty starty', 'y'),
    'x2': ('xmax x2 right xbr maxx bottomrightx endx',),
    'y2': ('ymax y2 bottom ybr maxy bottomrighty endy',),
    'cx': ('xcenter xcentre cx centerx centrex xc',),
    'cy': ('ycenter ycentre cy centery centrey yc',),
    'w': ('w', 'width'),
    'h': ('h', 'height'),
    'xyxy': ('xyxy',),
    'bbox': ('bbox bboxes boundingbox box xywh',),
    'width': ('imagewidth imgwidth imagew imgw', 'width'),
    'height': ('imageheight imgheight imageh imgh', 'height'),
    'set': ('subset split set mluse usage',),
}
_SHAPES = {
    'corners': ('x1', 'y1', 'x2', 'y2'),
    'top left corner and size': ('x1', 'y1', 'w', 'h'),
    'centre and size': ('cx', 'cy', 'w', 'h'),
    'corners in one text': ('xyxy',),
    'top left corner and size in one text': ('bbox',),
}
_QUAD = [f'{axis}{number}' for number in range(1, 5) for axis in 'xy']
_OF_BOX = re.compile('(?:boundingbox|bbox|box|bb|rect)(.+)')
_NUMBER = re.compile(r'[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf', re.IGNORECASE)
_EMPTY = ('', 'nan', 'none', 'null', 'na', 'n/a', '[]')
_LARGEST_RELATIVE = 2  # as in YOLO's files


@dataclass
class _Row:
    place: str
    image: str
    name: str
    split: str
    numbers: list[float] = field(default_factory=list)
    """Those of the box; none: the row says that the image has no box."""
    size_wh: tuple[int, int] | None = None
    fault: str = ''


def recognise(source: Path) -> str:
    """Say why a source is of this format, '' if it is not."""
    tables = [table for table in map(read_head, list_tables(source)[:50]) if is_of_boxes(table)]
    columns = list_items((repr(name) for name in tables[0].header if name), 8) if tables else ''
    return f'{list_items((t.file.name for t in tables), 3)} has the columns {columns}' * bool(
        tables
    )


def read(source: Path, images: Path | None) -> Export:
    """Read the tables of a folder, or one; the name of a table or of its folder says its split.

    Raises:
        ValueError: no table has columns of boxes, or it has several of one meaning.
        FileNotFoundError: there is no image.
    """
    export, files = Export(NAME), list_tables(source)
    heads = {file: read_head(file) for file in files}
    chosen = [file for file, head in heads.items() if is_of_boxes(head)]
    if not chosen:
        found = list_items((f'{f.name} has {shorten(head.header)}' for f, head in heads.items()), 3)
        raise ValueError(
            f'{source}: no .csv file with columns of boxes, such as filename, class, xmin, ymin, '
            f'xmax, ymax: {found or "there is no .csv or .tsv file"}'
        )
    table_images = TableImages(export, find_images(source, images), source)
    relative = [_read_boxes(table_images, read_table(file)) for file in chosen]
    export.relative = any(relative)
    others = [head for file, head in heads.items() if file not in chosen]
    _order_classes(export, map(_read_classes, others))
    table_images.print_unused()
    return export


def is_of_boxes(table: Table) -> bool:
    """Whether the columns are those of boxes, and not Open Images' own."""
    names = set(map(_fold, table.header))
    if {'imageid', 'labelname', 'xmin', 'ymax'} <= names:
        return False
    try:
        shape, _ = _find_shape(table.header)
    except ValueError:
        return True  # which is explained when it is read
    return bool(shape) and len(table.header) > len(_SHAPES.get(shape, _QUAD))


def _fold(name: str) -> str:
    """Return the name of a column in lower case, without signs and without a unit."""
    return re.sub(r'[(\[].*?[)\]]|[^0-9a-z]', '', name.lower())


def _find_column(header: Sequence[str], role: str, without: Sequence[int] = ()) -> list[int]:
    """Return the columns that may have a role; more than one if they are equally likely."""
    names = [_fold(name) for name in header]
    of_box = [match[1] if (match := _OF_BOX.fullmatch(name)) else '' for name in names]
    for texts in (of_box, names) if role not in ('width', 'height') else (names,):
        for words in _NAMES[role]:
            found = [i for i, t in enumerate(texts) if t in words.split() and i not in without]
            if found:
                return found
    return []


def _find_shape(header: Sequence[str]) -> tuple[str, list[int]]:
    """Return how the boxes are given, and the columns of this; '' if there are none.

    Raises:
        ValueError: several columns have the same meaning.
    """
    names = [_fold(name) for name in header]
    if set(_QUAD) <= set(names):
        return 'four corners', [names.index(name) for name in _QUAD]
    if {'x0', 'y0', 'x1', 'y1'} <= set(names):
        return 'corners', [names.index(name) for name in ('x0', 'y0', 'x1', 'y1')]
    for shape, roles in _SHAPES.items():
        found = {role: _find_column(header, role) for role in roles}
        if not all(found.values()):
            continue
        for columns in found.values():
            if len(columns) > 1:
                listed = list_items(repr(header[i]) for i in columns)
                raise ValueError(f'the columns {listed} mean the same; remove all but one')
        return shape, [columns[0] for columns in found.values()]
    return '', []


def _read_boxes(table_images: TableImages, table: Table) -> bool:
    """Add the boxes of a table; return whether they are relative to the image size."""
    export, file = table_images.export, table.file
    try:
        shape, of_box = _find_shape(table.header)
        columns = _choose_columns(table_images, table, of_box)
    except ValueError as error:
        raise ValueError(f'{file}: {error}') from None
    rows = [_read_row(table, line, cells, shape, of_box, columns) for line, cells in table.rows]
    numbers = [n for row in rows for n in row.numbers if math.isfinite(n)]
    relative = max(map(abs, numbers), default=9) <= _LARGEST_RELATIVE and any(
        not number.is_integer() for number in numbers
    )
    images = []
    for row in show_progress(rows, file.name):
        num = int(bool(row.numbers or row.fault))
        export.num_boxes += num
        if row.fault:
            export.report(row.place, row.fault, 'boxes')
            num = 0
        image = table_images.find_or_report(row.image, file, row.place, num, row.split)
        images.append(image)
    if shape == 'top left corner and size in one text' and _are_corners(rows, images, relative):
        shape = 'corners in one text'
    for row, image in zip(rows, images, strict=True):
        if image and row.numbers and not row.fault:
            _add_box(export, image, row, shape, relative)
        if image and row.size_wh and not image.size_wh:
            image.size_wh = row.size_wh
    used = {role: repr(table.header[index]) for role, index in columns.items()}
    listed = ', '.join(repr(table.header[index]) for index in of_box)
    print(
        f'{file}: image {used["image"]}, class {used.get("class", "object: no column names it")}, '
        f'box {listed}: {shape}{", relative to the image size" if relative else ""}'
    )
    return relative


def _choose_columns(
    table_images: TableImages, table: Table, of_box: Sequence[int]
) -> dict[str, int]:
    """Return the columns of the image, and of class, set, width and height if there are such."""
    header, columns = table.header, {}
    cells = [row for _, row in table.rows[:50]]

    def count_images(index: int) -> int:
        names = {row[index] for row in cells if len(row) > index and row[index]}
        return sum(bool(table_images.finder.find(name, beside=table.file.parent)) for name in names)

    names = [_fold(name) for name in header]
    likely = [names.index(name) for name in _IMAGE.split() if name in names]
    found = max(likely, key=count_images, default=-1)
    if found < 0 or not count_images(found):
        others = [index for index in range(len(header)) if index not in of_box]
        other = max(others, key=count_images)
        found = other if count_images(other) else found
    if found < 0:
        raise ValueError(
            f'no column names the image, of {list_items(map(repr, header), 20)}; call it filename'
        )
    columns['image'] = found
    classes = _find_column(header, 'class', without=[found, *of_box])
    if len(classes) > 1:  # class, label: one of them may be a number
        texts = [i for i in classes if not all(row[i].isdigit() for row in cells if len(row) > i)]
        classes = texts or classes
    if len(classes) > 1:
        listed = list_items(repr(header[i]) for i in classes)
        raise ValueError(f'the columns {listed} may all be the class; remove all but one')
    for role in ('set', 'width', 'height'):
        columns.update((role, i) for i in _find_column(header, role, without=of_box)[:1])
    return columns | ({'class': classes[0]} if classes else {})


def _read_row(
    table: Table,
    line: int,
    cells: list[str],
    shape: str,
    of_box: Sequence[int],
    columns: dict[str, int],
) -> _Row:
    count, decimal_comma = len(table.header), table.delimiter != ','
    is_short = len(cells) < count or any(cells[count:])
    cells = cells + [''] * count
    split = cells[columns['set']].lower().replace('validate', 'val') if 'set' in columns else ''
    name = cells[columns['class']] if 'class' in columns else 'object'
    row = _Row(f'{table.file}: line {line}', cells[columns['image']], name, find_split(Path(split)))
    texts = [cells[index] for index in of_box]
    if is_short:
        row.fault = f'expected {count} cells as in the header, got {shorten(cells[:-count])}'
    elif all(text.lower() in _EMPTY for text in texts):
        return row
    elif not name:
        row.fault = 'has no class'
    else:
        try:
            row.numbers = _read_numbers(texts, shape, decimal_comma)
        except ValueError as error:
            row.fault = str(error)
            return row
        with suppress(KeyError, ValueError):
            size = [cells[columns[role]] for role in ('width', 'height')]
            w, h = (_read_number(text, decimal_comma) for text in size)
            x1, y1, x2, y2 = row.numbers
            if min(w, h) > 0 and (shape != 'corners' or (w, h) != (x2 - x1, y2 - y1)):
                row.size_wh = int(w), int(h)
    return row


def _read_numbers(texts: Sequence[str], shape: str, decimal_comma: bool) -> list[float]:
    if not shape.endswith('text'):
        return [_read_number(text, decimal_comma) for text in texts]
    numbers = [float(text) for text in _NUMBER.findall(texts[0])]
    if len(numbers) != 4:
        raise ValueError(f'expected the 4 numbers of a box, got {shorten(texts[0])}')
    return numbers


def _read_number(text: str, decimal_comma: bool) -> float:
    try:
        return float(text.replace(',', '.') if decimal_comma else text)
    except ValueError:
        raise ValueError(f'expected a number of a box, got {shorten(text)}') from None


def _are_corners(rows: Sequence[_Row], images: Sequence[Image | None], relative: bool) -> bool:
    """Whether texts of four numbers can only be corners: as x, y, w, h some exceed their image."""
    is_beyond = False
    for row, image in zip(rows, images, strict=True):
        if not image or not row.numbers:
            continue
        x1, y1, x2, y2 = row.numbers
        w, h = (1, 1) if relative else displayed_size(image)
        if not (x1 < x2 <= w + 1 and y1 < y2 <= h + 1):
            return False
        is_beyond |= x1 + x2 > w + 1 or y1 + y2 > h + 1
    return is_beyond


def _add_box(export: Export, image: Image, row: _Row, shape: str, relative: bool) -> None:
    corners: Corners
    if shape == 'four corners':
        export.converted['polygons'] += 1
        points = list(zip(row.numbers[::2], row.numbers[1::2], strict=True))
        is_finite = all(map(math.isfinite, row.numbers))
        corners = polygon_box(points) if is_finite else (math.nan,) * 4
    else:
        a, b, c, d = row.numbers
        corners = a, b, c, d
        if shape.startswith('top left'):
            corners = a, b, a + c, b + d
        elif shape.startswith('centre'):
            corners = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    if relative:
        corners = scale(corners, image)
    image.boxes.append(Box(row.name, corners, place=row.place))


def _read_classes(table: Table) -> dict[int, str]:
    """Read a table of the classes and their numbers, as keras-retinanet has; {} if it is none."""
    rows = [table.header, *(cells for _, cells in table.rows)]
    rows = rows if any(cell.isdigit() for cell in rows[0]) else rows[1:]
    classes: dict[int, str] = {}
    for cells in rows:
        if len(cells) != 2 or sum(cell.isdigit() for cell in cells) != 1:
            return {}
        name, number = sorted(cells, key=str.isdigit)
        classes[int(number)] = name
    return classes


def _order_classes(export: Export, lists: Iterable[dict[int, str]]) -> None:
    """Use the list of the classes that fits the boxes, for their order or for their names."""
    boxes = [box for image in export.images for box in image.boxes]
    used = {box.name for box in boxes}
    for classes in lists:
        if used and used <= {*map(str, classes)}:
            for box in boxes:
                box.name = classes[int(box.name)]
            used = {box.name for box in boxes}
        if used and used <= {*classes.values()}:
            export.classes = [classes[number] for number in sorted(classes)]
            return
