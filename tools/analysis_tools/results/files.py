"""Detections in files, as `CocoMetric` keeps them: COCO's JSON, or the pickle of a test.

A pickle may call any function. Only what a test writes is read; all else is refused.
"""

from __future__ import annotations

import io
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import msgspec
import numpy as np
import torch
from mmengine.logging import print_log
from results.arguments import SUFFIXES

from ghmdet.coco.classes import suggest_name
from ghmdet.coco.faults import MAX_PIXELS, explain_json, show
from ghmdet.coco.records import CategoryRecord, Id, ImageRecord
from ghmdet.evaluation.coco_annotations import CocoAnnotations
from ghmdet.files import explain_look_alike
from ghmdet.messages import list_items

_KEYS = 'labels', 'bboxes', 'scores'


class _Record(msgspec.Struct, gc=False):
    image_id: Id
    bbox: tuple[float, float, float, float]
    score: float
    category_id: Id = None
    category_name: str | None = None
    file_name: str | None = None


class _DataSet(msgspec.Struct):
    annotations: list[_Record]
    images: list[ImageRecord]
    categories: list[CategoryRecord]


_FORMS = list[_Record] | _DataSet
_DECODER = msgspec.json.Decoder(_FORMS)


class _Columns(msgspec.Struct):
    """Detections: ids and names of images and categories, corners, scores, and what to call one."""

    images: Sequence[tuple[Hashable, str | None]]
    categories: Sequence[tuple[Hashable, str | None]]
    bbox: np.ndarray
    score: np.ndarray
    name: Callable[[int], str]


