"""Decodes many images in several processes, to find those that cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_all_start_methods, get_context
from typing import NamedTuple

from ghmdet.datasets.image_file import ImageError, read_image, read_image_sizes

_CHUNK = 16  # images
# A plain fork would copy the threads' locks, as they are, of OpenCV and of the progress bar.
_START_METHOD = 'forkserver' if 'forkserver' in get_all_start_methods() else 'spawn'


class ImageJob(NamedTuple):
    """An image to decode, see `read_image`."""

    path: str
    size_wh: tuple[float, float]
    color_type: str
    max_pixels: int


class DecodeResult(NamedTuple):
    """What is wrong with an image, and whether EXIF turns it by a quarter."""

    fault: str | None = None
    turned: bool = False


def decode_images(jobs: Sequence[ImageJob], workers: int) -> Iterator[tuple[int, DecodeResult]]:
    """Decode all, in any order; an image at which the decoding process dies is a fault as well.

    With `workers=0` this process decodes, and dies.
    """
    if not workers:
        yield from enumerate(map(_decode, jobs))
        return
    chunks = [range(start, min(start + _CHUNK, len(jobs))) for start in range(0, len(jobs), _CHUNK)]
    lost: list[range] = []
    yield from _decode_chunks(jobs, chunks, workers, lost)
    for chunk in lost:  # one image each, to find out which it was
        for index in chunk:
            alone: list[range] = []
            yield from _decode_chunks(jobs, [range(index, index + 1)], 1, alone)
            for place in alone:
                fault = f'image {jobs[place[0]].path} kills the process that decodes it'
                yield place[0], DecodeResult(fault)


def _decode_chunks(
    jobs: Sequence[ImageJob], chunks: Sequence[range], workers: int, lost: list[range]
) -> Iterator[tuple[int, DecodeResult]]:
    waiting = iter(chunks)
    context = get_context(_START_METHOD)
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running: dict[Future, range] = {}

        def submit(chunk: range) -> None:
            try:
                running[pool.submit(_decode_all, [jobs[index] for index in chunk])] = chunk
            except BrokenProcessPool:
                lost.append(chunk)

        for chunk in islice(waiting, 2 * workers):
            submit(chunk)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                chunk = running.pop(future)
                try:
                    yield from zip(chunk, future.result(), strict=True)
                except BrokenProcessPool:
                    lost.append(chunk)
                for following in islice(waiting, 1):
                    submit(following)
    lost.extend(waiting)


def _decode_all(jobs: Sequence[ImageJob]) -> list[DecodeResult]:
    return [_decode(job) for job in jobs]


def _decode(job: ImageJob) -> DecodeResult:
    path, size_wh, color_type, max_pixels = job
    try:
        read_image(path, expected_wh=size_wh, color_type=color_type, max_pixels=max_pixels)
        stored_wh, shown_wh = read_image_sizes(path, max_pixels)
        return DecodeResult(turned=stored_wh != shown_wh)
    except ImageError as error:
        return DecodeResult(str(error))
    except Exception as error:  # whatever it is, the other images are still to be looked at
        return DecodeResult(f'image {path}: {type(error).__name__}: {error}')
