"""Where a training begins in its work dir: at the start, or at a checkpoint.

`plan_start` locks the work dir and chooses, before the Runner is built, the checkpoint to resume
from, so that mmengine does not search for one.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from mmengine.config import Config
from mmengine.dist import all_gather_object, broadcast_object_list, get_world_size, is_distributed

from ghmdet.checkpoint.files import find_damage, list_checkpoints, read_pointer
from ghmdet.checkpoint.reader import CheckpointError
from ghmdet.checkpoint.work_dir import WorkDirError, hold_work_dir, own_record
from ghmdet.messages import list_items


def plan_start(cfg: Config, is_first: bool) -> list[tuple[int, str]]:
    """Lock the work dir, and set `cfg.resume` and `cfg.load_from` to where the run begins.

    `resume='auto'`, and True without `load_from`, resumes from the newest checkpoint that can be
    read, see `choose_checkpoint`. If there is none it begins at the start, from `load_from`.

    If the processes have joined already, that of rank 0 (`is_first`) chooses for all; otherwise
    each chooses by itself, with the same result. Returned is (level, text) of what is to be logged.

    Raises:
        WorkDirError: another training runs there; or torchrun restarted this one, there are
            checkpoints, and it does not resume from the newest.
        CheckpointError: there are checkpoints, but none can be read.
    """
    if cfg.get('work_dir') is None:
        return []  # which the Runner refuses
    answer: list[Any] = [None]
    if is_first or not is_distributed():
        try:
            answer[0] = _choose_start(cfg, is_first)
        except Exception as problem:
            answer[0] = problem
    if is_distributed():
        broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    cfg.resume, cfg.load_from, notes = answer[0]
    return notes if is_first else []


def confirm_start(cfg: Config) -> None:
    """Check, once the processes have joined, that all begin at the same checkpoint.

    Raises:
        CheckpointError: some processes do not find the file that others do.
        WorkDirError: see `plan_start`; the restart was counted on another machine.
    """
    if get_world_size() == 1:
        return
    path = cfg.get('load_from') if cfg.get('resume') else None
    seen = path is None or '://' in path or os.path.isfile(path)
    restarted = not cfg.get('resume') and _restart_count() > 0
    answers = all_gather_object((socket.gethostname(), path if seen else None, restarted))
    if any(restarted for *_, restarted in answers):
        _refuse_overwriting(cfg)
    if len({path for _, path, _ in answers}) > 1:
        listed = '\n  '.join(
            f'process {rank} on {host}: {path or "none"}'
            for rank, (host, path, _) in enumerate(answers)
        )
        raise CheckpointError(
            f'the processes do not find the same checkpoint to resume from:\n  {listed}\nThe work '
            f'dir {os.path.abspath(cfg.work_dir)} must be on a file system that all machines '
            'share, or the checkpoint must be copied to the same path on each.'
        )


def choose_checkpoint(cfg: Config) -> tuple[str | None, list[tuple[int, str]]]:
    """Return the newest checkpoint of a work dir that can be read, None if there is none.

    First the file that `last_checkpoint` names is tried, then the others, newest first, each once.
    Also returned is what to log: the files that were skipped and why. A CheckpointError if there
    are some, but none can be read.
    """
    notes = []
    paths = list_checkpoints(cfg)
    last, problem = read_pointer(cfg)
    if last and os.path.basename(last).startswith('best_'):
        problem = f'skipped: {last} was saved without an optimizer'
    elif last:
        paths = list(dict.fromkeys([last, *paths]))
    elif paths and not problem:
        problem = f'there is no last_checkpoint in {os.path.abspath(cfg.work_dir)}'
    if problem:
        notes.append((logging.WARNING, problem))
    for path in paths:
        damage = find_damage(path)
        if damage is None:
            return path, notes
        notes.append((logging.WARNING, f'skipped: {damage}'))
    if paths:
        listed = '\n  '.join(text for _, text in notes)
        raise CheckpointError(
            f'none of the {len(paths)} checkpoints of {os.path.abspath(cfg.work_dir)} can be read:'
            f'\n  {listed}\nRestore a complete copy of one, name another with --resume FILE, or '
            'leave --resume (resume=True) out to begin at the start.'
        )
    return None, notes


def _choose_start(cfg: Config, is_first: bool) -> tuple[bool, str | None, list[tuple[int, str]]]:
    """Lock the work dir if this is the first process; return `resume`, `load_from` and notes."""
    resume, load_from = bool(cfg.get('resume')), cfg.get('load_from')
    automatic = cfg.get('resume') == 'auto' or (resume and load_from is None)
    restarted = _restart_count() > 0
    if is_first:
        own, before = own_record(), hold_work_dir(cfg.work_dir)
        same_agent = own['agent'] != '' and own['agent'] == before.get('agent')
        restarted |= same_agent and own['pid'] != before.get('pid')
    if restarted and not automatic:
        _refuse_overwriting(cfg)
    if automatic:
        path, notes = choose_checkpoint(cfg)
        text = f'{path} is the newest checkpoint of {cfg.work_dir} that can be read'
        if path is None:
            text = f'nothing to resume in {cfg.work_dir}: training begins at the start'
            text += f', with the weights of {load_from}' if load_from else ''
        return path is not None, path or load_from, [*notes, (logging.INFO, text)]
    return resume, load_from, [] if resume else _warn_of_earlier(cfg)


def _restart_count() -> int:
    """How often torchrun restarted processes that failed on this machine."""
    return int(os.environ.get('TORCHELASTIC_RESTART_COUNT', '0'))


def _refuse_overwriting(cfg: Config) -> None:
    """Raise if a training that torchrun restarted would overwrite its own checkpoints."""
    names = [os.path.basename(path) for path in list_checkpoints(cfg)]
    if names:
        raise WorkDirError(
            f'torchrun restarted this training, and {os.path.abspath(cfg.work_dir)} has '
            f'checkpoints ({list_items(names)}), which it would overwrite. Start the job with '
            '--resume (resume=True without load_from): it resumes from the newest checkpoint, and '
            'begins at the start if there is none.'
        )


def _warn_of_earlier(cfg: Config) -> list[tuple[int, str]]:
    """What a run that begins at the start would overwrite."""
    names = [os.path.basename(path) for path in list_checkpoints(cfg)]
    text = (
        f'{os.path.abspath(cfg.work_dir)} has checkpoints of an earlier run: {list_items(names)}. '
        'This run begins at the start and overwrites files of the same names. --resume continues '
        'the earlier run; --work-dir sets another folder.'
    )
    return [(logging.WARNING, text)] if names else []
