"""Detections written to files while a run goes on, see docs/use/predict.md.

A file grows under the name `<name>.part.<suffix>` and gets its own at the end. All but the video of
an .mp4 can be read at every moment, so that a process that is killed loses nothing.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from msgspec.json import encode

from ghmdet.files import publish, replacing
from ghmdet.inference.detections import Detections
from ghmdet.inference.sources import image_name

CSV_COLUMNS = ['file', 'frame', 'label', 'name', 'score', 'x1', 'y1', 'x2', 'y2', 'width', 'height']
_FPS = 25.0  # of a video made of images, or of one that does not say
_CODECS = {'.mp4': 'mp4v', '.avi': 'MJPG', '.webm': 'VP80'}
_PICTURES = ('.bmp', '.jpe', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


class Writer:
    """One output of a run; the constructor creates its files, and their folders if needed.

    `classes` are the names of the labels; of videos, each `every`-th frame is used.
    `write(found, pixels)` adds the detections of an image, which `pixels()` gives (h, w, 3) in BGR.
    """

    suffixes: tuple[str, ...] = ()  # of a file; empty if `path` is a folder
    lists: tuple[str, ...] = ('',)  # what the names of the files that grow have in addition
    head = tail = b''  # what these begin and end with

    def __init__(self, path: Path, classes: Sequence[str], every: int = 1) -> None:
        self.path, self.classes, self.every = path, classes, every
        self._stems: dict[str, str] = {}
        (path.parent if self.suffixes else path).mkdir(parents=True, exist_ok=True)
        self.parts = [_part(path, name) for name in self.lists if self.suffixes]
        for part in self.parts:
            part.write_bytes(self.head + self.tail)

    def close(self, finished: bool) -> Path:
        """End the output and return where it is: a file has its own name if the run is finished."""
        if self.suffixes and finished:
            publish(_part(self.path), self.path)
        return _part(self.path) if self.suffixes and not finished else self.path

    def _stem(self, found: Detections) -> str:
        """Return the name of an image without suffix, or with it where that names another image."""
        name = image_name(found)
        stem = os.path.splitext(name)[0]
        is_first = found.frame is not None or self._stems.setdefault(stem, name) == name
        return stem if is_first else name

    def _append(self, content: bytes, separator: bytes = b'', part: int = 0) -> None:
        """Add to a file that grows, with its tail in one call to the system: it is always valid."""
        with self.parts[part].open('rb+', buffering=0) as stream:
            end = stream.seek(-len(self.tail), os.SEEK_END)
            rest = memoryview(separator * (end > len(self.head)) + content + self.tail)
            try:
                while rest:
                    rest = rest[stream.write(rest) :]
            except OSError:  # the disk is full
                stream.seek(end)
                stream.write(self.tail)
                stream.truncate()
                raise


class _Json(Writer):
    """COCO results with names; `image_id` is the name of the image."""

    suffixes, head, tail = ('.json',), b'[', b'\n]\n'

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        frame = {} if found.frame is None else {'frame': found.frame}
        about = {'file_name': _text(found.name), **frame}
        rows = zip(found.to_coco(_text(image_name(found))), found.names, strict=True)
        self._extend({**row, 'category_name': name, **about} for row, name in rows)

    def _extend(self, items: Iterable[Any], part: int = 0) -> None:
        if content := b','.join(b'\n' + encode(item) for item in items):
            self._append(content, b',', part)


class _Coco(_Json):
    """A COCO data set; `annotations` have a `score`. Its two lists grow in a file each."""

    lists = '.images', '.annotations'
    images = annotations = 0

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        self.images += 1
        (height, width), name = found.shape, _text(image_name(found))
        self._extend([dict(id=self.images, file_name=name, width=width, height=height)])
        rows = found.to_coco(self.images)
        for number, row in enumerate(rows, self.annotations + 1):
            area = row['bbox'][2] * row['bbox'][3]
            row.update(id=number, area=area, iscrowd=0, segmentation=[])  # CVAT needs all of them
        self._extend(rows, 1)
        self.annotations += len(rows)

    def close(self, finished: bool) -> Path:
        categories = [dict(id=i, name=name) for i, name in enumerate(self.classes, 1)]
        with replacing(_part(self.path)) as draft, draft.open('wb') as file:
            file.write(b'{"categories": ' + encode(categories))
            for name, part in zip(self.lists, self.parts, strict=True):
                file.write(f', "{name[1:]}": '.encode())
                with part.open('rb') as content:
                    file.writelines(content)
            file.write(b'}\n')
        for part in self.parts:
            part.unlink()
        return super().close(finished)


class _Csv(Writer):
    """A row per detection, see `CSV_COLUMNS`; numbers are the shortest that give the float32."""

    suffixes = ('.csv',)
    head = f'{",".join(CSV_COLUMNS)}\r\n'.encode()

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        numbers = np.column_stack([found.scores, found.boxes]).astype(str).tolist()
        rows = zip(found.labels.tolist(), found.names, numbers, strict=True)
        (height, width), lead, text = found.shape, [_text(found.name), found.frame], io.StringIO()
        lines = ([*lead, label, name, *row, width, height] for label, name, row in rows)
        csv.writer(text).writerows(lines)  # RFC 4180; None is an empty field
        self._append(text.getvalue().encode())


class _Yolo(Writer):
    """`labels/<name>.txt` for each image, with the scores, and `classes.txt`."""

    def __init__(self, path: Path, classes: Sequence[str], every: int = 1) -> None:
        super().__init__(path, classes, every)
        write_file(path / 'classes.txt', ''.join(f'{name}\n' for name in classes).encode())

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        write_file(self.path / 'labels' / f'{self._stem(found)}.txt', found.to_yolo().encode())


class _Labelme(Writer):
    """A file of LabelMe for each image, with the path to it; of a frame the name it should have."""

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        file, path = self.path / f'{self._stem(found)}.json', PurePosixPath(image_name(found)).name
        if found.frame is None and found.path is not None and '://' not in found.path:
            path = Path(os.path.relpath(found.path, file.parent)).as_posix()
        kind: dict[str, Any] = dict(group_id=None, shape_type='rectangle', flags={})
        shapes = [
            dict(label=name, points=box.reshape(2, 2).tolist(), **kind, score=score)
            for box, score, _, name in found
        ]
        size = dict(imageHeight=found.shape[0], imageWidth=found.shape[1])
        image = dict(imagePath=_text(path), imageData=None, **size)
        write_file(file, encode(dict(version='5.5.0', flags={}, shapes=shapes, **image)))


class _Pictures(Writer):
    """The images with their detections drawn, in their format if it is common, else JPEG."""

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        write_picture(self.path / image_name(found), found.plot(pixels()))


class _Crops(Writer):
    """What is in the boxes: `<class>/<name>_<number in the image, from 0>.jpg`; no empty ones."""

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        image, stem = pixels(), self._stem(found)
        corners = np.hstack([np.floor(found.boxes[:, :2]), np.ceil(found.boxes[:, 2:])])
        boxes = corners.clip(0, image.shape[1::-1] * 2).astype(int).tolist()
        for number, (name, (x1, y1, x2, y2)) in enumerate(zip(found.names, boxes, strict=True)):
            if (crop := image[y1:y2, x1:x2]).size:
                folder = re.sub(r'[\x00-\x1f<>:"/\\|?*]', '_', name).strip(' .') or 'no name'
                write_picture(self.path / folder / f'{stem}_{number}.jpg', crop)


class _Video(Writer):
    """A video of the drawn frames, as fast as the source, or of images at 25 a second."""

    suffixes = tuple(_CODECS)
    video: Any = None

    def write(self, found: Detections, pixels: Callable[[], np.ndarray]) -> None:
        drawn = found.plot(pixels())
        size_wh = drawn.shape[1::-1]
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

    def close(self, finished: bool) -> Path:
        if self.video is not None:
            self.video.release()
        return super().close(finished)


_FILES: dict[str, Any] = dict(json=_Json, coco=_Coco, csv=_Csv, video=_Video)
_FOLDERS = dict(yolo=_Yolo, labelme=_Labelme, pictures=_Pictures, crops=_Crops)
WRITERS = _FILES | _FOLDERS


def check_outputs(outputs: Mapping[str, Path], exist_ok: bool = False) -> None:
    """Raise, before a run, unless the path of each output (by its key in `WRITERS`) can be used.

    It has the right suffix and no name of another output, its folder can be written to, and
    nothing is there already unless `exist_ok`.
    """
    taken: dict[Path, str] = {}
    for key, path in outputs.items():
        kind, name, is_file = WRITERS[key], f'--{key} {path}', key in _FILES
        if is_file and path.suffix.lower() not in kind.suffixes:
            raise ValueError(f'{name}: the name must end in {" or ".join(kind.suffixes)}')
        folder = next(each for each in (path / 'file').parents[is_file:] if each.exists())
        if not (folder.is_dir() and os.access(folder, os.W_OK)) or (is_file and path.is_dir()):
            raise ValueError(f'{name}: no file of this name can be created in {folder}')
        targets = [path, *(_part(path, each) for each in ('', *kind.lists) if is_file)]
        if key == 'yolo':  # beside other files
            targets = [path / 'labels', path / 'classes.txt']
        for target in targets:
            if (other := taken.setdefault(target.resolve(), name)) != name:
                raise ValueError(f'{name} and {other} would both write {target}; change a name')
            if (any(target.iterdir()) if target.is_dir() else target.exists()) and not exist_ok:
                raise FileExistsError(f'{name}: {target} exists; --exist-ok replaces equal names')


def _part(path: Path, name: str = '') -> Path:
    return path.with_name(f'{path.stem}{name}.part{path.suffix}')


def _text(name: str) -> str:
    """Return a file name with the bytes that are not UTF-8 written as escapes."""
    return name.encode('utf-8', 'backslashreplace').decode()


def write_file(file: Path, content: bytes) -> None:
    """Write a file at once, and the folders for it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, flush=False) as draft:
        draft.write_bytes(content)


def write_picture(file: Path, pixels: np.ndarray) -> None:
    """Write an image (h, w, 3) in BGR, as `.jpg` if the suffix is of no common format."""
    if file.suffix.lower() not in _PICTURES:
        file = file.with_name(f'{file.name}.jpg')
    write_file(file, cv2.imencode(file.suffix.lower(), pixels)[1].tobytes())
