"""Checkpoints that neither a kill nor a full disk breaks, and that a run goes on from exactly."""

from __future__ import annotations

import os
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
from mmengine.runner import IterBasedTrainLoop, Runner

from ghmdet.checkpoint.files import POINTER_FILE, last_checkpoint
from ghmdet.engine import run_state
from ghmdet.engine.run_state import collect_run_state, mean_buffers
from ghmdet.registry import HOOKS

_STOP_INFO = 'stop_ckpt'  # in the message hub: the file that a stopped run left


class SaveError(OSError):
    """A checkpoint that could not be written; its text says what is left."""


@HOOKS.register_module()
class CheckpointHook(_CheckpointHook):
    """mmengine's CheckpointHook, with its arguments and file names, which loses nothing.

    A file is written under a temporary name in the same folder (`.epoch_3.pth.tmp`), flushed to the
    disk and then renamed; only after that `last_checkpoint` points to it and older files are
    deleted. So whatever happens in between, the file before is there. (Storage that is no local
    disk is written to as mmengine does.)

    Beside what mmengine saves, a checkpoint has `run_state` (see `collect_run_state`). In its
    `state_dict`, buffers in which processes differ are the mean over them. `best_*` files hold the
    weights only, as mmengine's do.

    `save_best='auto'` takes the first value of the evaluator; if nobody can tell whether more or
    less of it is better, no best file is written.
    """

    _resumed: dict[str, int] | None = None
    """Where the checkpoint stands that the run goes on from."""

    def before_train(self, runner: Runner) -> None:
        """Find the folder, and clear it of what interrupted saves left."""
        self.keep_ckpt_ids: deque[int] = deque()
        super().before_train(runner)
        self._state: dict[str, Any] | None = None
        self._saved: dict[str, int] | None = None
        self._at = (0, False)
        source = runner._load_from
        if self._resumed is not None and source and Path(source).parent == Path(self.out_dir):
            self._saved, self.last_ckpt = self._resumed, source
        self._is_local = isinstance(self.file_backend, LocalBackend) and not self.file_client_args
        if self._is_local and is_main_process():
            for leftover in Path(self.out_dir).glob('.*.pth.tmp'):
                leftover.unlink(missing_ok=True)

    def after_train_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Save where it is due."""
        self._at = _place_of_iteration(runner, batch_idx)
        super().after_train_iter(runner, batch_idx, *args, **kwargs)

    def after_train_epoch(self, runner: Runner) -> None:
        """Save where it is due."""
        self._at = _place_of_epoch(runner)
        super().after_train_epoch(runner)

    def save_before_stop(self, runner: Runner, batch_idx: int | None = None) -> None:
        """Save as `iter_N.pth` unless that was just done; the next regular save deletes this file.

        Args:
            runner: in `after_train_iter` or `after_train_epoch`, after this hook.
            batch_idx: of the iteration, or None at the end of an epoch.
        """
        if batch_idx is None:
            self._at = _place_of_epoch(runner)
            meta = dict(epoch=runner.epoch + 1, iter=runner.iter)
        else:
            self._at = _place_of_iteration(runner, batch_idx)
            meta = dict(epoch=runner.epoch, iter=runner.iter + 1)
        if self._saved == meta:
            return
        name = f'iter_{meta["iter"]}.pth'
        path = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info(_STOP_INFO, path)
        self._save_last(runner, name, meta)

    def has_saved(self, runner: Runner) -> bool:
        """Whether the weights in training are those of the last save."""
        return self._saved == dict(epoch=runner.epoch, iter=runner.iter)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the state of all processes."""
        if self._state is not None:
            checkpoint[run_state.KEY] = self._state

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Hand it to the training loop."""
        if runner._resume:
            runner.train_loop.resumed_state = checkpoint.pop(run_state.KEY, None)
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
        """Save what the run goes on from, and point to it."""
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._saved = dict(meta)
        self._state = collect_run_state(runner, *self._at)
        self._write(
            runner,
            name,
            meta,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            **self.args,
        )
        self._state = None
        if is_main_process():
            _replace(Path(runner.work_dir, POINTER_FILE), str(self.last_ckpt))

    def _save_best_checkpoint(self, runner: Runner, metrics: Mapping[str, Any]) -> None:
        """Save the weights where a value is the best so far, then delete the best before."""
        if not self.save_best or not self._settle_auto(runner, metrics):
            return
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        step = runner.epoch if self.by_epoch else runner.iter
        info = runner.message_hub
        for key, rule in zip(self.key_indicators, self.rules, strict=True):
            suffix = '' if len(self.key_indicators) == 1 else f'_{key}'
            best = info.runtime_info.get(f'best_score{suffix}', self.init_value_map[rule])
            if metrics[key] is None or not self.is_better_than[key](metrics[key], best):
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

    def _settle_auto(self, runner: Runner, metrics: Mapping[str, Any]) -> bool:
        """Choose the value for 'auto'; whether there is one."""
        if 'auto' not in self.key_indicators:
            return True
        key = next(iter(metrics))
        try:
            self._init_rule(self.rules, [key])
        except ValueError:
            runner.logger.warning(
                f"save_best='auto': it is not known whether more or less of {key} is better, so no "
                'best checkpoint is kept; set default_hooks.checkpoint.save_best and rule '
                "('greater' or 'less'), or save_best=None"
            )
            return False
        return True

    def _write(self, runner: Runner, name: str, meta: dict[str, Any], **settings: Any) -> None:
        """Write a checkpoint so that the name never stands for less than all of it.

        Raises:
            SaveError: it could not be written, for want of space, say; nothing else has changed.
        """
        begin = perf_counter()
        temporary = f'.{name}.tmp' if self._is_local else name
        try:
            with mean_buffers(runner):
                runner.save_checkpoint(
                    self.out_dir,
                    temporary,
                    self.file_client_args,
                    meta=meta,
                    by_epoch=self.by_epoch,
                    backend_args=self.backend_args,
                    **settings,
                )
            if not is_main_process():
                return
            file = Path(self.out_dir, name)
            if self._is_local:
                _publish(file.with_name(temporary), file)
        except OSError as error:
            self._state = None
            raise self._describe_failure(runner, name, error) from error
        size = f' ({file.stat().st_size / 1e6:.1f} MB)' if self._is_local else ''
        runner.logger.info(f'Saved {file.name}{size} in {perf_counter() - begin:.1f} s')

    def _describe_failure(self, runner: Runner, name: str, error: OSError) -> SaveError:
        folder = Path(self.out_dir)
        told = f'{name} could not be written to {folder}: {error.strerror or error}. '
        if self._is_local:
            with suppress(OSError):
                partial = folder / f'.{name}.tmp'
                partial.unlink(missing_ok=True)
                told += f'{shutil.disk_usage(folder).free / 1e6:.1f} MB are free. '
        before = last_checkpoint(runner)
        told += (
            'There is none from before; make room and start again'
            if before == 'none'
            else f'The checkpoint before, {before}, is as it was: make room (a smaller '
            'default_hooks.checkpoint.max_keep_ckpts keeps fewer files) and go on with --resume'
        )
        return SaveError(told)

    def _remove(self, path: str) -> None:
        """Delete a checkpoint that may be gone already."""
        if not is_main_process():
            return
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # DeepSpeed's
            self.file_backend.rmtree(path)


def _place_of_iteration(runner: Runner, batch_idx: int) -> tuple[int, bool]:
    """Batches done of the epoch, and whether a validation comes next, after an iteration."""
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        return 0, _validation_follows(runner, runner.iter + 1)
    return batch_idx + 1, False


def _place_of_epoch(runner: Runner) -> tuple[int, bool]:
    return 0, _validation_follows(runner, runner.epoch + 1)


def _validation_follows(runner: Runner, done: int) -> bool:
    """Whether it does after so many epochs or iterations, as far as the loop can tell."""
    tell = getattr(runner.train_loop, 'validation_follows', None)
    return tell is not None and tell(done)


def _publish(temporary: Path, file: Path) -> None:
    """Give a file that is wholly on the disk its name."""
    with temporary.open('rb+') as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, file)
    _sync_folder(file.parent)


def _replace(file: Path, text: str) -> None:
    """Replace a small text file as a whole."""
    temporary = file.with_name(f'.{file.name}.tmp')
    temporary.write_text(text)
    _publish(temporary, file)


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
