"""One call for detections: of a shipped name, a config or a model, in images of any source."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any

import mmcv.transforms
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor, nn

from ghmdet.argument_checks import check_integer, check_range
from ghmdet.config.shipped import published_weights
from ghmdet.datasets.image_file import ImageError, applies_exif
from ghmdet.datasets.transforms.loading import LoadImageFromFile
from ghmdet.datasets.transforms.pipeline import run_steps
from ghmdet.files import is_exported
from ghmdet.inference.detections import Detections
from ghmdet.inference.exported import ExportedDetector
from ghmdet.inference.model import find_test_pipeline, init_detector
from ghmdet.inference.sources import SourceImage, find_kind, image_name, iterate, to_bgr
from ghmdet.models import speedup
from ghmdet.models.threads import adapt_waiting
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import TRANSFORMS
from ghmdet.structures import DetDataSample

_OnError = str | Callable[[ImageError], Any]
_LOADERS = (LoadImageFromFile, mmcv.transforms.LoadImageFromFile)


class Detector:
    """Detects objects in images with the test pipeline of a config.

    `classes` are the names of the labels, `model` is the network, run by `backend`, `read` reads
    files, in BGR, and `applies_exif` says whether that turns images by their EXIF orientation.

    Args:
        model: name of a shipped config, a config file, a config read already, a model as from
            `init_detector`, which is not changed, or an exported file (`.onnx`, `.pt2`).
        weights: file or URL; None loads the weights that are published for the config.
        device: e.g. 'cuda:0'; None is CUDA if there is one, else the CPU. Files run on the CPU.
        amp: low precision, as `--amp` of `tools/test.py`.
        compile: compile the network, which takes a minute or more at the first images.
        threads: number of threads of torch on the CPU, in the whole process; None leaves it.
        backend: what runs an exported file, see `ExportedDetector`.

    Raises:
        ValueError: an argument is none of these, or the config has no test pipeline.
        LookupError, CheckpointError: see `get_model` and `init_detector`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Config | nn.Module,
        weights: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        amp: bool = False,
        compile: bool = False,
        threads: int | None = None,
        backend: str | None = None,
    ) -> None:
        if threads is not None:
            check_integer('threads', threads, 1)
            torch.set_num_threads(threads)
        if isinstance(model, nn.Module):
            if weights is not None or device is not None or compile:
                raise ValueError(
                    'a built model is used as it is: leave weights, device and compile out'
                )
            self.model: Any = model
        elif is_exported(model):
            if weights is not None or amp or compile or str(device or 'cpu') != 'cpu':
                raise ValueError('a file runs as it is: leave weights, device, amp, compile out')
            self.model = ExportedDetector(model, backend)
        else:
            weights = published_weights(model) if weights is None else weights
            self.model = init_detector(model, weights, str(_find_device(device)))
        self.backend = getattr(self.model, 'backend', 'torch')
        if backend not in (None, self.backend):
            raise ValueError(f'backend={backend!r} is for exported files, .onnx or .pt2')
        if not isinstance(getattr(self.model, 'cfg', None), Config):
            raise ValueError('a built model needs cfg: build it with get_model or init_detector')
        place = next(self.model.parameters()).device.type
        if place == 'cpu':
            adapt_waiting()
        self._dtype = speedup.low_precision(place) if amp else None
        self._compiled = compile
        if self._dtype is not None and self.model is not model:
            speedup.cast_convolutions(self.model, self._dtype)
        if compile:
            speedup.compile_network(self.model)
        self.classes = find_classes(self.model)
        if not (pipeline := find_test_pipeline(self.model.cfg)):
            raise ValueError('the config needs test_dataloader.dataset.pipeline to read images')
        self._steps = [TRANSFORMS.build(step) for step in pipeline]
        loader = next((step for step in self._steps if isinstance(step, _LOADERS)), None)
        if not isinstance(loader, LoadImageFromFile):
            loader = LoadImageFromFile(color_type=getattr(loader, 'color_type', 'color'))
        self.applies_exif = applies_exif(loader.color_type)
        self.read = partial(loader.read, in_color=True)

    def __call__(
        self, inputs: Any, *, batch_size: int = 1, score_thr: float = 0, channel_order: str = 'bgr'
    ) -> Any:
        """Return the `Detections` in one image, or the list of those in a list of images.

        Args:
            inputs: a path, a URL, a Pillow image, an array uint8 (h, w, 3), a tensor uint8
                (3, h, w), or a list or tuple of these.
            batch_size: number of images in a batch, which does not change the results.
            score_thr: leave out lower scores; those below `model.test_cfg.score_thr` of the config
                are never there.
            channel_order: 'bgr' or 'rgb', of arrays and tensors; Pillow images are RGB.

        Raises:
            ValueError, TypeError: an argument is none of these.
            ImageError, PipelineError: an image cannot be used; a step of the pipeline failed.
        """
        several = isinstance(inputs, list | tuple)
        for item in inputs if several else [inputs]:
            kind = find_kind(item) if isinstance(item, str | os.PathLike) else 'image'
            if kind != 'image' or isinstance(item, Iterator):
                raise ValueError(
                    f'expected an image or a list of images, got the {kind} {item!r}; use '
                    'detector.stream(...) for it, or list(detector.stream(...))'
                )
        images = iterate(inputs, channel_order=channel_order, apply_exif=self.applies_exif)
        found = [each for _, each in self.run(images, batch_size, score_thr)]
        return found if several else found[0]

    def stream(
        self,
        inputs: Any,
        *,
        batch_size: int = 1,
        score_thr: float = 0,
        channel_order: str = 'bgr',
        every: int = 1,
        on_error: _OnError = 'raise',
    ) -> Iterator[Detections]:
        """Yield the `Detections` in each image of any source, in order and in flat memory.

        `inputs` and `every` are those of `ghmdet.inference.iterate`. `on_error` is for images that
        cannot be used: 'raise' (at once for a file that does not exist), 'skip' (with a warning in
        the log), or a function that gets the ImageError. The rest is as in a call; wrong arguments
        raise at once, not at the first image.
        """
        images = iterate(
            inputs,
            every=every,
            channel_order=channel_order,
            apply_exif=self.applies_exif,
            allow_missing=on_error != 'raise',
        )
        return (found for _, found in self.run(images, batch_size, score_thr, on_error))

    def run(
        self,
        images: Iterable[SourceImage],
        batch_size: int = 1,
        score_thr: float = 0,
        on_error: _OnError = 'raise',
        times: dict[str, float] | None = None,
    ) -> Iterator[tuple[SourceImage, Detections]]:
        """Yield the images of `ghmdet.inference.iterate`, each with its detections; see `stream`.

        The seconds that this takes are added to 'read' and 'network' of `times`.
        """
        check_integer('batch_size', batch_size, 1)
        check_range('score_thr', score_thr, 0, 1)
        if not callable(on_error) and on_error not in ('raise', 'skip'):
            raise ValueError(f"on_error must be 'raise', 'skip' or a function, got {on_error!r}")
        seconds = {} if times is None else times
        failures: list[ImageError] = []

        def read(images: Iterator[SourceImage]) -> Iterator[Any]:
            while not failures:
                try:
                    source = next(images)
                    yield source, self.prepare(source)
                except StopIteration:
                    return
                except ImageError as error:
                    if callable(on_error):
                        on_error(error)
                    elif on_error == 'skip':
                        print_log(f'left out: {error}', 'current', logging.WARNING)
                    else:
                        failures.append(error)  # raised after the images before it

        def detect(pairs: Iterator[Any]) -> Iterator[tuple[SourceImage, Detections]]:
            start = perf_counter()
            while batch := list(islice(pairs, batch_size)):
                done = perf_counter()
                seconds['read'] = seconds.get('read', 0) + done - start
                sources, data = zip(*batch, strict=True)
                found = [*map(self._convert, sources, self.predict(data))]
                del batch, data
                seconds['network'] = seconds.get('network', 0) + perf_counter() - done
                yield from zip(sources, (each.above(score_thr) for each in found), strict=True)
                start = perf_counter()
            if failures:
                raise failures[0]

        return detect(read(iter(images)))

    def prepare(self, source: SourceImage) -> dict[str, Any]:
        """Read an image, and run the pipeline on it, see `run_steps`."""
        steps, results = self._steps, dict[str, Any](img_id=0)
        if source.image is None:
            results['img_path'], name = source.path, f'image {source.path}'
        else:
            shape = source.image.shape[:2]
            results |= dict(img=source.image, img_shape=shape, ori_shape=shape)
            steps = [step for step in steps if not isinstance(step, _LOADERS)]
            name = f'image {image_name(source)}' if source.name else 'the image'
        data = run_steps(steps, results, name)
        if not isinstance(data, Mapping) or not {'inputs', 'data_samples'} <= data.keys():
            raise ValueError(
                'the last step of test_dataloader.dataset.pipeline must be PackDetInputs'
            )
        return dict(data)

    @torch.no_grad()
    def predict(self, batch: Sequence[dict[str, Any]]) -> list[DetDataSample]:
        """Return the sample of each image that `prepare` has read, with `pred_instances`."""
        data = {key: [each[key] for each in batch] for key in ('inputs', 'data_samples')}
        if self._compiled:
            speedup.set_inductor_freezing(True)
        try:
            place = next(self.model.parameters()).device.type
            with torch.autocast(place, self._dtype) if self._dtype else nullcontext():
                return self.model.test_step(data)
        finally:
            if self._compiled:
                speedup.set_inductor_freezing(False)

    def _convert(self, source: SourceImage, sample: DetDataSample) -> Detections:
        found, shape = sample.pred_instances.cpu(), tuple(sample.ori_shape)
        boxes, scores = found.bboxes.float().numpy(), found.scores.float().numpy()
        about = (found.labels.numpy(), self.classes, shape, *source[:3])
        return Detections(boxes, scores, *about, self.read)


