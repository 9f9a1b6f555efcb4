"""Report the images that a dataset with `on_error='skip'` skipped, after each epoch."""

from __future__ import annotations

from typing import Any

from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ghmdet.datasets.wrappers import base_datasets
from ghmdet.messages import list_items
from ghmdet.registry import HOOKS

_OTHER_FAULT = 'cannot be decoded or processed (tools/check_dataset.py CONFIG --pipeline says why)'


@HOOKS.register_module()
class SkippedImagesHook(Hook):
    """Count the skipped images, and log what is wrong with the first five.

    Every training dataset is asked that has `skipped`, uint8 (N,), 1 for images skipped so far, and
    `find_fault(info)`; loader workers and processes are counted together.
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
        faults = []
        for index in indices[:5]:
            info = dataset.get_data_info(index)
            fault = dataset.find_fault(info) or _OTHER_FAULT
            faults.append(f'{info["img_path"]} (id {info["img_id"]!r}) {fault}')
        listed = list_items(faults, 5, '; ', len(indices))
        runner.logger.warning(
            f'{len(indices)} of {len(dataset)} images of {dataset.ann_file} were skipped so far '
            f"and replaced by others (on_error='skip'): {listed}"
        )
