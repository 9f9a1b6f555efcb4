"""Validation that computes the loss in addition to the metrics."""

from __future__ import annotations

import copy
import math
from contextlib import suppress
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.runner import Runner
from mmengine.runner import ValLoop as _ValLoop
from mmengine.runner.amp import autocast
from torch import Tensor

from ghmdet.datasets.random_state import preserve_random_state
from ghmdet.datasets.wrappers import base_datasets
from ghmdet.models.buffers import Buffers
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import LOOPS


@LOOPS.register_module()
class ValLoop(_ValLoop):
    """mmengine's ValLoop, with the loss of the validation set on request.

    It is computed image by image in `eval` mode, so that it depends neither on `batch_size` nor on
    the number of processes, and averaged over all images, each once; `val/loss` is the sum of
    `val/loss_cls`, `val/loss_bbox` and whatever else the detector calls a loss. The network runs
    twice on each image. The training is not changed: buffers (GHM running counts, batch norm
    statistics) and random generators keep their state. `save_best='val/loss'` works too.

    A GHM loss weights entries by its running counts, which in training change from level to level:
    compare its `val/loss` with that of other epochs, not with the training loss.

    Args:
        runner: see mmengine, also for `evaluator`.
        dataloader: for the loss its pipeline must have LoadAnnotations, before or after Resize.
        fp16: validate in mixed precision, the loss too.
        compute_loss: whether to compute the loss; a ValueError without annotations or a loss.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        evaluator: Any,
        fp16: bool = False,
        compute_loss: bool = False,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.compute_loss = compute_loss
        if compute_loss:
            _check_annotations(self.dataloader.dataset)
            self._rescale = not _annotations_come_first(self.dataloader.dataset)

    def run(self) -> dict:
        """Validate; return the metrics, and the losses after them."""
        if not self.compute_loss:
            return super().run()
        self._losses: list[tuple[Any, dict[str, Tensor]]] = []
        self._buffers = Buffers(unwrap(self.runner.model))
        logged = self.runner.message_hub.log_scalars
        for key in [key for key in logged if key.startswith('val/val/')]:
            del logged[key]  # the log would show the mean over all epochs
        evaluate = self.evaluator.evaluate
        # mmengine passes to the hooks what the evaluator returns.
        self.evaluator.evaluate = lambda size: {**evaluate(size), **self._average()}
        try:
            return super().run()
        finally:
            del self.evaluator.evaluate  # the class has its own

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Validate one batch."""
        if self.compute_loss:
            keys = ('inputs', 'data_samples')
            if not isinstance(data_batch, dict) or not data_batch.keys() >= {*keys}:
                raise ValueError(
                    'val_cfg.compute_loss=True expects batches with inputs and data_samples, as '
                    f'PackDetInputs makes them, got {type(data_batch).__name__}'
                )
            # Before the prediction, which may change the samples.
            self._buffers.save()
            try:
                with preserve_random_state(), autocast(enabled=self.fp16):
                    for image, sample in zip(*map(data_batch.get, keys), strict=True):
                        self._losses.append((_identity(sample), self._compute(image, sample)))
            finally:
                self._buffers.restore()
        super().run_iter(idx, data_batch)

    def _compute(self, image: Tensor, sample: Any) -> dict[str, Tensor]:
        """Return the losses of one image, scalars by name."""
        model: Any = unwrap(self.runner.model)
        sample = copy.deepcopy(sample)
        if self._rescale:
            _scale_to_input(sample)
        data = model.data_preprocessor(dict(inputs=[image], data_samples=[sample]), False)
        losses = None
        with suppress(NotImplementedError):
            losses = model(**data, mode='loss')
        if not isinstance(losses, dict):
            raise ValueError(
                f'val_cfg.compute_loss=True needs a detector with a loss: {type(model).__name__}.'
                f"forward(mode='loss') should return a dict of losses, but returns {losses!r}"
            )
        _, log_vars = model.parse_losses(losses)
        return {name: value for name, value in log_vars.items() if 'loss' in name}

    def _average(self) -> dict[str, float]:
        """Return the mean over all images of all processes."""
        keys = [key for key, _ in self._losses]
        names = list(self._losses[0][1]) if self._losses else []
        values = [torch.stack([losses[name] for name in names]) for _, losses in self._losses]
        rows = torch.stack(values).cpu().double().tolist() if values else []
        found: dict[Any, list[float]] = {}
        for part in all_gather_object((names, keys, rows)):
            names = part[0] or names
            # A sampler repeats images where their number is not a multiple of the processes'.
            found.update(zip(part[1], part[2], strict=True))
        sums = [math.fsum(column) for column in zip(*found.values(), strict=True)]
        return {f'val/{name}': total / len(found) for name, total in zip(names, sums, strict=True)}


