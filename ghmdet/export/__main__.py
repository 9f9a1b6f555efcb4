"""Write a trained detector as one file: `python -m ghmdet.export`, or `tools/export.py`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ghmdet.argument_checks import check_integer
from ghmdet.config import arguments, cli
from ghmdet.config.cfg_options import add_cfg_options
from ghmdet.config.errors import name_the_key
from ghmdet.files import publish
from ghmdet.messages import list_items

check = cli.LazyModule('ghmdet.export.check')
graph = cli.LazyModule('ghmdet.export.graph')
inference = cli.LazyModule('ghmdet.inference')
int8 = cli.LazyModule('ghmdet.export.int8')
model_files = cli.LazyModule('ghmdet.inference.model')
onnx = cli.LazyModule('ghmdet.export.onnx')
progress = cli.LazyModule('rich.progress')

_NEEDED = {'onnx': ('onnx', 'onnxscript', 'onnxruntime'), 'pt2': ()}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    program = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(
        prog='python -m ghmdet.export' if program == '__main__.py' else program,
        description='Write a trained detector as one file, and compare it with the original.',
    )
    add, paths = parser.add_argument, dict[str, Any](type=cli.user_path)
    add('config', metavar='CONFIG', help='config file, or the name of a config that ghmdet ships')
    add('checkpoint', metavar='CHECKPOINT', type=os.path.expanduser, help='checkpoint file or URL')
    add('--format', choices=_NEEDED, help='ONNX, or torch.export; default: the ending of --out')
    add('--out', metavar='F', help='default: the name of the config, beside the checkpoint', **paths)
    text = 'write 8-bit convolutions, calibrated on a folder or N images of the training dataset'
    add('--int8', metavar='FOLDER|N', help=text)
    text = 'images to compare on: as for predict.py, or a COCO file; default: the test dataset'
    add('--check', metavar='IMAGES', nargs='+', default=[], help=text)
    text = 'fix height and width of the input; smaller images are padded'
    add('--static', metavar=('H', 'W'), nargs=2, type=int, help=text)
    add('--exist-ok', action='store_true', help='replace a file of this name')
    add_cfg_options(parser)
    arguments.add_data_root(parser)
    add('--strict', action='store_true', help='stop at config keys that are not used')
    cli.add_debug_argument(parser)
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0)
    args = parser.parse_args()
    if args.format is None and args.out is not None:
        args.format = {f'.{key}': key for key in _NEEDED}.get(args.out.suffix.lower())
    if args.format is None:
        parser.error('expected --format onnx or pt2, or --out with such an ending')
    if args.int8 is not None and args.format != 'onnx':
        parser.error('--int8 needs --format onnx')
    return args


def choose_file(args: argparse.Namespace) -> Path:
    """Return the file to write, which can be created and whose packages are there."""
    is_local = '://' not in args.checkpoint
    folder = Path(args.checkpoint).parent if is_local else Path()
    file = args.out or folder / f'{Path(args.config).stem}.{args.format}'
    if file.suffix.lower() != f'.{args.format}':
        raise ValueError(f'--out {file}: the name must end in .{args.format}')
    if missing := [name for name in _NEEDED[args.format] if find_spec(name) is None]:
        raise ModuleNotFoundError(
            f'--format {args.format} needs {list_items(missing)}: pip install {" ".join(missing)}'
        )
    place = next(each for each in file.absolute().parents if each.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)) or file.is_dir():
        raise ValueError(f'--out {file}: no file of this name can be created in {place}')
    if file.exists() and not args.exist_ok:
        raise FileExistsError(f'--out {file} exists; --exist-ok replaces it')
    for side in args.static or ():
        check_integer('--static', side, 1)
    return file


def main() -> None:
    """Run the program."""
    args = parse_args()
    file = choose_file(args)
    cfg = arguments.load_config(args)
    with name_the_key(cfg, args.cfg_options):
        model = model_files.init_detector(cfg, args.checkpoint)
    head = getattr(model, 'bbox_head', None)
    if not hasattr(head, 'detect'):
        raise ValueError(
            f'only a RetinaNet with a RetinaHead can be exported, got {type(model).__name__} with '
            f'{type(head).__name__}, which has no `detect`'
        )
    with TemporaryDirectory() as folder:
        images = check.find_images(model, args.check, folder)
        samples = int8.find_samples(model, args.int8) if args.int8 else None
        original = check.pad_original(model, args.static)
        for source in images.sources:  # errors come before the tracing
            check.prepare(original, source, args.static)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f'{file.stem}.unchecked{file.suffix}')
        try:
            write(model, draft, args, samples)
            ...
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
