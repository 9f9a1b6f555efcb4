"""What `ghmdet.train` and `ghmdet.test` have in common on the command line.

Needs no torch: what is wrong with the arguments is said at once.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mmengine.config import Config, DictAction

from ghmdet.config_files import get_config
from ghmdet.engine.cfg_options import merge_options
from ghmdet.engine.config_origins import record_origins


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--work-dir`, `--cfg-options`, `--launcher` and `--local-rank`."""
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and figures')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that override the config: a.b=1 c="[1,2]" d.0.e=x; no blanks around =',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes were started',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that the arguments name and let them override it.

    `args.config` is a file, or the name of a config that ghmdet ships. The work dir is, in this
    order, `--work-dir`, the config's `work_dir`, `work_dirs/<name of the config>`.

    Raises:
        FileNotFoundError: there is no such config.
    """
    try:
        cfg = get_config(args.config)
    except KeyError:  # maybe a key that two bases set; the second reading names them
        with record_origins():
            cfg = get_config(args.config)
    if args.cfg_options is not None:
        merge_options(cfg, args.cfg_options)
    cfg.work_dir = (
        args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(cfg.filename).stem)
    )
    cfg.setdefault('default_scope', 'ghmdet')
    cfg.launcher = args.launcher
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return cfg
