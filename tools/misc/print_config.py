"""Print the config that a run would use: python tools/misc/print_config.py CONFIG [--origin]."""

from __future__ import annotations

import argparse
import contextlib
import sys

from ghmdet.config.arguments import add_data_root, move_data, read_config
from ghmdet.config.cfg_options import add_cfg_options, merge_options
from ghmdet.config.cli import add_debug_argument, run
from ghmdet.config.origins import origins_of

_CONVERTED = 'converted from MMDetection by ghmdet'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Print the config that a run would use.')
    parser.add_argument('config', help='config file, or the name of a config that ghmdet ships')
    add_cfg_options(parser)
    add_data_root(parser)
    add_debug_argument(parser)
    parser.add_argument(
        '--origin', action='store_true', help='print one line per key, with the file that set it'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # what is logged on the way
        cfg = read_config(args.config)
        origins = origins_of(cfg)
        origins.merge(move_data(cfg, args), '--data-root')
    merge_options(cfg, args.cfg_options)
    origins.merge(args.cfg_options, '--cfg-options')
    if not args.origin:
        print(cfg.pretty_text)
        return
    for key, value, origin in origins.list_leaves(cfg, otherwise=_CONVERTED):
        print(f'{key} = {value!r}  # {origin}')


if __name__ == '__main__':
    run(main)
