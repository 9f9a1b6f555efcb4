"""Writes the result of `check_dataset`: text, a web page, and pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ghmdet.datasets.image_file import ImageError
from ghmdet.datasets.transforms import LoadImageFromFile

from .audit import DatasetAudit, Finding, Picture

_SHOWN = 100  # texts per kind of finding
_SIDE = 640  # longest of a picture
_COLOR = (0, 0, 255)
_STYLE = (
    'body{font:15px sans-serif;max-width:75em;margin:2em auto}td,th{padding:0 1em 0 0;'
    'text-align:left}.error{color:#b00}.warning{color:#950}figure{display:inline-block;margin:1em}'
    'img{max-width:30em}figcaption{max-width:30em;font-size:85%}'
)


def write_report(audits: Sequence[DatasetAudit], out: Path) -> None:
    """Write `report.txt`, `report.html` and `pictures/` into a folder, which need not exist."""
    (out / 'pictures').mkdir(parents=True, exist_ok=True)
    text = '\n'.join(list_findings(audit, _SHOWN) + _list_statistics(audit) for audit in audits)
    page = f'<!doctype html><meta charset="utf-8"><title>Data check</title><style>{_STYLE}</style>'
    page += ''.join(_make_html(audit, number, out) for number, audit in enumerate(audits))
    for name, content in (('report.txt', text), ('report.html', page)):
        (out / name).write_text(content, encoding='utf-8', errors='backslashreplace')


def list_findings(audit: DatasetAudit, shown: int = 1) -> str:
    """Return the notes and findings as text, with the first `shown` texts of each finding."""
    lines = [f'== {audit.name}: {audit.ann_file}', *audit.notes]
    for finding in audit.findings:
        lines.append(_title(finding))
        lines += [f'    {text}' for text in finding.texts[:shown]]
        if (rest := finding.count - len(finding.texts[:shown])) > 0:
            lines.append(f'    and {rest:,} more')
    return '\n'.join([*lines, '' if audit.findings else 'no errors or warnings\n'])


def _list_statistics(audit: DatasetAudit) -> str:
    lines = []
    for title, rows in audit.statistics.items():
        width = max((len(name) for name, _ in rows), default=0)
        lines += [f'{title}:', *(f'    {name:<{width}} {count:>10,}' for name, count in rows)]
    return '\n'.join([*lines, ''])


def _title(finding: Finding) -> str:
    return f'{"error" if finding.is_error else "warning"}: {finding.count:,} x {finding.kind}'


def draw_picture(picture: Picture, loader: LoadImageFromFile) -> np.ndarray:
    """Draw boxes in red into an image, with a grey margin for those beyond the image.

    A small box has a circle around it. An image that cannot be read is drawn in grey. Returned is
    uint8 (h, w, 3) in BGR, of at most 640 pixels a side.
    """
    width, height = (max(1, round(side)) for side in picture.size_wh)
    try:
        image = loader.read(picture.path, in_color=True)
        height, width = image.shape[:2]
    except ImageError:
        image = None
    scale = min(1, _SIDE / (2 * max(width, height)))
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    if image is None:
        image = np.full((size_wh[1], size_wh[0], 3), 200, np.uint8)
    image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
    limit = np.array(size_wh * 2) / 2  # of the margin
    corners = np.array([[x, y, x + w, y + h] for x, y, w, h in picture.boxes]).reshape(-1, 4)
    corners = np.clip(corners * scale, -limit, 3 * limit)
    low = np.minimum(corners.reshape(-1, 2).min(axis=0, initial=0), 0)
    high = np.maximum(corners.reshape(-1, 2).max(axis=0, initial=0), size_wh) - size_wh
    (left, top), (right, bottom) = (-low).astype(int) + 4, high.astype(int) + 4
    grey = (99, 99, 99)
    image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=grey)
    for x1, y1, x2, y2 in (corners + [left, top, left, top]).round().astype(int).tolist():
        cv2.rectangle(image, (x1, y1), (x2, y2), _COLOR, 1)
        if max(x2 - x1, y2 - y1) < 10:
            cv2.circle(image, ((x1 + x2) // 2, (y1 + y2) // 2), 14, _COLOR, 1)
    return image


def _make_html(audit: DatasetAudit, number: int, out: Path) -> str:
    def quote(text: object) -> str:
        return html.escape(str(text).encode(errors='backslashreplace').decode())

    parts = [f'<h1>{quote(audit.name)}</h1><p>{quote(audit.ann_file)}</p>']
    parts += [f'<p>{quote(note)}</p>' for note in audit.notes]
    for index, finding in enumerate(audit.findings):
        title = quote(_title(finding))
        parts.append(f'<h2 class="{title.partition(":")[0]}">{title}</h2>')
        parts.append(f'<details open><summary>{len(finding.texts[:_SHOWN])} shown</summary><ul>')
        parts += [f'<li>{quote(text)}</li>' for text in finding.texts[:_SHOWN]]
        parts.append('</ul></details>')
        for place, picture in enumerate(finding.pictures):
            code = cv2.imencode('.jpg', draw_picture(picture, audit.image_loader))[1].tobytes()
            (out / 'pictures' / f'{number}_{index}_{place}.jpg').write_bytes(code)
            source = f'data:image/jpeg;base64,{base64.b64encode(code).decode()}'
            caption = quote(f'{picture.path}: {picture.caption}')
            parts.append(f'<figure><img src="{source}"><figcaption>{caption}</figcaption></figure>')
    for title, rows in audit.statistics.items():
        cells = ''.join(f'<tr><td>{quote(name)}<td>{count:,}' for name, count in rows)
        parts.append(f'<h3>{quote(title)}</h3><table>{cells}</table>')
    return ''.join(parts)
