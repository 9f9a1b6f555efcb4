"""Runs the steps of a pipeline on many images in several processes, to find those that fail."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_all_start_methods, get_context
from typing import Any, NamedTuple

from ghmdet.datasets.image_file import MAX_PIXELS, ImageError, read_image_sizes
from ghmdet.datasets.transforms.pipeline import PipelineError, image_name, run_steps

_CHUNK = 16  # images
# fork would copy the locks that threads of OpenCV and of the progress bar may hold.
_START_METHOD = 'forkserver' if 'forkserver' in get_all_start_methods() else 'spawn'


class DecodeResult(NamedTuple):
    """What is wrong with an image."""

    error: str | None = None
    rotated: bool = False  # by 90 degrees, by its EXIF orientation
    digest: bytes = b''  # of the file's content, empty if it cannot be read
    of_step: bool = False  # whether a step failed, no fault of the image (`PipelineError`)


def decode_images(
    steps: Sequence[Callable], infos: Mapping[Any, dict], workers: int
) -> Iterator[tuple[Any, DecodeResult]]:
    """Run steps on images and yield the results by key, in any order.

    An image at which the process dies is an error of that image, except in this process, in which
    the steps run if there are 0 workers, or if they cannot be pickled. The first step decodes the
    image; `infos` are what it starts from, see `CocoDataset`, by key.
    """
    try:
        pickle.dumps(steps)
    except Exception:  # of many types
        workers = 0
    if not workers:
        yield from ((key, _decode(steps, info)) for key, info in infos.items())
        return
    items, lost = list(infos.items()), list[Any]()
    chunks = [dict(items[start : start + _CHUNK]) for start in range(0, len(items), _CHUNK)]
    yield from _decode_chunks(steps, chunks, workers, lost)
    for key in lost:  # decoded one by one to find the image that stops the process
        alone = list[Any]()
        yield from _decode_chunks(steps, [{key: infos[key]}], 1, alone)
        if alone:
            yield key, DecodeResult(f'{image_name(infos[key])} kills the process that decodes it')


def _decode_chunks(
    steps: Sequence[Callable], chunks: Iterable[dict[Any, dict]], workers: int, lost: list[Any]
) -> Iterator[tuple[Any, DecodeResult]]:
    """Decode chunks of images; the keys of those whose process died are appended to `lost`."""
    context = get_context(_START_METHOD)
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(workers, mp_context=context)
    futures: dict[Future, dict[Any, dict]] = {}
    try:
        for chunk in chunks:
            try:
                futures[pool.submit(_decode_all, steps, [*chunk.values()])] = chunk
            except BrokenProcessPool:
                lost += chunk
        for future in as_completed(futures):
            try:
                yield from zip(futures[future], future.result(), strict=True)
            except BrokenProcessPool:
                lost += futures[future]
    finally:
        pool.shutdown(cancel_futures=True)


def _decode_all(steps: Sequence[Callable], infos: Sequence[dict]) -> list[DecodeResult]:
    return [_decode(steps, info) for info in infos]


def _decode(steps: Sequence[Callable], info: dict) -> DecodeResult:
    try:
        run_steps(steps, dict(info))
        max_pixels = getattr(steps[0], 'max_pixels', MAX_PIXELS)
        stored_wh, shown_wh = read_image_sizes(info['img_path'], max_pixels)
        return DecodeResult(rotated=stored_wh != shown_wh, digest=_hash(info['img_path']))
    except (ImageError, PipelineError) as error:
        of_step = isinstance(error, PipelineError)
        return DecodeResult(str(error), digest=_hash(info['img_path']), of_step=of_step)


def _hash(path: str) -> bytes:
    with suppress(OSError), open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').digest()
    return b''
