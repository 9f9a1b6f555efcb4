"""How a training begins in its work dir: at the start, or where it was left.

`plan_start` takes the work dir for this run alone and settles, before the Runner is built, which
checkpoint it resumes from, so that mmengine need not look for one itself.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dist import (
    all_gather_object,
    broadcast_object_list,
    get_rank,
    get_world_size,
    is_distributed,
)

from ghmdet.checkpoint.files import find_damage, list_checkpoints, read_pointer
from ghmdet.checkpoint.reader import CheckpointError
from ghmdet.checkpoint.work_dir import (
    find_agent,
    hold_work_dir,
    own_record,
    read_record,
    write_record,
)

_NAMED = 5  # files


class Start(NamedTuple):
    """What was settled, and what to log of it: (level, text)."""

    resume: bool
    load_from: str | None
    notes: list[tuple[int, str]]


def plan_start(cfg: Config, is_first: bool) -> list[tuple[int, str]]:
    """Take the work dir, and set `cfg.resume` and `cfg.load_from` to how the run begins.

    `resume=True` without `load_from` goes on from the newest checkpoint that can be read, see
    `choose_checkpoint`, and begins at the start where there is none.

    Processes that torchrun restarts (`--max-restarts`) have the command line of the first start.
    They go on from the newest checkpoint that was written since; while there is none, they begin as
    the first time. What an earlier job left in the work dir is not theirs: the lock file says which
    checkpoints were there when the job began.

    Args:
        cfg: changed in place.
        is_first: whether this process is the one that writes. Where the processes are joined
            already, it decides for all; else each comes to the same by itself.

    Returns:
        (level, text) of what is to be logged.

    Raises:
        WorkDirError: another training runs there.
        CheckpointError: there are checkpoints, but none can be read.
    """
    if cfg.get('work_dir') is None:
        return []  # which the Runner will not accept
    answer: list[Any] = [None, None]
    if is_first or not is_distributed():
        try:
            answer[0] = _settle(cfg, is_first)
        except Exception as problem:
            answer[1] = problem
    if is_distributed():
        broadcast_object_list(answer)
    start, error = answer
    if error is not None:
        raise error
    cfg.resume, cfg.load_from = start.resume, start.load_from
    return start.notes if is_first else []


def confirm_start(cfg: Config) -> None:
    """Make sure, once the processes are joined, that all begin with the same checkpoint.

    Raises:
        CheckpointError: some do not see the file that others do.
    """
    if get_world_size() == 1:
        return
    path = cfg.get('load_from') if cfg.get('resume') else None
    seen = path is None or '://' in path or os.path.isfile(path)
    answers = all_gather_object((socket.gethostname(), path if seen else None, find_agent()))
    if get_rank() == 0:
        agents = sorted({agent for *_, agent in answers if agent})
        write_record(cfg.work_dir, replace(read_record(cfg.work_dir), agents=agents))
    if len({path for _, path, _ in answers}) > 1:
        listed = '\n  '.join(
            f'process {rank} on {host}: {path or "none"}'
            for rank, (host, path, _) in enumerate(answers)
        )
        raise CheckpointError(
            f'the processes do not find the same checkpoint to go on from:\n  {listed}\nThe work '
            f'dir {os.path.abspath(cfg.work_dir)} must be on a file system that all machines '
            'share, or the checkpoint must be copied to the same place on each.'
        )


def choose_checkpoint(
    cfg: Config, ignored: Mapping[str, int] | None = None
) -> tuple[str | None, list[tuple[int, str]]]:
    """Return the newest checkpoint of a work dir that can be read.

    First what `last_checkpoint` names, then the others from the one written last to the first. A
    file is read once and held against its checksums.

    Args:
        cfg: of the run, see `list_checkpoints`.
        ignored: files that do not count unless written since, with their time of writing in ns.

    Returns:
        Its path, None where there is no checkpoint, and what to log: each file that was skipped
        with the reason.

    Raises:
        CheckpointError: there are some, but none can be read.
    """
    notes = []
    ignored = {} if ignored is None else ignored
    paths = [file.path for file in list_checkpoints(cfg) if ignored.get(file.path) != file.written]
    pointer = read_pointer(cfg)
    if pointer is None:
        if paths:
            notes.append(_warn(f'there is no last_checkpoint in {os.path.abspath(cfg.work_dir)}'))
    elif pointer.path is None:
        notes.append(_warn(pointer.problem))
    elif os.path.basename(pointer.path).startswith('best_'):
        notes.append(_warn(f'passed over: {pointer.path} was saved without an optimizer'))
    elif ignored.get(pointer.path) != pointer.written:
        paths = list(dict.fromkeys([pointer.path, *paths]))
    for path in paths:
        damage = find_damage(path)
        if damage is None:
            return path, notes
        notes.append(_warn(f'passed over: {damage}'))
    if paths:
        listed = '\n  '.join(text for _, text in notes)
        raise CheckpointError(
            f'none of the {len(paths)} checkpoints of {os.path.abspath(cfg.work_dir)} can be read:'
            f'\n  {listed}\nPut a whole copy of one back, name another with --resume FILE, or '
            'leave --resume (resume=True) out to begin at the start.'
        )
    return None, notes


def _settle(cfg: Config, is_first: bool) -> Start:
    """Take the work dir, if that is for this process to do, and choose."""
    earlier = _take(cfg, is_first)
    automatic = bool(cfg.get('resume')) and cfg.get('load_from') is None
    if earlier is not None and not automatic:
        path, notes = choose_checkpoint(cfg, ignored=earlier)
        if path is not None:
            text = f'restarted by torchrun: resuming from {path}, the last save of this job'
            return Start(True, path, [*notes, (logging.INFO, text)])
    if automatic:
        path, notes = choose_checkpoint(cfg)
        text = f'{path} is the newest checkpoint of {cfg.work_dir} that can be read'
        if path is None:
            text = f'nothing to resume in {cfg.work_dir}: training begins at the start'
        return Start(path is not None, path, [*notes, (logging.INFO, text)])
    notes = [] if cfg.get('resume') else _warn_of_earlier(cfg)
    return Start(bool(cfg.get('resume')), cfg.get('load_from'), notes)


def _take(cfg: Config, is_first: bool) -> dict[str, int] | None:
    """Hold the work dir; return what was in it when torchrun began this job, None without it."""
    if is_first:
        hold_work_dir(cfg.work_dir)
    agent = find_agent()
    before, record = read_record(cfg.work_dir), own_record()
    if agent is not None and agent in before.agents:  # of this job, that is restarted
        record.agents, record.earlier = before.agents, before.earlier
    elif agent is not None:
        record.agents, record.earlier = [agent], _list_all(cfg)
    if is_first:
        write_record(cfg.work_dir, record)
    return None if agent is None else record.earlier


def _list_all(cfg: Config) -> dict[str, int]:
    """The checkpoints that are there, with the times of writing."""
    found = {file.path: file.written for file in list_checkpoints(cfg)}
    pointer = read_pointer(cfg)
    if pointer is not None and pointer.path is not None:
        found[pointer.path] = pointer.written
    return found


def _warn(text: str) -> tuple[int, str]:
    return logging.WARNING, text


def _warn_of_earlier(cfg: Config) -> list[tuple[int, str]]:
    """Note what a run that begins at the start would overwrite."""
    names = [os.path.basename(file.path) for file in list_checkpoints(cfg)]
    if not names:
        return []
    more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
    return [
        _warn(
            f'{os.path.abspath(cfg.work_dir)} holds checkpoints of an earlier run: '
            f'{", ".join(names[:_NAMED])}{more}. This run begins at the start and overwrites those '
            'of the same names. --resume goes on from the last; --work-dir keeps both apart.'
        )
    ]
