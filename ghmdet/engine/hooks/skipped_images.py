"""Tells at the end of each epoch which images a dataset with `on_error='skip'` left out."""

from __future__ import annotations

from typing import Any

from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ghmdet.datasets.wrappers import base_datasets
from ghmdet.registry import HOOKS


@HOOKS.register_module()
class SkippedImagesHook(Hook):
    """Count the images that could not be used, and say what is wrong with the first five.

    Asks every training dataset that has `skipped`, uint8 (N,), 1 for images left out so far, and
    `find_fault(info)`; loader workers and processes are taken together. Says nothing of none.
    """

    def after_train_epoch(self, runner: Runner) -> None:
        """Warn of the images skipped since the start of this run."""
        for dataset in base_datasets(runner.train_dataloader.dataset):
            if getattr(dataset, 'skipped', None) is not None:
                self._report(runner, dataset)

    def _report(self, runner: Runner, dataset: Any) -> None:
        flags = dataset.skipped.int()
        all_reduce(flags, 'max')
        places = flags.nonzero().flatten().tolist()
        if not places:
            return
        told = []
        for place in places[:5]:
            info = dataset.get_data_info(place)
            fault = dataset.find_fault(info) or 'cannot be decoded'
            told.append(f'{info["img_path"]} (id {info["img_id"]!r}) {fault}')
        more = f'; and {len(places) - 5} more' if len(places) > 5 else ''
        runner.logger.warning(
            f'{len(places)} of {len(dataset)} images of {dataset.ann_file} could not be used so '
            f"far and others stood in for them (on_error='skip'): {'; '.join(told)}{more}"
        )
