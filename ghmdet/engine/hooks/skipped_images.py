"""Report the images that a dataset with `on_error='skip'` skipped, after each epoch."""

from __future__ import annotations

from typing import Any

from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ghmdet.datasets.image_file import ImageError
from ghmdet.datasets.random_state import preserve_random_state
from ghmdet.datasets.transforms import PipelineError, image_name, run_steps
from ghmdet.datasets.wrappers import base_datasets
from ghmdet.messages import list_items
from ghmdet.registry import HOOKS


@HOOKS.register_module()
class SkippedImagesHook(Hook):
    """Count the skipped images, and log what is wrong with the first five.

    Every training dataset is asked that has `skipped`, uint8 (N,), 1 for images skipped so far,
    `find_fault(info)` and a pipeline; loader workers and processes are counted together.
    """

    def after_train_epoch(self, runner: Runner) -> None:
        """Warn of images skipped since the start of this run."""
        for dataset in base_datasets(runner.train_dataloader.dataset):
            if getattr(dataset, 'skipped', None) is not None:
                self._report(runner, dataset)

    def _report(self, runner: Runner, dataset: Any) -> None:
        flags = dataset.skipped.int()
        all_reduce(flags, 'max')
        indices = flags.nonzero().flatten().tolist()
        if not indices:
            return
        infos = (dataset.get_data_info(index) for index in indices[:5])
        faults = [_explain(dataset, info) for info in infos]
        faults += [''] * (len(indices) - len(faults))
        runner.logger.warning(
            f'{len(indices)} of {len(dataset)} images of {dataset.ann_file} were skipped so far '
            f"and replaced by others (on_error='skip'): {list_items(faults, separator='; ')}"
        )


def _explain(dataset: Any, info: dict) -> str:
    """Say why an image was skipped."""
    name = image_name(info)
    fault = f'{name} {dataset.find_fault(info) or "was skipped by a random step"}'
    if fault.endswith('step'):
        try:
            with preserve_random_state():
                run_steps(dataset.pipeline.transforms, info)
        except (ImageError, PipelineError) as error:
            fault = str(error)
    return fault.removeprefix('image ')
