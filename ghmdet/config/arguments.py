"""What `ghmdet.train` and `ghmdet.test` have in common on the command line. Needs no torch."""

from __future__ import annotations

import argparse
import logging
import os
from os.path import expanduser
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ghmdet.config.cfg_options import add_cfg_options, merge_options
from ghmdet.config.cli import LazyModule, add_debug_argument
from ghmdet.config.data_root import DATA_ROOT_VARIABLE, relocate_data
from ghmdet.config.errors import ConfigError, name_the_file
from ghmdet.config.origins import keep_origins, record_origins
from ghmdet.config.parts import log_on_first, words
from ghmdet.config.shipped import get_config
from ghmdet.config.unused_keys import find_unused_keys, find_unused_options, find_unused_parts

torch = LazyModule('torch')
_MMENGINE_HOOKS = words('runtime_info timer sampler_seed logger param_scheduler checkpoint')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all programs that run a config."""
    parser.add_argument('--work-dir', type=expanduser, help='for logs, checkpoints and figures')
    add_cfg_options(parser)
    add_data_root(parser)
    parser.add_argument(
        '--compile',
        action='store_true',
        help='compile the network with torch.compile: takes minutes at the first start, less later',
    )
    parser.add_argument(
        '--strict', action='store_true', help='stop at config keys that are not used'
    )
    parser.add_argument('--threads', type=read_count, metavar='N', help='threads of torch')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes were started',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    parser.add_argument(
        '--verbose',
        action='store_true',
        help='show the whole log on the console: environment, config, hooks, each line',
    )
    add_debug_argument(parser)


def read_count(text: str) -> int:
    """Read an integer in 1 to 1024, as of `--threads`."""
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f'expected an integer in 1 to 1024, got {text!r}')
    return int(text)


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """Add `--data-root`."""
    parser.add_argument(
        '--data-root',
        type=expanduser,
        metavar='DIR',
        default=os.environ.get(DATA_ROOT_VARIABLE) or None,
        help='folder of the data, in place of the data_root of every dataset and evaluator '
        f'(default: {DATA_ROOT_VARIABLE} of the environment)',
    )


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that the arguments name and merge the arguments into it.

    `args.config` is a file, or the name of a config that ghmdet ships. The data root goes first,
    then `--cfg-options`. The work dir is, in this order, `--work-dir`, the config's `work_dir`,
    `work_dirs/<name of the config>`. Also sets the number of threads of torch.

    Raises:
        FileNotFoundError: there is no such config.
        ConfigError: its files cannot be read (with file and line); some data do not lie below the
            data root; with `--strict`, a key is not used.
    """
    cfg = read_config(args.config)
    unused = list(find_unused_keys(cfg))
    move_data(cfg, args)
    unused += find_unused_options(cfg, args.cfg_options)
    merge_options(cfg, args.cfg_options)
    unused += find_unused_parts(cfg)
    sentences = list(dict.fromkeys(unused))
    if sentences and args.strict:
        raise ConfigError('\n  '.join([f'{cfg.filename}, with --strict:', *sentences]))
    for sentence in sentences:
        log_on_first(f'config: {sentence} (--strict makes this an error)', logging.WARNING)
    remove_hooks(cfg)
    cfg.work_dir = (
        args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(cfg.filename).stem)
    )
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    cfg.default_scope = cfg.get('default_scope') or 'ghmdet'
    cfg.launcher = args.launcher
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return cfg


def read_config(name: str) -> Config:
    """Read a config by file or name, and keep for `origins_of` which file set each key."""
    with name_the_file(), record_origins() as origins:
        cfg = get_config(name)
    keep_origins(cfg, origins)
    return cfg


def move_data(cfg: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Move all data of a config below `--data-root`, and log and return the changes.

    `data_root` in `--cfg-options`, which is taken out of them, means the same.
    """
    option = args.cfg_options.pop('data_root', None)
    root = args.data_root or option
    if root is None:
        return {}
    changes = relocate_data(cfg, str(root))
    merge_options(cfg, changes)
    listed = ', '.join(f'{key}={value}' for key, value in changes.items())
    log_on_first(f'data root {root}: {listed}')
    return changes


def remove_hooks(cfg: Config) -> None:
    """Remove default hooks that are None; mmengine does so only for its own."""
    hooks = cfg.get('default_hooks') or {}
    for name in hooks.keys() - _MMENGINE_HOOKS if isinstance(hooks, dict) else ():
        if hooks[name] is None:
            del hooks[name]
