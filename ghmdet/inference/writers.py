"""Detections written to files while a run goes on, see docs/predict.md.

A file grows under the name `<name>.part.<suffix>` and gets its own at the end. All but the video of
an .mp4 can be read at every moment, so that a process that is killed loses nothing.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from typing import Any

import cv2
import msgspec
import numpy as np

from ghmdet.files import publish, replacing
from ghmdet.inference.detections import Detections
from ghmdet.inference.sources import image_name

CSV_COLUMNS = ['file', 'frame', 'label', 'name', 'score', 'x1', 'y1', 'x2', 'y2', 'width', 'height']
_FPS = 25.0  # of a video made of images, or of one that does not say
_CODECS = {'.mp4': 'mp4v', '.avi': 'MJPG', '.webm': 'VP80'}
_LISTS = 'images', 'annotations'
_PICTURES = ('.bmp', '.jpe', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


class Writer:
    """One output of a run; the constructor creates its files, and their folders if needed.

    Args:
        path: file or folder.
        classes: names of the labels.
        every: which frames of a video are used, for the speed of the video that is written.
    """

    suffixes: tuple[str, ...] = ()
    """Of a file; empty if `path` is a folder."""
    head = tail = b''
    """What files that grow begin and end with."""

    def __init__(self, path: Path, classes: Sequence[str], every: int = 1) -> None:
        self.path, self.classes, self.every = path, classes, every
        self._stems: dict[str, str] = {}
        (path.parent if self.suffixes else path).mkdir(parents=True, exist_ok=True)
        self._growing = [_GrowingFile(file, self.head, self.tail) for file in self.parts(path)]

    @classmethod
    def parts(cls, path: Path) -> list[Path]:
        """Return the files that grow during the run."""
        return [_part(path)] if cls.suffixes else []

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        """Write the detections of an image; `pixels` gives the image (h, w, 3) in BGR."""
        raise NotImplementedError

    def close(self, finished: bool) -> Path:
        """End the output and return where it is: a file has its own name if the run is finished."""
        for growing in self._growing:
            growing.stream.close()
        self._end()
        if finished and self.suffixes:
            publish(_part(self.path), self.path)
        return self.path if finished or not self.suffixes else _part(self.path)

    def _end(self) -> None:
        pass

    def _stem(self, found: Detections) -> str:
        """Return the name of an image without suffix, or with it where that names another image."""
        name = image_name(found)
        stem = os.path.splitext(name)[0]
        is_first = found.frame is not None or self._stems.setdefault(stem, name) == name
        return stem if is_first else name


class _Json(Writer):
    """COCO results with names; `image_id` is the name of the image."""

    suffixes = ('.json',)
    head, tail = b'[', b'\n]\n'

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        image: dict[str, Any] = {'file_name': _text(found.name)}
        if found.frame is not None:
            image['frame'] = found.frame
        rows = zip(found.to_coco(_text(image_name(found))), found.names, strict=True)
        self._growing[0].extend([{**row, 'category_name': name, **image} for row, name in rows])


class _Coco(Writer):
    """A COCO data set; `annotations` have a `score`. Its two lists grow in a file each."""

    suffixes = ('.json',)
    head, tail = b'[', b'\n]\n'
    images = annotations = 0

    @classmethod
    def parts(cls, path: Path) -> list[Path]:
        return [path.with_name(f'{path.stem}.{key}.part.json') for key in _LISTS]

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        self.images += 1
        (height, width), name = found.shape, _text(image_name(found))
        rows = [
            {'id': number, **row, 'area': row['bbox'][2] * row['bbox'][3], 'iscrowd': 0}
            for number, row in enumerate(found.to_coco(self.images), self.annotations + 1)
        ]
        self.annotations += len(rows)
        image = {'id': self.images, 'file_name': name, 'width': width, 'height': height}
        self._growing[0].extend([image])
        self._growing[1].extend(rows)

    def _end(self) -> None:
        categories = [{'id': i, 'name': name} for i, name in enumerate(self.classes, 1)]
        with replacing(_part(self.path)) as draft, draft.open('wb') as file:
            file.write(b'{"categories": ' + msgspec.json.encode(categories))
            for key, part in zip(_LISTS, self.parts(self.path), strict=True):
                file.write(f', "{key}": '.encode())
                with part.open('rb') as content:
                    copyfileobj(content, file)
            file.write(b'}\n')
        for part in self.parts(self.path):
            part.unlink()


class _Csv(Writer):
    """A row per detection, see `CSV_COLUMNS`; numbers are the shortest that give the float32."""

    suffixes = ('.csv',)
    head = f'{",".join(CSV_COLUMNS)}\r\n'.encode()

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        numbers = np.column_stack([found.scores, found.boxes]).astype(str).tolist()
        (height, width), lead = found.shape, [_text(found.name), found.frame]
        rows = zip(found.labels.tolist(), found.names, numbers, strict=True)
        text = io.StringIO(newline='')
        lines = ([*lead, label, name, *row, width, height] for label, name, row in rows)
        csv.writer(text).writerows(lines)  # RFC 4180; None is an empty field
        self._growing[0].append(text.getvalue().encode())


class _Yolo(Writer):
    """`labels/<name>.txt` for each image, with the scores, and `classes.txt`."""

    def __init__(self, path: Path, classes: Sequence[str], every: int = 1) -> None:
        super().__init__(path, classes, every)
        (path / 'labels').mkdir(exist_ok=True)
        _write(path / 'classes.txt', ''.join(f'{name}\n' for name in classes).encode())

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        _write(self.path / 'labels' / f'{self._stem(found)}.txt', found.to_yolo().encode())


class _Labelme(Writer):
    """A file of LabelMe for each image, with the path to it; of a frame the name it should have."""

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        file, path = self.path / f'{self._stem(found)}.json', PurePosixPath(image_name(found)).name
        if found.frame is None and found.path is not None and '://' not in found.path:
            path = Path(os.path.relpath(found.path, file.parent)).as_posix()
        shape: dict[str, Any] = {'group_id': None, 'shape_type': 'rectangle', 'flags': {}}
        rows = zip(found.names, found.boxes.tolist(), found.scores.tolist(), strict=True)
        content: dict[str, Any] = {
            'version': '5.5.0',
            'flags': {},
            'shapes': [
                {'label': name, 'points': [box[:2], box[2:]], **shape, 'score': score}
                for name, box, score in rows
            ],
            'imagePath': _text(path),
            'imageData': None,
            'imageHeight': found.shape[0],
            'imageWidth': found.shape[1],
        }
        _write(file, msgspec.json.encode(content))


class _Pictures(Writer):
    """The images with their detections drawn, in their format if it is common, else JPEG."""

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        name = image_name(found)
        is_common = os.path.splitext(name)[1].lower() in _PICTURES
        _write_picture(self.path / (name if is_common else f'{name}.jpg'), found.plot(pixels()))


class _Crops(Writer):
    """What is in the boxes: `<class>/<name>_<number in the image, from 0>.jpg`; no empty ones."""

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        image, folders = pixels(), folder_names(found.classes)
        corners = np.hstack([np.floor(found.boxes[:, :2]), np.ceil(found.boxes[:, 2:])])
        boxes = corners.clip(0, image.shape[1::-1] * 2).astype(int).tolist()
        rows, stem = zip(found.labels.tolist(), boxes, strict=True), self._stem(found)
        for number, (label, (x1, y1, x2, y2)) in enumerate(rows):
            if (crop := image[y1:y2, x1:x2]).size:
                _write_picture(self.path / folders[label] / f'{stem}_{number}.jpg', crop)


class _Video(Writer):
    """A video of the drawn frames, as fast as the source, or of images at 25 a second."""

    suffixes = tuple(_CODECS)
    video: Any = None
    size_wh = (0, 0)

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        drawn = found.plot(pixels())
        size_wh = (drawn.shape[1], drawn.shape[0])
        if self.video is None:
            fps, codec = _FPS, cv2.VideoWriter.fourcc(*_CODECS[self.path.suffix.lower()])
            if found.frame is not None:
                fps = cv2.VideoCapture(str(found.path)).get(cv2.CAP_PROP_FPS) / self.every or fps
            self.video = cv2.VideoWriter(str(_part(self.path)), codec, fps, size_wh)
            self.size_wh = size_wh
            if not self.video.isOpened():
                raise OSError(f'--video {self.path}: OpenCV cannot write it, {size_wh} at {fps} Hz')
        if size_wh != self.size_wh:
            raise ValueError(
                f'--video {self.path}: {image_name(found)} is {size_wh} (width, height), those '
                f'before are {self.size_wh}; a video has images of one size'
            )
        self.video.write(drawn)

    def _end(self) -> None:
        if self.video is not None:
            self.video.release()


WRITERS: dict[str, type[Writer]] = {
    'json': _Json,
    'coco': _Coco,
    'csv': _Csv,
    'yolo': _Yolo,
    'labelme': _Labelme,
    'pictures': _Pictures,
    'crops': _Crops,
    'video': _Video,
}


def check_outputs(outputs: Mapping[str, Path], exist_ok: bool = False) -> None:
    """Check the path of each output, by its key in `WRITERS`, before a run.

    Raises:
        ValueError: a file has a wrong suffix or the name of another output; a folder cannot be
            written to.
        FileExistsError: something is there already and `exist_ok` is False.
    """
    taken: dict[Path, str] = {}
    for key, path in outputs.items():
        kind, name = WRITERS[key], f'--{key} {path}'
        if kind.suffixes and path.suffix.lower() not in kind.suffixes:
            raise ValueError(f'{name}: the name must end in {" or ".join(kind.suffixes)}')
        inside = path if kind.suffixes else path / 'file'
        folder = next(parent for parent in inside.parents if parent.exists())
        is_taken = not folder.is_dir() or (kind.suffixes and path.is_dir())
        if is_taken or not os.access(folder, os.W_OK):
            raise ValueError(f'{name}: no file of this name can be created in {folder}')
        targets = [path, _part(path), *kind.parts(path)] if kind.suffixes else [path]
        if key == 'yolo':  # beside other files
            targets = [path / 'labels', path / 'classes.txt']
        for target in targets:
            if (other := taken.setdefault(target.resolve(), name)) != name:
                raise ValueError(f'{name} and {other} would both write {target}; change a name')
            if (any(target.iterdir()) if target.is_dir() else target.exists()) and not exist_ok:
                raise FileExistsError(f'{name}: {target} exists; --exist-ok replaces equal names')


@cache
def folder_names(classes: tuple[str, ...]) -> list[str]:
    """Return for each class a name of its own that is valid for a folder on all systems."""
    names: list[str] = []
    for label, name in enumerate(classes):
        safe = re.sub(r'[\x00-\x1f<>:"/\\|?*]', '_', name).strip(' .') or f'class_{label}'
        is_taken = safe.lower() in {other.lower() for other in names}
        names.append(f'{safe}_{label}' if is_taken else safe)
    return names


class _GrowingFile:
    """A file to which is added before its `tail`, which makes it valid at every moment."""

    def __init__(self, file: Path, head: bytes, tail: bytes = b'') -> None:
        self.file, self.tail, self.end = file, tail, 0
        self.stream = file.open('wb', buffering=0)
        self.append(head)

    def append(self, content: bytes) -> None:
        """Add it with the tail in one call to the system."""
        rest = memoryview(content + self.tail)
        self.stream.seek(self.end)
        try:
            while rest:
                rest = rest[self.stream.write(rest) :]
        except OSError:  # the disk is full
            self.stream.seek(self.end)
            self.stream.write(self.tail)
            self.stream.truncate()
            raise
        self.end += len(content)

    def extend(self, items: Sequence[Any]) -> None:
        """Add items to a list in JSON."""
        if items:
            text = b',\n'.join(map(msgspec.json.encode, items))
            self.append((b'\n' if self.end == 1 else b',\n') + text)


def _part(path: Path) -> Path:
    return path.with_name(f'{path.stem}.part{path.suffix}')


def _text(name: str) -> str:
    """Return a file name with the bytes that are not UTF-8 written as escapes."""
    return name.encode('utf-8', 'backslashreplace').decode()


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, flush=False) as draft:
        draft.write_bytes(content)


def _write_picture(file: Path, pixels: np.ndarray) -> None:
    _write(file, cv2.imencode(file.suffix.lower(), pixels)[1].tobytes())