def inference_detector(model: nn.Module, imgs: Any) -> Any:
    """Return the sample of an image, or the list of those of a list or other iterable.

    Args:
        model: from `init_detector`.
        imgs: an image as for `Detector`, arrays in BGR, or a list or other iterable of these.
            Encoded bytes are read with `PIL.Image.open(io.BytesIO(content))`.

    Returns:
        A `DetDataSample`, whose `pred_instances` hold `bboxes` (n, 4) x1 y1 x2 y2 in pixels of the
        original image, `scores` (n,) best first, and `labels` (n,); or a list of them.

    Raises:
        TypeError, ValueError, ImageError: see `Detector`.
    """
    several = isinstance(imgs, Iterable)
    several = several and not isinstance(imgs, str | bytes | np.ndarray | Tensor | Mapping)
    detector, found = Detector(model), []
    for img in imgs if several else [imgs]:
        path = os.fspath(img) if isinstance(img, str | os.PathLike) else None
        image = to_bgr(img, 'bgr', detector.applies_exif) if path is None else None
        found += detector.predict([detector.prepare(SourceImage('', path, None, image))])
    return found if several else found[0]


def _find_device(device: str | torch.device | None) -> torch.device:
    name = ('cuda' if torch.cuda.is_available() else 'cpu') if device is None else device
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f'device={name!r} cannot be used ({reason}); None takes one') from None


def find_classes(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the classes, 'class 0' and so on if they are not those of the head."""
    names = tuple((getattr(model, 'dataset_meta', None) or {}).get('classes') or ())
    head = getattr(unwrap(model), 'bbox_head', None)
    count = getattr(head, 'num_classes', len(names))
    return names if len(names) == count else tuple(f'class {label}' for label in range(count))
