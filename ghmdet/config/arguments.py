"""What `ghmdet.train` and `ghmdet.test` have in common on the command line.

Needs no torch: what is wrong with the arguments is said at once.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ghmdet.config.cfg_options import add_cfg_options, merge_options
from ghmdet.config.cli import add_debug_argument
from ghmdet.config.data_root import DATA_ROOT_VARIABLE, relocate_data
from ghmdet.config.errors import ConfigError, name_the_file
from ghmdet.config.origins import record_origins
from ghmdet.config.shipped import get_config
from ghmdet.config.unused_keys import find_unused_keys, find_unused_options, find_unused_parts

_MMENGINE_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the programs that run a config have in common."""
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and figures')
    add_cfg_options(parser)
    add_data_root(parser)
    parser.add_argument(
        '--strict',
        action='store_true',
        help='stop at a config key that nothing reads, instead of warning of it',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes were started',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    add_debug_argument(parser)


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """Add `--data-root`."""
    parser.add_argument(
        '--data-root',
        metavar='DIR',
        default=os.environ.get(DATA_ROOT_VARIABLE) or None,
        help='folder of the data, in place of the data_root of every data set and evaluator '
        f'(default: {DATA_ROOT_VARIABLE} of the environment)',
    )


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that the arguments name and let them override it.

    `args.config` is a file, or the name of a config that ghmdet ships. The data root goes first,
    then `--cfg-options`. The work dir is, in this order, `--work-dir`, the config's `work_dir`,
    `work_dirs/<name of the config>`.

    Raises:
        FileNotFoundError: there is no such config.
        ConfigError: its files cannot be read; the data root does not reach all data; with
            `--strict`, a key that nothing reads.
    """
    cfg = read_config(args.config)
    unread = list(find_unused_keys(cfg))
    options = dict(args.cfg_options)
    root = args.data_root or options.pop('data_root', None)
    options.pop('data_root', None)
    if root is not None:
        move_data(cfg, root)
    unread += find_unused_options(cfg, options)
    merge_options(cfg, options)
    unread += find_unused_parts(cfg)
    _report_unused(cfg, unread, args.strict)
    remove_hooks(cfg)
    cfg.work_dir = (
        args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(cfg.filename).stem)
    )
    cfg.setdefault('default_scope', 'ghmdet')
    cfg.launcher = args.launcher
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return cfg


def read_config(name: str) -> Config:
    """Read a config by file or name; an error names the file and the line.

    Raises:
        FileNotFoundError: there is no such config.
        ConfigError: its files cannot be read.
    """
    with name_the_file():
        try:
            return get_config(name)
        except KeyError as error:  # of a key that two bases set; the second reading names them
            if 'Duplicate key' not in str(error):
                raise
            with record_origins():
                return get_config(name)


def move_data(cfg: Config, root: Any) -> dict[str, Any]:
    """Let all data of a config lie below a folder, say so, and return what was changed.

    Raises:
        ConfigError: see `relocate_data`.
    """
    changes = relocate_data(cfg, str(root))
    merge_options(cfg, changes)
    _log(f'data root {root}: {", ".join(f"{key}={value}" for key, value in changes.items())}')
    return changes


def remove_hooks(cfg: Config) -> None:
    """Let None stand for no hook; mmengine does so for those only that are its own default."""
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None]:
        if name not in _MMENGINE_HOOKS:
            hooks.pop(name)


def _report_unused(cfg: Config, unread: Sequence[str], strict: bool) -> None:
    told = list(dict.fromkeys(unread))
    if told and strict:
        listed = '\n  '.join(told)
        raise ConfigError(f'{cfg.filename}, with --strict:\n  {listed}')
    for sentence in told:
        _log(f'config: {sentence} (--strict makes this an error)', logging.WARNING)


def _log(text: str, level: int = logging.INFO) -> None:
    if os.environ.get('RANK', '0') == '0':  # of torchrun's processes one speaks
        print_log(text, logger='current', level=level)
