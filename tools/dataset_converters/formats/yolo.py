"""YOLO: a text file of labels per image, with data.yaml, with Darknet's files, or with neither."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from export_records import Box, Export, Image, find_split, list_files, show_progress
from image_finder import ImageFinder, find_images, list_images, read_size
from shapes_to_boxes import polygon_box

from ghmdet.files import find_look_alike, fold_name, read_lines, read_text
from ghmdet.messages import list_items

NAME = 'YOLO'
_NAME_FILES = (
    'classes.txt',
    'obj.names',
    '_darknet.labels',
    'labels.txt',
    'predefined_classes.txt',
)
_SETS = {'train': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val', 'test': 'test'}
_IMAGE_FOLDERS = ('images', 'jpegimages', 'img', 'imgs')
# A number this large is in pixels, not relative to the image; those of boxes that reach beyond the
# image are a little above 1.
_LARGEST = 2


@dataclass
class _Settings:
    """What data.yaml or Darknet's obj.data says."""

    file: Path | None = None
    names: dict[int, str] | None = None
    sets: dict[str, list[str]] = field(default_factory=dict)
    """Folders and lists of images, by split."""
    root: str = ''
    num_keypoint_values: int = 0
    note: str = ''


class _Labels:
    """The label files, found by the path of their image."""

    def __init__(self, files: Sequence[Path], images: Iterable[Path]) -> None:
        self.files = files
        self.used: set[Path] = set()
        self._by_key = {_label_key(file): file for file in files}
        of_images = set(map(_label_key, images))
        # Of the others the file name alone counts: images and labels may lie in different places.
        self._by_stem: dict[str, list[Path]] = {}
        for key, file in self._by_key.items():
            if key not in of_images:
                self._by_stem.setdefault(key[-1], []).append(file)

    def find(self, image: Path) -> Path | None:
        """Return the label file of an image; None if there is none, or if several fit."""
        key = _label_key(image)
        found = self._by_key.get(key)
        if found is None:
            files = self._by_stem.get(key[-1], [])
            lengths = [_count_common(_label_key(file), key) for file in files]
            fit = [f for f, n in zip(files, lengths, strict=True) if n == max(lengths)]
            found = fit[0] if len(fit) == 1 else None
        self.used.update([found] if found else [])
        return found


def recognise(source: Path) -> str:
    """Say why a source is of this format, '' if it is not."""
    settings = _find_settings(source, strict=False)
    if settings.file:
        return f'{settings.file.name} names {", ".join(settings.sets) or "the classes"}'
    files = [file for file in _list_labels(source)[:20] if _read_numbers(file)]
    return f'{files[0].name} has lines of a class and numbers' if files else ''


def read(source: Path, images: Path | None) -> Export:
    """Read a folder, its data.yaml or its obj.data.

    Raises:
        ValueError: data.yaml is broken, or nothing that it names is there.
        FileNotFoundError: there is no image.
    """
    export, settings = Export(NAME, relative=True), _find_settings(source)
    base = Path(os.path.abspath(source if source.is_dir() else source.parent))
    root = _find_path(settings.root, [base, Path.cwd()]) if settings.root else None
    finder = find_images(source, images or root)
    known = _known_names(settings, base)
    if known is None:
        print('no names of classes (data.yaml, classes.txt, obj.names): they are named by number')
    if settings.note:
        print(settings.note)
    missing: set[str] = set()
    places = [root or base, base]
    entries = [entry for of_split in settings.sets.values() for entry in of_split]
    if images and not any(_find_path(entry, [*places, images]) for entry in entries):
        if entries:
            print(f'no set of {settings.file} is there, so all images of {images} are read')
        settings.sets = {}
    pairs = list(_list_pairs(export, settings, finder, places, missing))
    paths = [*finder.paths, *(path for path, _ in pairs)]
    labels = _Labels(_find_labels([base, *finder.folders], paths), paths)
    reader = _Reader(export, known, settings.num_keypoint_values)
    for path, split in show_progress(pairs, 'label files'):
        reader.read_image(path, labels.find(path), split)
    for path in finder.paths:  # also those that no set names
        labels.find(path)
    for file in labels.files:
        if file not in labels.used and (lines := _read_numbers(file)):
            export.num_boxes += len(lines)
            export.lost['boxes'] += len(lines)
            lost = '' if fold_name(file.stem) in missing else 'images'
            export.report(str(file), 'no image for these labels', lost)
    export.classes = reader.list_classes()
    reader.print_notes()
    return export


