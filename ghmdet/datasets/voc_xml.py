"""XML files of Pascal VOC: the size of an image and its objects."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ghmdet.files import decode_text
from ghmdet.messages import shorten

# The largest of Pascal VOC has 20 kB.
MAX_XML_BYTES = 16 * 2**20
_ENCODING = re.compile(rb'<\?xml[^>]*?encoding\s*=\s*["\']([A-Za-z][\w.-]*)')
_DECIMAL_COMMA = re.compile(r'\s*[-+]?\d+,\d+\s*')


@dataclass
class VocObject:
    """One object of an image."""

    name: str
    corners: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels, which VOC counts from 1
    difficult: bool


class _RefuseDoctype(ElementTree.TreeBuilder):
    """Refuses a DOCTYPE, without which there are no entities to expand."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Raise; the parser calls this before it reads any entity."""
        raise ValueError('has a DOCTYPE, which is refused')


def read_xml(xml_file: Path, max_bytes: int = MAX_XML_BYTES) -> ElementTree.Element:
    """Read an XML file in any encoding; expat alone knows few, and believes what is declared.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is too large, has a DOCTYPE, or is not text.
        ElementTree.ParseError: it is no XML.
    """
    if not xml_file.is_file():
        raise FileNotFoundError('no such file')
    size = xml_file.stat().st_size
    if size > max_bytes:
        raise ValueError(f'has {size} bytes, more than {max_bytes}')
    content = xml_file.read_bytes()
    declared = _ENCODING.match(content)
    text = decode_text(content, str(xml_file), declared[1].decode() if declared else 'utf-8')
    parser = ElementTree.XMLParser(target=_RefuseDoctype())
    parser.feed(text)
    return parser.close()


def read_size(tree: ElementTree.Element) -> tuple[int, int] | None:
    """Read (width, height); None if missing, 0 or no number."""
    texts = [tree.findtext(f'size/{key}', '').strip() for key in ('width', 'height')]
    if not all(text.isdecimal() and len(text) < 10 and int(text) > 0 for text in texts):
        return None
    return int(texts[0]), int(texts[1])


def read_object(node: ElementTree.Element, allow_degenerate: bool = False) -> VocObject:
    """Read one object; a ValueError says what is wrong with it. `1,5` is read as 1.5.

    With `allow_degenerate` its box may be without width or height.
    """
    name = node.findtext('name', '').strip()
    if not name:
        raise ValueError('has no name')
    texts = {key: node.findtext(f'bndbox/{key}') for key in ('xmin', 'ymin', 'xmax', 'ymax')}
    try:
        x1, y1, x2, y2 = (_read_number(text or 'nothing') for text in texts.values())
    except ValueError:
        raise ValueError(f'box is not four numbers: {shorten(texts, 300)}') from None
    # The area too: it is written.
    if not math.isfinite((x2 - x1) * (y2 - y1)) or not math.isfinite(x1 + y1):
        raise ValueError(f'box is not finite: {shorten(texts, 300)}')
    if not allow_degenerate and (x2 <= x1 or y2 <= y1):
        raise ValueError(f'box is degenerate: {shorten(texts, 300)}')
    difficult = node.findtext('difficult', '0').strip().lower() in ('1', 'true')
    return VocObject(name, (x1, y1, x2, y2), difficult)


def _read_number(text: str) -> float:
    return float(text.replace(',', '.') if _DECIMAL_COMMA.fullmatch(text) else text)
