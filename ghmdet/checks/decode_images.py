"""Decodes many images in several processes, to find those that cannot be decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_all_start_methods, get_context
from typing import NamedTuple

from ghmdet.datasets.image_file import ImageError, read_image, read_image_sizes

_CHUNK = 16  # images
# fork would copy the locks that threads of OpenCV and of the progress bar may hold.
_START_METHOD = 'forkserver' if 'forkserver' in get_all_start_methods() else 'spawn'


class ImageJob(NamedTuple):
    """An image to decode, see `read_image`."""

    path: str
    size_wh: tuple[float, float]
    color_type: str
    max_pixels: int


class DecodeResult(NamedTuple):
    """What is wrong with an image, and whether its EXIF orientation rotates it by 90 degrees.

    `digest` is that of the file's content, empty if it cannot be read.
    """

    error: str | None = None
    rotated: bool = False
    digest: bytes = b''


def decode_images(jobs: Mapping[int, ImageJob], workers: int) -> Iterator[tuple[int, DecodeResult]]:
    """Decode images and yield the results by key, in any order.

    An image at which the decoding process dies is an error of that image, unless `workers=0`, which
    decodes in this process.
    """
    if not workers:
        yield from ((key, _decode(job)) for key, job in jobs.items())
        return
    keys, lost = list(jobs), list[int]()
    chunks = [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]
    yield from _decode_chunks(jobs, chunks, workers, lost)
    for key in lost:  # decoded one by one to find the image that stops the process
        alone = list[int]()
        yield from _decode_chunks(jobs, [[key]], 1, alone)
        if alone:
            yield key, DecodeResult(f'image {jobs[key].path} kills the process that decodes it')


def _decode_chunks(
    jobs: Mapping[int, ImageJob], chunks: Iterable[list[int]], workers: int, lost: list[int]
) -> Iterator[tuple[int, DecodeResult]]:
    """Decode chunks of images; the keys of those whose process died are appended to `lost`."""
    context = get_context(_START_METHOD)
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(workers, mp_context=context)
    futures: dict[Future, list[int]] = {}
    try:
        for chunk in chunks:
            try:
                futures[pool.submit(_decode_all, [jobs[key] for key in chunk])] = chunk
            except BrokenProcessPool:
                lost += chunk
        for future in as_completed(futures):
            try:
                yield from zip(futures[future], future.result(), strict=True)
            except BrokenProcessPool:
                lost += futures[future]
    finally:
        pool.shutdown(cancel_futures=True)


def _decode_all(jobs: Sequence[ImageJob]) -> list[DecodeResult]:
    return [_decode(job) for job in jobs]


def _decode(job: ImageJob) -> DecodeResult:
    path, size_wh, color_type, max_pixels = job
    try:
        read_image(path, expected_wh=size_wh, color_type=color_type, max_pixels=max_pixels)
        stored_wh, shown_wh = read_image_sizes(path, max_pixels)
        return DecodeResult(rotated=stored_wh != shown_wh, digest=_hash(path))
    except ImageError as error:
        return DecodeResult(str(error), digest=_hash(path))
    except Exception as error:  # must not stop the check of the other images
        return DecodeResult(f'image {path}: {type(error).__name__}: {error}')


def _hash(path: str) -> bytes:
    with suppress(OSError), open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').digest()
    return b''
