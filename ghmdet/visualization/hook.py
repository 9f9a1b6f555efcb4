"""Draws the detections of a validation or test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ghmdet.argument_checks import check_integer
from ghmdet.datasets.image_file import read_image
from ghmdet.datasets.wrappers import base_datasets
from ghmdet.registry import HOOKS
from ghmdet.structures import DetDataSample
from ghmdet.visualization.drawing import DetLocalVisualizer


@HOOKS.register_module()
class DetVisualizationHook(Hook):
    """Draw boxes into the original images during validation and test.

    An image is decoded as its dataset decodes it (`color_type`, `max_pixels`, `backend_args` of
    `LoadImageFromFile`), but always in colour. For the ground truth to be in its pixels, as the
    detections are, `LoadAnnotations` must come after `Resize`, as in the shipped test pipelines.

    Args:
        draw: False turns the hook off; True needs a `DetLocalVisualizer` in the config.
        interval: in a validation, draw the first image of the first and then every `interval`-th
            batch. In a test, all images are drawn.
        score_thr: draw detections with a score above it.
        show: open a window for each image instead of storing it.
        wait_time: seconds to keep a window open; 0: until the space key is pressed.
        test_out_dir: write test images to `<work_dir>/<timestamp>/<test_out_dir>/<file name>`, with
            the name of its folder before it if the file name is taken; None: to the backends.
        backend_args: how to read the images of a dataset that is not a `CocoDataset`, see
            `mmengine.fileio.get`.
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        score_thr: float = 0.3,
        show: bool = False,
        wait_time: float = 0.0,
        test_out_dir: str | None = None,
        backend_args: dict | None = None,
    ) -> None:
        check_integer('DetVisualizationHook.interval', interval, 1)
        self.draw, self.interval, self.score_thr = draw, interval, score_thr
        self.show, self.wait_time = show, wait_time
        self.test_out_dir, self.backend_args = test_out_dir, backend_args
        self._test_index = 0
        self._drawn: dict[Path, str] = {}
        self._loaders: dict[str, dict[str, Any]] = {}

    def before_run(self, runner: Runner) -> None:
        """Check that the visualizer can draw boxes."""
        if self.draw and not isinstance(runner.visualizer, DetLocalVisualizer):
            raise ValueError(
                "DetVisualizationHook: draw=True needs visualizer=dict(type='DetLocalVisualizer', "
                f'...) in the config, got {type(runner.visualizer).__name__}'
            )

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw the first image of every `interval`-th batch."""
        if self.draw and outputs and batch_idx % self.interval == 0:
            self._draw_sample(runner, outputs[0], 'val', runner.iter + batch_idx, None)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw each image of the batch."""
        for sample in outputs if self.draw and outputs else ():
            self._test_index += 1
            self._draw_sample(runner, sample, 'test', self._test_index, self.test_out_dir)

    def _draw_sample(
        self, runner: Runner, sample: DetDataSample, split: str, step: int, out_dir: str | None
    ) -> None:
        if 'img_path' not in sample:
            raise ValueError(
                "DetVisualizationHook: a sample lacks 'img_path'; add it to PackDetInputs.meta_keys"
            )
        path, folder = sample.img_path, Path(runner.work_dir, runner.timestamp, out_dir or '')
        out_file = None if out_dir is None else self._find_out_file(folder, path)
        image = self._read(path, getattr(runner, f'{split}_dataloader').dataset, split)
        runner.visualizer.add_datasample(
            Path(path).name if self.show else f'{split}_img',
            np.ascontiguousarray(image[..., ::-1]),
            data_sample=sample,
            show=self.show,
            wait_time=self.wait_time,
            out_file=out_file,
            pred_score_thr=self.score_thr,
            step=step,
        )

    def _read(self, path: str, dataset: Any, split: str) -> np.ndarray:
        """Decode an image as the part of the dataset that has it does; (h, w, 3) in BGR."""
        if split not in self._loaders:
            parts = [each for each in base_datasets(dataset) if hasattr(each, 'image_loader')]
            loaders = {repr(each.image_loader): each.image_loader for each in parts}
            self._loaders[split] = {'': next(iter(loaders.values()), None)}
            for part in parts if len(loaders) > 1 else ():
                for index in range(len(part)):
                    self._loaders[split][part.get_data_info(index)['img_path']] = part.image_loader
        loader = self._loaders[split].get(path, self._loaders[split][''])
        if loader is None:
            return read_image(path, backend_args=self.backend_args)
        return loader.read(path, in_color=True)

    def _find_out_file(self, folder: Path, img_path: str) -> Path:
        """Return a file to which this process wrote no other image."""
        parts = Path(img_path).relative_to(Path(img_path).anchor).parts
        files = [folder / '_'.join(parts[-n:]) for n in range(1, len(parts) + 1)]
        # The first name that is free or already of this image.
        free = (f for f in files if self._drawn.setdefault(f, img_path) == img_path)
        return next(free, files[-1])
