"""One call for detections: of a shipped name, a config or a model, in images of any source."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from time import perf_counter
from typing import Any

import mmcv.transforms
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from ghmdet.argument_checks import check_integer, check_range
from ghmdet.config.shipped import published_weights
from ghmdet.datasets.image_file import ImageError, applies_exif
from ghmdet.datasets.transforms import LoadImageFromFile, run_steps
from ghmdet.inference.detections import Detections
from ghmdet.inference.model import find_test_dataset, init_detector
from ghmdet.inference.sources import SourceImage, find_kind, iterate
from ghmdet.messages import type_name
from ghmdet.models.speedup import (
    cast_convolutions,
    compile_network,
    low_precision,
    set_inductor_freezing,
)
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import TRANSFORMS
from ghmdet.structures import DetDataSample

_OnError = str | Callable[[ImageError], Any]
_LOADERS = (LoadImageFromFile, mmcv.transforms.LoadImageFromFile)


class Detector:
    """Detects objects in images with the test pipeline of a config.

    `classes` are the names of the labels, `model` is the network, `backend` is 'torch', and
    `applies_exif` says whether images are turned by their EXIF orientation.

    Args:
        model: name of a shipped config, a config file, a config read already, or a model with `cfg`
            and `dataset_meta` as from `init_detector`, in eval mode, which is not changed.
        weights: file or URL; None loads the weights that are published for the config.
        device: e.g. 'cuda:0'; None is CUDA if there is one, else the CPU, or that of a given model.
        amp: low precision, as `--amp` of `tools/test.py`.
        compile: compile the network, which takes a minute or more at the first images.
        threads: number of threads of torch on the CPU, in the whole process; None leaves it.

    Raises:
        ValueError: an argument is none of these, or the config has no test pipeline.
        LookupError: no weights are published for this config.
        CheckpointError: the model has parameters that the weights lack.
    """

    backend = 'torch'

    def __init__(
        self,
        model: str | os.PathLike[str] | Config | nn.Module,
        weights: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        amp: bool = False,
        compile: bool = False,
        threads: int | None = None,
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
        else:
            place = _find_device(device)
            if weights is None:
                weights = published_weights(model.filename if isinstance(model, Config) else model)
            self.model = init_detector(model, weights, str(place))
        self._place = next(self.model.parameters()).device.type
        self._dtype = low_precision(self._place) if amp else None
        self._compiled = compile
        if self._dtype is not None and self.model is not model:
            cast_convolutions(self.model, self._dtype)
        if compile:
            compile_network(self.model)
        self.classes = _find_classes(self.model)
        self._steps = _build_steps(self.model.cfg)
        loader = next((step for step in self._steps if isinstance(step, _LOADERS)), None)
        color_type = getattr(loader, 'color_type', 'color')
        ours = loader if isinstance(loader, LoadImageFromFile) else LoadImageFromFile()
        self._read = partial(ours.read, in_color=True)
        self.applies_exif = applies_exif(color_type)

    def __call__(
        self,
        inputs: Any,
        *,
        batch_size: int = 1,
        score_thr: float = 0.0,
        channel_order: str = 'bgr',
    ) -> Any:
        """Return the `Detections` in one image, or the list of those in a list of images.

        Args:
            inputs: an image or a list or tuple of images: a path, a URL, a Pillow image, an array
                uint8 (h, w, 3) or a tensor uint8 (3, h, w).
            batch_size: number of images in a batch, which does not change the results.
            score_thr: leave out detections with a lower score; those below
                `model.test_cfg.score_thr` of the config are never there.
            channel_order: 'bgr' or 'rgb', of arrays and tensors; Pillow images are RGB.

        Raises:
            ValueError, TypeError: an argument is none of these.
            ImageError: an image cannot be used.
            PipelineError: a step of the pipeline failed.
        """
        several = isinstance(inputs, list | tuple)
        for item in inputs if several else [inputs]:
            kind = 'an iterator' if isinstance(item, Iterator) else 'image'
            if isinstance(item, str | os.PathLike):
                kind = find_kind(item)
            if kind != 'image':
                raise ValueError(
                    f'expected an image or a list of images, got {item!r} ({kind}); use '
                    'detector.stream(...) for it, or list(detector.stream(...))'
                )
        options = dict(batch_size=batch_size, score_thr=score_thr, channel_order=channel_order)
        found = list(self.stream(inputs, **options))  # type: ignore[arg-type]
        return found if several else found[0]

    def stream(
        self,
        inputs: Any,
        *,
        batch_size: int = 1,
        score_thr: float = 0.0,
        channel_order: str = 'bgr',
        every: int = 1,
        on_error: _OnError = 'raise',
    ) -> Iterator[Detections]:
        """Yield the `Detections` in each image of any source, in order and in flat memory.

        Args:
            inputs: see `ghmdet.inference.iterate`: files, folders, patterns, lists, URLs, videos,
                stdin, arrays, Pillow images, iterators.
            batch_size: as in a call of the detector.
            score_thr: the same.
            channel_order: the same.
            every: of a video, the distance between the frames that are used.
            on_error: of an image that cannot be used: 'raise', 'skip' (with a warning in the log),
                or a function that gets the ImageError.

        Raises:
            ValueError, TypeError: at once: an argument is none of these.
            ImageError: an image cannot be used; at once for a file that does not exist.
            PipelineError: a step of the pipeline failed.
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
        score_thr: float = 0.0,
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
        times = {} if times is None else times
        return self._run(iter(images), batch_size, score_thr, on_error, times)

    def _run(
        self,
        images: Iterator[SourceImage],
        batch_size: int,
        score_thr: float,
        on_error: _OnError,
        times: dict[str, float],
    ) -> Iterator[tuple[SourceImage, Detections]]:
        batch: list[tuple[SourceImage, dict[str, Any]]] = []
        failure, is_end = None, False
        while not is_end:
            start = perf_counter()
            try:
                source = next(images)
                batch.append((source, self.prepare(source)))
            except StopIteration:
                is_end = True
            except ImageError as error:
                if on_error == 'raise':
                    failure, is_end = error, True  # after the images before it
                elif callable(on_error):
                    on_error(error)
                else:
                    print_log(f'left out: {error}', 'current', 'WARNING')
            read = perf_counter()
            times['read'] = times.get('read', 0) + read - start
            if not batch or (len(batch) < batch_size and not is_end):
                continue
            samples = self.predict([data for _, data in batch])
            sources = [source for source, _ in batch]
            batch.clear()
            found = [
                (source, self._convert(source, sample).above(score_thr))
                for source, sample in zip(sources, samples, strict=True)
            ]
            times['network'] = times.get('network', 0) + perf_counter() - read
            yield from found
        if failure is not None:
            raise failure

    def prepare(self, source: SourceImage) -> dict[str, Any]:
        """Read an image, and run the pipeline on it, see `ghmdet.datasets.transforms.run_steps`."""
        steps, results = self._steps, dict[str, Any](img_id=0)
        if source.image is None:
            results['img_path'], name = source.path, f'image {source.path}'
        else:
            shape = source.image.shape[:2]
            results |= dict(img=source.image, img_shape=shape, ori_shape=shape)
            steps = [step for step in steps if not isinstance(step, _LOADERS)]
            name = f'image {source.name}' if source.name else 'the image'
            if source.frame is not None:
                name = f'frame {source.frame} of {source.path}'
        data = run_steps(steps, results, name)
        if not isinstance(data, Mapping) or not {'inputs', 'data_samples'} <= data.keys():
            raise ValueError('test_dataloader.dataset.pipeline must end with PackDetInputs')
        return dict(data)

    @torch.no_grad()
    def predict(self, batch: list[dict[str, Any]]) -> list[DetDataSample]:
        """Return the sample of each image that `prepare` has read, with `pred_instances`."""
        data = {key: [each[key] for each in batch] for key in ('inputs', 'data_samples')}
        if self._compiled:
            set_inductor_freezing(True)
        try:
            low = torch.autocast(self._place, self._dtype) if self._dtype else nullcontext()
            with low:
                return self.model.test_step(data)
        finally:
            if self._compiled:
                set_inductor_freezing(False)

    def _convert(self, source: SourceImage, sample: DetDataSample) -> Detections:
        found = sample.pred_instances.cpu()
        return Detections(
            boxes=found.bboxes.float().numpy(),
            scores=found.scores.float().numpy(),
            labels=found.labels.numpy(),
            classes=self.classes,
            shape=tuple(sample.ori_shape),
            name=source.name,
            path=source.path,
            frame=source.frame,
            read=self._read,
        )


def _find_device(device: str | torch.device | None) -> torch.device:
    name = ('cuda' if torch.cuda.is_available() else 'cpu') if device is None else device
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f'device={name!r} cannot be used ({reason}); None takes one') from None


def _find_classes(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the classes, 'class 0' and so on if they are not those of the head."""
    names = tuple((getattr(model, 'dataset_meta', None) or {}).get('classes') or ())
    head = getattr(unwrap(model), 'bbox_head', None)
    count = getattr(head, 'num_classes', len(names))
    return names if len(names) == count else tuple(f'class {label}' for label in range(count))


def _build_steps(cfg: Config) -> list[Callable]:
    pipeline = find_test_dataset(cfg).get('pipeline')
    if not pipeline:
        raise ValueError('the config needs test_dataloader.dataset.pipeline to read images')
    kept = [step for step in pipeline if not type_name(step).endswith('LoadAnnotations')]
    return [TRANSFORMS.build(step) for step in kept]