class _Reader:
    """Reads label files into an export and counts what is in them."""

    def __init__(
        self, export: Export, names: dict[int, str] | None, num_keypoint_values: int
    ) -> None:
        self.export = export
        self.names = names
        self.num_keypoint_values = num_keypoint_values
        self.seen: set[int] = set()
        self.num_without_file = self.num_scores = self.num_keypoints = 0

    def read_image(self, path: Path, label: Path | None, split: str) -> None:
        """Add an image with the boxes of its label file."""
        self.num_without_file += label is None
        lines = []
        try:
            lines = read_text(label).split('\n') if label else []
            size = read_size(path)
        except (OSError, ValueError) as error:
            num = sum(bool(line.strip()) for line in lines)
            self.export.num_boxes += num
            self.export.lost['boxes'] += num
            self.export.report(f'{label if not lines else path}', str(error), 'images')
            return
        image = Image(path, size, split=split)
        for number, line in enumerate(lines, start=1):
            if line.strip():
                self.export.num_boxes += 1
                place = f'{label}: line {number}'
                try:
                    image.boxes.append(self._read_line(line.split(), size, place))
                except ValueError as error:
                    self.export.report(place, str(error), 'boxes')
        self.export.images.append(image)

    def list_classes(self) -> list[str]:
        if self.names is not None:
            return list(dict.fromkeys(self.names[index] for index in sorted(self.names)))
        return [str(index) for index in sorted(self.seen)]

    def print_notes(self) -> None:
        for count, text in (
            (self.num_without_file, 'images have no label file: they have no boxes'),
            (self.num_scores, 'boxes have a sixth number, the confidence, which is not used'),
            (self.num_keypoints, 'boxes have keypoints, which are not used'),
        ):
            if count:
                print(f'{count} {text}')

    def _read_line(self, words: list[str], size_wh: tuple[int, int], place: str) -> Box:
        try:
            index, *numbers = (float(word) for word in words)
        except ValueError:
            raise ValueError(f'is not numbers: {" ".join(words)[:100]}') from None
        if not index.is_integer() or (self.names is not None and int(index) not in self.names):
            known = '' if self.names is None else f', of which there are {len(self.names)}'
            raise ValueError(f'{words[0]} is no number of a class{known}')
        if any(abs(n) > _LARGEST for n in (numbers[:4] if len(numbers) == 5 else numbers)):
            raise ValueError(
                f'expected numbers relative to the image, got {" ".join(words[1:5])}: pixels?'
            )
        corners, kind = self._read_shape(numbers)
        self.export.converted.update([kind] if kind else [])
        self.seen.add(int(index))
        name = str(int(index)) if self.names is None else self.names[int(index)]
        w, h = size_wh
        x1, y1, x2, y2 = corners
        return Box(name, (x1 * w, y1 * h, x2 * w, y2 * h), place=place)

    def _read_shape(self, numbers: list[float]) -> tuple[tuple[float, float, float, float], str]:
        """Return the corners of the box, and of which shape it was made, '' if of none."""
        count = len(numbers)
        has_keypoints = self.num_keypoint_values and count == 4 + self.num_keypoint_values
        if count in (4, 5) or has_keypoints:
            self.num_scores += count == 5
            self.num_keypoints += bool(has_keypoints)
            x, y, w, h = numbers[:4]
            return (x - w / 2, y - h / 2, x + w / 2, y + h / 2), ''
        if count < 6 or count % 2:
            raise ValueError(
                f'expected a class and 4 numbers of a box, 8 of a rotated box or those of a '
                f'polygon, got {count} after the class'
            )
        points = list(zip(numbers[::2], numbers[1::2], strict=True))
        return polygon_box(points), 'rotated boxes' if count == 8 else 'polygons'


def _find_settings(source: Path, strict: bool = True) -> _Settings:
    """Read data.yaml or obj.data; a broken one is a ValueError if `strict`."""
    candidates = [source] if source.is_file() else []
    if source.is_dir():
        candidates = sorted(source.glob('*.y*ml')) + sorted(source.glob('*.data'))
    found = []
    for file in candidates:
        try:
            if settings := _read_settings(file):
                found.append(settings)
        except ValueError:
            if strict:
                raise
    if len(found) > 1 and strict:
        files = list_items(str(settings.file) for settings in found)
        raise ValueError(f'several files describe the data: {files}; give one of them as SOURCE')
    return found[0] if found else _Settings()


def _read_settings(file: Path) -> _Settings | None:
    if file.suffix == '.data':
        pairs = [line.partition('=') for line in read_lines(file)]
        data: Any = {key.strip(): value.strip() for key, _, value in pairs}
    elif file.suffix.lower() in ('.yaml', '.yml'):
        try:
            data = yaml.safe_load(read_text(file))
        except yaml.YAMLError as error:
            raise ValueError(f'{file}: broken YAML: {" ".join(str(error).split())}') from None
    else:
        return None
    if not isinstance(data, dict) or not {'names', 'train', 'nc'} & set(data):
        return None
    keypoints = data.get('kpt_shape')
    product = keypoints[0] * keypoints[1] if isinstance(keypoints, list) else 0
    settings = _Settings(file, root=str(data.get('path') or ''), num_keypoint_values=product)
    settings.names = _read_names(data.get('names'), file)
    for key, split in _SETS.items():
        entries = data.get(key)
        entries = [entries] if isinstance(entries, str) else entries
        if isinstance(entries, list):
            settings.sets.setdefault(split, []).extend(map(str, entries))
    count = data.get('nc')
    if settings.names is not None and isinstance(count, int) and count != len(settings.names):
        settings.note = (
            f'{file}: nc is {count}, but there are {len(settings.names)} names, which count'
        )
    return settings