def _identity(sample: Any) -> Any:
    metainfo = getattr(sample, 'metainfo', {})
    known = metainfo.get('img_id'), metainfo.get('img_path')
    return known if known != (None, None) else id(sample)


def _check_annotations(dataset: Any) -> None:
    """Raise where no image of a dataset can have a loss."""
    problem = 'val_cfg.compute_loss=True needs annotations, but'
    for part in base_datasets(dataset):
        if hasattr(part, 'pipeline') and _find_transform(part, 'LoadAnnotations') is None:
            raise ValueError(
                f'{problem} val_dataloader.dataset.pipeline has no LoadAnnotations; add '
                "dict(type='LoadAnnotations', with_bbox=True) before PackDetInputs"
            )
    parts = [part for part in base_datasets(dataset) if hasattr(part, 'get_data_info')]
    infos = (part.get_data_info(i) for part in parts for i in range(len(part)))
    if parts and not any(info.get('instances') for info in infos):
        files = ', '.join(str(getattr(part, 'ann_file', '?')) for part in parts)
        raise ValueError(
            f'{problem} no image of val_dataloader.dataset has any ({files}); take another '
            'ann_file, or remove compute_loss'
        )


def _annotations_come_first(dataset: Any) -> bool:
    """Whether boxes are resized with the image; a ValueError if so for some datasets only."""
    orders = set()
    for part in base_datasets(dataset):
        loaded, resized = _find_transform(part, 'LoadAnnotations'), _find_transform(part, 'Resize')
        orders.add(loaded is None or resized is None or loaded < resized)
    if len(orders) > 1:
        raise ValueError(
            'val_cfg.compute_loss=True: LoadAnnotations must come before Resize in the pipelines '
            'of all datasets of val_dataloader, or after it in all'
        )
    return orders.pop()


def _find_transform(dataset: Any, name: str) -> int | None:
    """Index of the first transform of this class, or of a class whose name contains its name."""
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    names = [' '.join(kind.__name__ for kind in type(step).__mro__) for step in transforms]
    return next((i for i, found in enumerate(names) if name in found), None)


def _scale_to_input(sample: Any) -> None:
    """Resize the boxes exactly as mmcv's Resize does.

    Raises:
        ValueError: more than resizing was done to the image before its annotations were loaded.
    """
    keys = ('scale_factor', 'img_shape', 'ori_shape')
    missing = [key for key in keys if key not in sample]
    if missing:
        raise ValueError(
            f'val_cfg.compute_loss=True needs {", ".join(missing)} among the meta_keys of '
            'PackDetInputs in the pipeline of val_dataloader, since it loads the annotations after '
            'Resize'
        )
    factors, img_hw, ori_hw = (sample.get(key) for key in keys)
    expected = [round(side * f) for side, f in zip(ori_hw, reversed(factors), strict=True)]
    if list(img_hw) != expected or sample.get('flip'):
        raise ValueError(
            'val_cfg.compute_loss=True: the pipeline of val_dataloader loads the annotations after '
            f'it has changed the image by more than Resize (image {sample.get("img_path")}: '
            f'ori_shape {ori_hw}, scale_factor {factors}, img_shape {img_hw}, flip '
            f'{sample.get("flip")}); put LoadAnnotations right after LoadImageFromFile'
        )
    h, w = img_hw
    factor = torch.tensor(factors, dtype=torch.float64).repeat(2)
    for instances in (sample.gt_instances, sample.ignored_instances):
        if 'bboxes' in instances:
            bboxes = instances.bboxes.double() * factor
            bboxes[:, 0::2].clamp_(0, w)
            bboxes[:, 1::2].clamp_(0, h)
            instances.bboxes = bboxes.to(instances.bboxes.dtype)