def read_results(
    path: str | os.PathLike[str], truth: CocoAnnotations, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Read the detections of a file for all images of an annotation file, in its order.

    A `.json` has COCO results, also with `file_name` and `category_name` as `ghmdet.predict` writes
    them, or is a COCO data set whose annotations have a `score`. A `.pkl` or `.pickle` has a dict
    with `img_id` and `pred_instances` for each image, as `tools/test.py --out` and MMDetection
    write it; its labels are indices in `classes`.

    An image is found by its id. If that is unknown, or the file names the image too, one of the two
    file names must end in the other, for no second image. Categories are found by name if the file
    has names, else by id. Detections of other categories of the annotation file are left out, which
    is logged, and so are boxes of negative width or height, which find nothing.

    Returns:
        Dicts with `img_id`, `bboxes` float (n, 4) x1, y1, x2, y2 in pixels of the original image,
        `scores` float (n,), `labels` int64 (n,); n is 0 where the file has nothing.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another kind of file, damaged, or refused; an image or a category is
            unknown; a number is not finite.
    """
    file = Path(path).expanduser()
    if file.suffix not in SUFFIXES:
        raise ValueError(f'{file}: the name of a file of detections must end in {SUFFIXES}')
    if not file.is_file():
        raise FileNotFoundError(f'no file of detections {file}{explain_look_alike(file)}')
    columns = _read_json(file) if file.suffix == '.json' else _read_pickle(file, truth, classes)
    _check_numbers(file, columns)
    image = _find_images(file, columns.images, truth)
    label = _find_labels(file, columns.categories, truth, classes)
    if dropped := int((label < 0).sum()):
        text = f'{file}: {dropped:,} detections of categories that are not measured are left out'
        print_log(text, logger='current')
    kept = np.flatnonzero(label >= 0)
    kept = kept[np.argsort(image[kept], kind='stable')]
    ends = np.searchsorted(image[kept], np.arange(1, len(truth.images)))
    parts = (np.split(column[kept], ends) for column in (label, columns.bbox, columns.score))
    rows = zip(truth.images, *parts, strict=False)  # without images there is one part
    return [{'img_id': id_} | dict(zip(_KEYS, row, strict=True)) for id_, *row in rows]


def _check_numbers(file: Path, columns: _Columns) -> None:
    bbox, score = columns.bbox, columns.score
    wrong = ~(np.abs(bbox) <= MAX_PIXELS).all(1) | ~np.isfinite(score)
    if total := int(wrong.sum()):
        named = (
            f'{columns.name(i)}: x1 y1 x2 y2 {bbox[i].tolist()}, score {score[i]}'
            for i in np.flatnonzero(wrong)[:3].tolist()
        )
        raise ValueError(
            f'{file}: {total:,} detections with a number that is not finite or above 1e9: '
            f'{list_items(named, 3, "; ", total)}'
        )
    if negative := int((bbox[:, 2:] < bbox[:, :2]).any(1).sum()):
        text = f'{file}: {negative:,} detections have a negative width or height and find nothing'
        print_log(text, logger='current')


def _find_images(
    file: Path, keys: Sequence[tuple[Hashable, str | None]], truth: CocoAnnotations
) -> np.ndarray:
    """Return the index of the image of each detection."""
    index: dict[Any, int] = {id_: i for i, id_ in enumerate(truth.images)}
    named = [_parts(image.file_name or '') for image in truth.images.values()]
    by_base: dict[str, list[int]] = {}
    for i, parts in enumerate(named):
        by_base.setdefault(parts[-1] if parts else '', []).append(i)

    def find(id_: Hashable, name: str | None) -> int:
        own = index.get(id_, -1)
        if own >= 0 and (name is None or not named[own]):
            return own
        parts = _parts(id_ if name is None and isinstance(id_, str) else name or '')
        likeness = {
            i: (min(len(named[i]), len(parts)), named[i] == parts)
            for i in (by_base.get(parts[-1], ()) if parts else ())
            if named[i][-len(parts) :] == parts[-len(named[i]) :]
        }
        best = [i for i, value in likeness.items() if value == max(likeness.values())]
        return own if own in best else best[0] if len(best) == 1 else -1

    found = {key: find(*key) for key in dict.fromkeys(keys)}
    if unknown := [key for key, i in found.items() if i < 0]:
        listed = list_items(show(id_) if name is None else show(name) for id_, name in unknown)
        raise ValueError(
            f'{file}: {len(unknown):,} of {len(found):,} images are not in {truth.source}, or '
            f'several could be meant: {listed}; that file has '
            f'{list_items(map(show, truth.images), 3) or "no images"}. Give the annotation file of '
            'the images that the detections are of'
        )
    return np.array([found[key] for key in keys], np.int64)


def _parts(name: str) -> tuple[str, ...]:
    return PurePath(name.replace('\\', '/')).parts


def _find_labels(
    file: Path,
    keys: Sequence[tuple[Hashable, str | None]],
    truth: CocoAnnotations,
    classes: Sequence[str],
) -> np.ndarray:
    """Return the label of each detection, -1 for categories that are no classes."""
    names: Mapping[Any, str] = truth.categories or dict(
        zip(truth.find_categories(classes), classes, strict=True)
    )
    label_of: dict[Any, int] = dict.fromkeys(names.values(), -1) | {
        name: i for i, name in enumerate(classes)
    }
    found = {
        (id_, name): label_of.get(names.get(id_) if name is None else name)
        for id_, name in dict.fromkeys(keys)
    }
    if unknown := [key for key, label in found.items() if label is None]:
        listed = (
            f'id {show(i)}' if n is None else suggest_name(n, [*label_of]) for i, n in unknown
        )
        pairs = list_items((f'{show(id_)} {name}' for id_, name in names.items()), 10)
        raise ValueError(
            f'{file}: categories that are not in {truth.source}: {list_items(listed)}; that file '
            f'has {pairs or "none"}. Give the annotation file with the categories of the detections'
        )
    return np.array([found[key] for key in keys], np.int64)


def _read_json(file: Path) -> _Columns:
    content = file.read_bytes()
    try:
        data = _DECODER.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):  # also NaN, which json reads
        with explain_json(str(file)):
            values = json.loads(content)
        try:
            data = msgspec.convert(values, _FORMS)
        except msgspec.ValidationError as error:
            raise ValueError(
                f'{file}: expected COCO results, a list of objects with image_id, category_id, '
                f'bbox and score, or a COCO data set whose annotations have a score: {error}'
            ) from None
    names: list[dict] = [{}, {}]
    if isinstance(data, _DataSet):
        names[0] = {image.id: image.file_name for image in data.images}
        names[1] = {category.id: category.name for category in data.categories}
        data = data.annotations
    bbox = np.array([r.bbox for r in data], np.float64).reshape(-1, 4)
    bbox[:, 2:] += bbox[:, :2]
    return _Columns(
        [(r.image_id, r.file_name or names[0].get(r.image_id)) for r in data],
        [(r.category_id, r.category_name or names[1].get(r.category_id)) for r in data],
        bbox,
        np.array([r.score for r in data], np.float64),
        lambda i: f'entry {i} of image {show(data[i].image_id)}',
    )


def _read_pickle(file: Path, truth: CocoAnnotations, classes: Sequence[str]) -> _Columns:
    images: dict[tuple[Hashable, str | None], list[np.ndarray]] = {}
    for index, sample in enumerate(_load_pickle(file)):
        found = sample.get('pred_instances') if isinstance(sample, Mapping) else None
        if not isinstance(found, Mapping) or not {'img_id'} <= sample.keys():
            hint = ' (as of MMDetection 2: write JSON there, tools/test.py --format-only)'
            old = isinstance(sample, list | tuple | _Array)
            raise ValueError(
                f"{file}: expected a dict with 'img_id' and 'pred_instances' for each image, got "
                f'a {type(sample).__name__.strip("_")} at index {index}{hint if old else ""}'
            )
        id_, path = sample['img_id'], sample.get('img_path')
        key = id_, path if isinstance(path, str) and id_ not in truth.images else None
        columns = [_to_array(found.get(name, ())) for name in _KEYS]
        columns[1] = columns[1].reshape(-1, 4)
        if len(set(map(len, columns))) > 1:
            raise ValueError(f'{file}: index {index}: {", ".join(_KEYS)} differ in length')
        images.setdefault(key, columns)  # samplers repeat images
    empty = [np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32)]
    label, bbox, score = map(np.concatenate, zip(empty, *images.values(), strict=True))
    keys = [key for key, (labels, *_) in images.items() for _ in labels]
    if (wrong := label[(label < 0) | (label >= len(classes))]).size:
        raise ValueError(
            f'{file} has label {wrong[0]}, but there are {len(classes)} classes: '
            f'{list_items(classes, 10)}. Labels of a pickle are indices in the classes of the '
            'model; give its config in place of the annotation file'
        )
    categories = [(None, classes[i]) for i in label.astype(int).tolist()]
    return _Columns(keys, categories, bbox, score, lambda i: f'image {show(keys[i][0])}')


def _to_array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return (value.float() if value.is_floating_point() else value).detach().numpy()
    return np.asarray(value.array if isinstance(value, _Array) else value)


class _Refused(Exception):
    """The pickle needs something that is not on the allow-list."""


def _load_pickle(file: Path) -> Sequence[Any]:
    try:
        with file.open('rb') as stream:
            data = _Unpickler(stream).load()
    except _Refused as refusal:
        raise ValueError(
            f'{file} was refused: loading it would use {refusal}, and only dicts, lists, numbers, '
            'text, tensors and numeric arrays are expected in a file of detections. Write the '
            'detections as JSON: tools/test.py --out found.json'
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(
            f'{file} ({file.stat().st_size} bytes) cannot be read ({type(error).__name__}: '
            f'{error}). It is truncated or damaged, or no pickle of a test: write it again'
        ) from None
    if not isinstance(data, list | tuple):
        raise ValueError(f'{file}: expected a list of images, got a {type(data).__name__}')
    return data


class _Dtype:
    """Stands for a numpy dtype: its state in the file must not reach numpy's own."""

    def __init__(self, spec: Any, *_: Any) -> None:
        self.dtype = np.dtype(spec if isinstance(spec, str) else 'O')
        if self.dtype.kind not in 'biuf':
            raise _Refused(f'numpy.dtype({spec!r})')

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for a numpy array."""

    def __init__(self, *_: Any) -> None:
        self.array = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_column, raw = state
        values = np.frombuffer(raw, dtype.dtype)
        self.array = values.reshape(shape, order='F' if by_column else 'C')


def _array_from_buffer(raw: Any, dtype: _Dtype, shape: Any, order: str, *_: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == 'F', raw))
    return array


def _load_storage(raw: bytes) -> Any:
    try:  # torch's own function would run what is in there
        return torch.load(io.BytesIO(raw), map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise _Refused('a tensor that is none') from error


_ALLOWED: dict[str, Any] = {
    'collections.OrderedDict': OrderedDict,
    'torch.Size': tuple,
    'torch.storage._load_from_bytes': _load_storage,
    'torch._utils._rebuild_tensor_v2': lambda *args: torch._utils._rebuild_tensor(*args[:4]),
    '_codecs.encode': lambda text, _: text.encode('latin1'),
    'numpy.dtype': _Dtype,
    'numpy.ndarray': _Array,
    **{f'{module}.{name}': kind
       for module in ('builtins', '__builtin__')
       for name, kind in dict(bytes=bytes, bytearray=bytearray, set=set, list=list).items()},
    **{f'numpy.{core}.{name}': function
       for core in ('core', '_core')
       for name, function in {
           'multiarray._reconstruct': _Array,
           'multiarray.scalar': lambda dtype, raw: np.frombuffer(raw, dtype.dtype, 1)[0].item(),
           'numeric._frombuffer': _array_from_buffer,
       }.items()},
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f'{module}.{name}' not in _ALLOWED:
            raise _Refused(f'{module}.{name}')
        return _ALLOWED[f'{module}.{name}']