def _read_names(names: Any, file: Path) -> dict[int, str] | None:
    """Read the names of data.yaml, a list or a dict; of obj.data, the file that has them."""
    if isinstance(names, str):
        found = _find_path(names, [file.parent])
        return dict(enumerate(read_lines(found))) if found else None
    if names is None:
        return None
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    try:
        return {int(index): str(name).strip() for index, name in pairs}
    except (TypeError, ValueError):
        raise ValueError(f'{file}: names must be a list, or a dict by number') from None


def _known_names(settings: _Settings, base: Path) -> dict[int, str] | None:
    if settings.names is not None:
        return settings.names
    folders = (base, base / 'labels', base.parent, *sorted(f for f in base.iterdir() if f.is_dir()))
    for file in (folder / name for name in _NAME_FILES for folder in folders):
        if file.is_file():
            print(f'names of the classes: {file}')
            return dict(enumerate(read_lines(file)))
    return None


def _list_pairs(
    export: Export,
    settings: _Settings,
    finder: ImageFinder,
    roots: list[Path],
    missing: set[str],
) -> Iterator[tuple[Path, str]]:
    """Yield each image with its split; add the names of those that are not there to `missing`."""
    if not settings.sets:
        folder = finder.folders[0]
        yield from ((path, find_split(path.relative_to(folder).parent)) for path in finder.paths)
        return
    for split, entries in settings.sets.items():
        for entry in entries:
            place = _find_path(entry, [*roots, *finder.folders])
            if place is None:
                # Many exports name a test set that they do not have.
                lost = '' if split == 'test' else 'images'
                where = f'{settings.file}: {split}: {entry}'
                export.report(where, 'no such folder or list', lost)
            elif place.is_dir():
                yield from ((path, split) for path in list_images(place))
            else:
                for line in read_lines(place):
                    if path := finder.find(line, beside=place.parent):
                        yield path, split
                    else:
                        export.report(f'{place}: {line}', finder.explain(line), 'images')
                        missing.add(fold_name(Path(line.replace('\\', '/')).stem))


def _find_path(entry: str, roots: list[Path]) -> Path | None:
    """Find a folder or file as it is named, or by the end of its name, below one of the roots."""
    parts = [part for part in entry.replace('\\', '/').split('/') if part not in ('', '.', '..')]
    ends = ['/'.join(parts[number:]) for number in range(len(parts))]
    if find_split(Path(*parts)):  # `images` alone is not what `../train/images` means
        ends = [end for end in ends if fold_name(end) not in _IMAGE_FOLDERS]
    candidates = [root / end for end in (entry, *ends) for root in roots]
    for path in candidates:
        if found := find_look_alike(os.path.abspath(path)):
            return Path(found)
    return None


def _find_labels(roots: list[Path], images: Iterable[Path]) -> list[Path]:
    """List the text files below the roots, and of images elsewhere those beside them."""
    for folder in dict.fromkeys(path.parent for path in images):
        if not any(map(folder.is_relative_to, roots)):
            parts = ['labels' if part in _IMAGE_FOLDERS else part for part in folder.parts]
            roots = [*roots, folder, Path(*parts)]
    return list(dict.fromkeys(file for root in roots for file in _list_labels(root)))


def _list_labels(source: Path) -> list[Path]:
    files = list_files(source, '.txt') if source.is_dir() else []
    return [
        f for f in files if f.name not in _NAME_FILES and not f.name.lower().startswith('readme')
    ]


def _read_numbers(file: Path) -> list[str]:
    """Return the lines of a label file; none if it is another text, such as a list of images."""
    try:
        lines = read_lines(file)
    except (OSError, ValueError):
        return []
    is_label = lines and all(re.fullmatch(r'\d+(\.0+)?(\s+[-+.\deE]+){4,}', s) for s in lines[:5])
    return lines if is_label else []


def _label_key(path: Path) -> tuple[str, ...]:
    """Return what an image and its label file have in common: folders and name without ending."""
    folders = [fold_name(part) for part in path.parent.parts]
    return (*(f for f in folders if f not in ('labels', *_IMAGE_FOLDERS)), fold_name(path.stem))


def _count_common(a: Sequence[str], b: Sequence[str]) -> int:
    pairs = zip(reversed(a), reversed(b), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
