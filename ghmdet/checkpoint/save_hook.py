"""Checkpoints that neither a kill nor a full disk breaks, and that a run resumes exactly."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as _CheckpointHook
from mmengine.runner import Runner

from ghmdet.checkpoint.files import POINTER_FILE, last_checkpoint
from ghmdet.files import publish, replacing
from ghmdet.models.buffers import averaged_buffers
from ghmdet.models.wrappers import detectors_of
from ghmdet.registry import HOOKS

_STATE_KEY = 'run_state'  # of a checkpoint
_STOP_INFO = 'stop_ckpt'  # in the message hub: the file that a stopped run left


class SaveError(OSError):
    """A checkpoint that could not be written; its text says what is left."""


@HOOKS.register_module()
class CheckpointHook(_CheckpointHook):
    """mmengine's CheckpointHook, with its arguments and file names, which loses nothing.

    How it saves, and what it adds, is in docs/train/resume.md; storage other than a local disk is
    written to as mmengine does. The weights have the mean over the processes of buffers in which
    they differ. `best_*` files hold the weights only, as mmengine's do.

    `save_best='auto'` takes the first metric; no best file is written if it is not known whether
    the metric is better when greater or less. A value without ground truth (nan, or -1 where
    greater is better) is never the best.
    """

    _resumed: dict[str, int] | None = None
    """Epoch and iteration of the checkpoint that the run resumes from."""

    def before_train(self, runner: Runner) -> None:
        """Find the folder, and clear it of what interrupted saves left."""
        self.keep_ckpt_ids: deque[int] = deque()
        super().before_train(runner)
        self._state: dict[str, Any] | None = None
        self._saved: dict[str, int] | None = None
        source = runner._load_from
        if self._resumed is not None and source and Path(source).parent == Path(self.out_dir):
            self._saved, self.last_ckpt = self._resumed, source
        self._is_local = isinstance(self.file_backend, LocalBackend) and not self.file_client_args
        if self._is_local and is_main_process():
            for leftover in Path(self.out_dir).glob('.*.pth.tmp'):
                leftover.unlink(missing_ok=True)

    def save_before_stop(self, runner: Runner, batch_idx: int | None = None) -> None:
        """Save as `iter_N.pth` unless that was just done; the next regular save deletes this file.

        To be called after this hook; `batch_idx` is None at the end of an epoch.
        """
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        meta['epoch' if batch_idx is None else 'iter'] += 1
        if self._saved == meta:
            return
        name = f'iter_{meta["iter"]}.pth'
        runner.message_hub.update_info(_STOP_INFO, self.file_backend.join_path(self.out_dir, name))
        self._save_last(runner, name, meta)

    def has_saved(self, runner: Runner) -> bool:
        """Whether the weights in training are those of the last save."""
        return self._saved == dict(epoch=runner.epoch, iter=runner.iter)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the state of the training loop."""
        if self._state is not None:
            checkpoint[_STATE_KEY] = self._state

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Give the training loop its state."""
        if runner._resume:
            state, loop = checkpoint.pop(_STATE_KEY, None), runner.train_loop
            if hasattr(loop, 'load_state_dict'):
                loop.load_state_dict(state)
            self._resumed = {key: checkpoint['meta'][key] for key in ('epoch', 'iter')}

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        """Save, then delete what is too old."""
        kept = []
        if self.max_keep_ckpts > 0:
            kept = [*(old for old in self.keep_ckpt_ids if old != step), step]
            # With one too many: were this the last that is done, the resumed run would delete it.
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        stopped = runner.message_hub.runtime_info.pop(_STOP_INFO, None)
        self._save_last(runner, self.filename_tmpl.format(step), meta)
        if stopped and stopped != self.last_ckpt:
            self._remove(stopped)
        while len(kept) > self.max_keep_ckpts > 0:
            old = self.filename_tmpl.format(kept.pop(0))
            self._remove(self.file_backend.join_path(self.out_dir, old))
        if kept:
            self.keep_ckpt_ids = deque(kept)
            runner.message_hub.update_info('keep_ckpt_ids', kept)

    def _save_last(self, runner: Runner, name: str, meta: dict[str, Any]) -> None:
        """Save a checkpoint to resume from, and let `last_checkpoint` name it."""
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._saved = dict(meta)
        loop: Any = runner.train_loop
        self._state = loop.state_dict() if hasattr(loop, 'state_dict') else None
        settings = dict(
            save_optimizer=self.save_optimizer, save_param_scheduler=self.save_param_scheduler
        )
        self._write(runner, name, meta, **settings, **self.args)
        self._state = None
        if is_main_process():
            with replacing(Path(runner.work_dir, POINTER_FILE)) as draft:
                draft.write_text(str(self.last_ckpt))

    def _save_best_checkpoint(self, runner: Runner, metrics: Mapping[str, Any]) -> None:
        """Save the weights where a value is the best so far, then delete the best before."""
        if not self.save_best or not self._choose_auto(runner, metrics):
            return
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        step = runner.epoch if self.by_epoch else runner.iter
        info = runner.message_hub
        for key, rule in zip(self.key_indicators, self.rules, strict=True):
            suffix = '' if len(self.key_indicators) == 1 else f'_{key}'
            best = info.runtime_info.get(f'best_score{suffix}', self.init_value_map[rule])
            value = metrics[key]
            # Nothing is better than nan, nor is nan; COCO's -1 stands for no ground truth too.
            missing = value is None or (rule == 'greater' and value == -1)
            if missing or not self.is_better_than[key](value, best):
                continue
            name = f'best_{key}_{self.filename_tmpl.format(step)}'.replace('/', '_')
            path = self.file_backend.join_path(self.out_dir, name)
            before = info.runtime_info.get(f'best_ckpt{suffix}')
            info.update_info(f'best_score{suffix}', metrics[key])
            info.update_info(f'best_ckpt{suffix}', path)
            if suffix:
                self.best_ckpt_path_dict[key] = path
            else:
                self.best_ckpt_path = path
            runner.logger.info(f'{key} {metrics[key]:0.4f} is the best so far')
            self._write(runner, name, meta, save_optimizer=False, save_param_scheduler=False)
            if before and before != path:
                self._remove(before)

    def _choose_auto(self, runner: Runner, metrics: Mapping[str, Any]) -> bool:
        """Choose the metric for 'auto'; return whether there is one."""
        if 'auto' not in self.key_indicators:
            return True
        key, rules = next(iter(metrics)), self.rules
        try:
            self._init_rule(rules, [key])
        except ValueError:
            self.rules.extend(rules)  # which mmengine has emptied; the next validation needs them
            runner.logger.warning(
                f"save_best='auto': it is not known whether {key} is better when greater or less, "
                'so no best checkpoint is kept; set default_hooks.checkpoint.save_best and rule '
                "('greater' or 'less'), or save_best=None"
            )
            return False
        return True

    def _write(self, runner: Runner, name: str, meta: dict[str, Any], **settings: Any) -> None:
        """Write a checkpoint as a whole; if that fails, raise SaveError and change nothing else."""
        begin = perf_counter()
        temporary = f'.{name}.tmp' if self._is_local else name
        try:
            with averaged_buffers(detectors_of(runner)):
                settings |= dict(by_epoch=self.by_epoch, backend_args=self.backend_args)
                file_client = self.file_client_args
                runner.save_checkpoint(self.out_dir, temporary, file_client, meta=meta, **settings)
            if not is_main_process():
                return
            file = Path(self.out_dir, name)
            if self._is_local:
                publish(file.with_name(temporary), file)
        except OSError as error:
            self._state = None
            raise self._describe_failure(runner, name, error) from error
        size = f' ({file.stat().st_size / 1e6:.1f} MB)' if self._is_local else ''
        runner.logger.info(f'Saved {file.name}{size} in {perf_counter() - begin:.1f} s')

    def _describe_failure(self, runner: Runner, name: str, error: OSError) -> SaveError:
        folder = Path(self.out_dir)
        text = f'{name} could not be written to {folder}: {error.strerror or error}. '
        if self._is_local:
            with suppress(OSError):
                folder.joinpath(f'.{name}.tmp').unlink(missing_ok=True)
                text += f'{shutil.disk_usage(folder).free / 1e6:.1f} MB are free. '
        before = last_checkpoint(runner)
        if before == 'none':
            return SaveError(f'{text}There is no earlier checkpoint; make room and start again')
        return SaveError(
            f'{text}The previous checkpoint, {before}, is unchanged: make room (a smaller '
            'default_hooks.checkpoint.max_keep_ckpts keeps fewer files) and use --resume'
        )

    def _remove(self, path: str) -> None:
        """Delete a checkpoint that may be gone already."""
        if is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)
