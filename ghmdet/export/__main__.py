"""Write a trained detector as one file: `python -m ghmdet.export`, or `tools/export.py`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.logging import MMLogger

from ghmdet.config import arguments, cli
from ghmdet.config.cfg_options import add_cfg_options
from ghmdet.config.errors import name_the_key
from ghmdet.files import publish
from ghmdet.messages import list_items

console = cli.LazyModule('rich.console')
check = cli.LazyModule('ghmdet.export.check')
graph = cli.LazyModule('ghmdet.export.graph')
inference = cli.LazyModule('ghmdet.inference')
int8 = cli.LazyModule('ghmdet.export.int8')
models = cli.LazyModule('ghmdet.inference.model')
onnx = cli.LazyModule('ghmdet.export.onnx')
progress = cli.LazyModule('rich.progress')

_PACKAGES = {'onnx': ('onnx', 'onnxscript', 'onnxruntime'), 'pt2': ()}
_AP_LIMIT = 0.01  # lost by int8 without a warning

say = partial(print, flush=True)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        usage='%(prog)s CONFIG CHECKPOINT --format onnx|pt2 [options]',
        description='Write a trained detector as one file, and compare it with the original.',
    )
    add = parser.add_argument
    add('config', metavar='CONFIG', help='config file, or the name of a config that ghmdet ships')
    add('checkpoint', metavar='CHECKPOINT', type=os.path.expanduser, help='checkpoint file or URL')
    add('--format', choices=_PACKAGES, help='ONNX, or torch.export; default: as --out ends')
    text = 'default: the name of the config, beside the checkpoint'
    add('--out', metavar='F', type=cli.user_path, help=text)
    text = '8 bits, calibrated on the images of a folder or on N of the training data'
    add('--int8', metavar='FOLDER|N', type=os.path.expanduser, help=text)
    text = 'images as for predict.py, or a COCO file, to compare on; default: the test data'
    add('--check', metavar='IMAGES', nargs='+', default=[], help=text)
    text = 'height and width of all images; smaller ones are padded'
    add('--static', metavar=('H', 'W'), nargs=2, type=int, help=text)
    add('--exist-ok', action='store_true', help='replace the file of an earlier run')
    add_cfg_options(parser)
    arguments.add_data_root(parser)
    add('--strict', action='store_true', help='stop at config keys that are not used')
    cli.add_debug_argument(parser)
    parser.set_defaults(work_dir=None, threads=None, launcher='none', local_rank=0)
    args = parser.parse_args()
    args.format = args.format or (args.out.suffix[1:].lower() if args.out else None)
    if args.format not in _PACKAGES:
        parser.error('expected --format onnx or --format pt2, or --out F with such an ending')
    if args.int8 and args.format != 'onnx':
        parser.error('--int8 needs --format onnx')
    if args.static and min(args.static) < 1:
        parser.error(f'--static must be a height and a width in pixels, got {args.static}')
    return args


def choose_file(args: argparse.Namespace) -> Path:
    """Return the file to write, if it can be written."""
    folder = Path('x' if '://' in args.checkpoint else args.checkpoint).parent
    file = args.out or folder / f'{Path(args.config).stem}.{args.format}'
    if missing := [name for name in _PACKAGES[args.format] if find_spec(name) is None]:
        names = ' '.join(missing)
        raise ModuleNotFoundError(f'--format {args.format} needs a package: pip install {names}')
    if file.suffix.lower() != f'.{args.format}':
        raise ValueError(f'--out {file}: the name must end in .{args.format}')
    place = next(each for each in file.absolute().parents if each.exists())
    if not os.access(place, os.W_OK) or place.is_file() or file.is_dir():
        raise ValueError(f'--out {file}: no file of this name can be created in {place}')
    if file.exists() and not args.exist_ok:
        raise FileExistsError(f'--out {file} exists; --exist-ok replaces it')
    return file


def main() -> None:
    """Run the program."""
    args = parse_args()
    file = choose_file(args)
    cfg = arguments.load_config(args)
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    with name_the_key(cfg, args.cfg_options):
        model = models.init_detector(cfg, args.checkpoint)
    original = check.build_original(model, args.static)
    with TemporaryDirectory() as folder:
        images = check.find_check_images(original, args.check, folder)
        samples = check.find_calibration_images(original, args.int8) if args.int8 else None
        for each in (images, samples) if samples else (images,):
            check.check_images(original, each, args.static)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f'{file.stem}.unchecked{file.suffix}')
        try:
            write(draft, model, original, samples, args)
            say(f'comparing on {len(images.sources)} images: {images.about} ...')
            hidden, exported = not sys.stderr.isatty(), inference.Detector(draft)
            with progress.Progress(console=console.Console(stderr=True), disable=hidden) as bar:
                result = check.compare(original, exported, images, not args.int8, bar.track)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    report(result, draft, model)
    if not (args.int8 or result.is_equal):
        raise ValueError(
            f'the file does not detect what the original does; it is kept as {draft}. Pairs that '
            f'differ: {result.wrong}; without a partner: {list_items(result.alone) or "none"}'
        )
    publish(draft, file)
    print(f'written: {file}')


def report(result: Any, file: Path, model: Any) -> None:
    """Print a comparison; warn if int8 loses much."""
    sizes = sum(each.nbytes for each in model.state_dict().values()), file.stat().st_size
    share = result.pairs / max(result.detections, 1)
    print(f'{result.detections:,} detections, {share:.2%} of them with a partner in the file')
    print(f'without a partner: {len(result.alone):,} in both, and {result.excepted:,} excepted')
    print(f'worst difference: box {result.worst_box:.2g} px, score {result.worst_score:.2g}')
    if result.ap:
        lost = result.ap[0] - result.ap[1]
        print(f'AP {result.ap[1]:.4f}, of the original {result.ap[0]:.4f}: {lost:.4f} lost')
        if lost > _AP_LIMIT:
            text = 'calibrate on more images, which are like those of the test, or leave --int8 out'
            print(f'warning: more than {_AP_LIMIT} of AP is lost; {text}', file=sys.stderr)
    print('{1:.1f} MB, the weights of the original {0:.1f} MB'.format(*(n / 1e6 for n in sizes)))
    print(f'CPU time {result.seconds[1] / max(result.seconds[0], 1e-9):.2f} of the original')


def write(file: Path, model: Any, original: Any, samples: Any, args: argparse.Namespace) -> None:
    """Trace a model and write it."""
    with warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter('ignore')
        say('tracing the network ...')
        program, metadata = graph.trace(model, args.static), graph.describe(model, args.static)
        if args.format == 'pt2':
            graph.save_pt2(program, file, metadata)
            return
        say('translating it to ONNX ...')
        target = os.path.join(folder, 'float32.onnx') if samples else str(file)
        onnx.save_onnx(program, target, metadata)
        if samples:
            say(f'calibrating on {len(samples.sources)} images: {samples.about} ...')
            int8.quantize(target, str(file), original, samples.sources, metadata)


if __name__ == '__main__':
    cli.run(main)
