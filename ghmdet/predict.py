"""Detect in images and videos: `python -m ghmdet.predict`, or `tools/predict.py`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from ghmdet.argument_checks import check_integer, check_range, is_number
from ghmdet.config import arguments, cli
from ghmdet.config.cfg_options import add_cfg_options
from ghmdet.config.errors import name_the_key
from ghmdet.files import is_exported, read_text
from ghmdet.messages import did_you_mean, list_items, nearest

console = cli.LazyModule('rich.console')
inference = cli.LazyModule('ghmdet.inference')
progress = cli.LazyModule('rich.progress')
writers = cli.LazyModule('ghmdet.inference.writers')

_FILES = 'json', 'coco', 'csv', 'yolo', 'labelme', 'video'
_PICTURES = 'pictures', 'crops'  # in --out


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        usage='%(prog)s (CONFIG CHECKPOINT | FILE.onnx) SOURCE... [options]',
        description='Detect in images and videos; by default, JSON, CSV and pictures go to OUT.',
    )
    add, path = parser.add_argument, dict[str, Any](type=cli.user_path)
    add('config', metavar='CONFIG', help='config file, or the name of a config that ghmdet ships')
    text = 'checkpoint file or URL; not with a file of ghmdet.export (.onnx, .pt2)'
    add('checkpoint', metavar='CHECKPOINT', nargs='?', type=os.path.expanduser, help=text)
    text = 'images, videos, folders, patterns, URLs, lists (.txt), - for stdin'
    add('sources', metavar='SOURCE', nargs='*', help=text)
    add('--list', metavar='FILE', help='file .txt with a source per line; - for stdin')
    add('--out', metavar='DIR', default=Path('predictions'), **path, help='folder: predictions')
    add('--json', metavar='F.json', **path, help='COCO results, with names of files and classes')
    add('--coco', metavar='F.json', **path, help='a COCO data set that has the detections')
    add('--csv', metavar='F.csv', **path, help='a row per detection')
    add('--yolo', metavar='DIR', **path, help='labels/<image>.txt with scores, and classes.txt')
    add('--labelme', metavar='DIR', **path, help='a file of LabelMe per image')
    add('--video', metavar='F.mp4', **path, help='the drawn frames; also .avi or .webm')
    add('--pictures', action='store_true', help='draw the detections, into OUT/pictures')
    add('--crops', action='store_true', help='cut the objects out, into OUT/crops/<class>')
    add('--score-thr', type=float, default=0.3, metavar='T', help='least score, default 0.3')
    text = 'least score of a class in place of --score-thr; @FILE reads those of threshold.py'
    kind = dict[str, Any](type=read_thresholds, nargs='+', action='extend', default=[])
    add('--class-thr', metavar='NAME=T', help=text, **kind)
    add('--batch-size', type=int, default=1, metavar='N', help='images that run together')
    add('--every', type=int, default=1, metavar='K', help='use each K-th frame of videos')
    add('--backend', help='what runs an .onnx: onnxruntime (default) or openvino')
    add('--device', help="e.g. 'cpu' or 'cuda:1'; default CUDA if there is any")
    add('--amp', action='store_true', help='low precision, as in tools/test.py')
    add('--compile', action='store_true', help='compile the network with torch.compile')
    add('--threads', type=arguments.read_count, metavar='N', help='threads of torch')
    add('--on-error', choices=('stop', 'skip'), default='stop', help='if an image cannot be used')
    add('--exist-ok', action='store_true', help='replace files of an earlier run')
    add('--quiet', action='store_true', help='neither progress nor summary')
    add_cfg_options(parser)
    add('--strict', action='store_true', help='stop at config keys that are not used')
    cli.add_debug_argument(parser)
    parser.set_defaults(data_root=None, work_dir=None, launcher='none', local_rank=0)
    args = parser.parse_intermixed_args()
    if is_exported(args.config):
        args.sources[:0] = [args.checkpoint] * bool(args.checkpoint)
        args.config, args.checkpoint = None, args.config
    args.sources = args.sources + [args.list] * bool(args.list)
    if not args.sources or not args.checkpoint:
        parser.error('expected CONFIG CHECKPOINT SOURCE..., or --list FILE in place of SOURCE')
    if args.list and args.list != '-' and not args.list.endswith('.txt'):
        parser.error(f'--list must end in .txt or be -, got {args.list}')
    return args


def read_thresholds(word: str) -> dict[str, float]:
    """Read NAME=T, or @FILE: `{"classes": {name: {"threshold": t or null}}}` or `{name: t}`."""
    name, _, text = word.rpartition('=')
    try:
        is_file = word.startswith('@')
        values = json.loads(read_text(word[1:])) if is_file else {'classes': {name: float(text)}}
        values = values['classes'] if isinstance(values.get('classes'), dict) else values
        found = {k: v['threshold'] if isinstance(v, dict) else v for k, v in values.items()}
        found = {name: value for name, value in found.items() if value is not None}
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except (ValueError, AttributeError, KeyError):
        found = {'': 0}
    if '' in found or not all(is_number(value, 0, 1) for value in found.values()):
        raise argparse.ArgumentTypeError(
            f'expected NAME=T with T in [0, 1], or @FILE with the JSON of threshold.py, got '
            f'{word!r}; write sources before --class-thr'
        )
    return found


def choose_outputs(args: argparse.Namespace) -> dict[str, Path]:
    """Return the path of each output, by its key in `WRITERS`; none may replace a source."""
    outputs = {key: getattr(args, key) for key in _FILES if getattr(args, key)}
    outputs |= {key: args.out / key for key in _PICTURES if getattr(args, key)}
    default = dict(json='results.json', csv='results.csv', pictures='pictures')
    outputs = outputs or {key: args.out / name for key, name in default.items()}
    folders = [path.resolve() for key, path in outputs.items() if key in _PICTURES]
    sources = [Path(name).resolve() for name in args.sources if os.path.exists(name)]
    for folder, source in product(filter(Path.exists, folders), sources):
        if folder.is_relative_to(source) or source.is_relative_to(folder):
            raise ValueError(
                f'--out {args.out}: {folder} and {source} share pictures; choose another --out'
            )
    return outputs


def main() -> None:
    """Run the program."""
    args = parse_args()
    check_range('--score-thr', args.score_thr, 0, 1)
    check_integer('--batch-size', args.batch_size, 1)
    check_integer('--every', args.every, 1)
    outputs, skips = choose_outputs(args), args.on_error == 'skip'
    writers.check_outputs(outputs, args.exist_ok)
    images = inference.iterate(args.sources, every=args.every, allow_missing=skips)
    detector = build_detector(args)
    class_thr = {name: value for each in args.class_thr for name, value in each.items()}
    for name in class_thr.keys() - set(detector.classes):
        near = did_you_mean(nearest(name, detector.classes)) or f' among {detector.classes}'
        raise ValueError(f'--class-thr: there is no class {name!r}{near}')
    thresholds = dict.fromkeys(detector.classes, args.score_thr) | class_thr
    kinds = ((writers.WRITERS[key], path) for key, path in outputs.items())
    opened = [kind(path, detector.classes, args.every) for kind, path in kinds]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # closes the files

    skipped: list[str] = []
    times = dict(read=0.0, network=0.0, write=0.0)
    on_error = (lambda error: skipped.append(str(error))) if skips else 'raise'
    start, results = time.perf_counter(), detector.run(images, args.batch_size, 0, on_error, times)
    hidden = args.quiet or not sys.stderr.isatty()
    above = ((image, found.above(thresholds)) for image, found in results)
    counts = write(above, opened, times, images.count(), hidden)
    seconds, done = time.perf_counter() - start, counts.pop(None)
    if skipped:
        print(f'{len(skipped)} images cannot be used and were left out:', file=sys.stderr)
        print('\n'.join(skipped), file=sys.stderr)
        if not done:
            raise ValueError(f'no image can be used: {list_items(skipped, 5, "; ")}')
    if not args.quiet:
        listed = ', '.join(f'{name} {count:,}' for name, count in counts.most_common())
        shares = ', '.join(f'{key} {1000 * each / max(done, 1):.1f}' for key, each in times.items())
        print(f'{done:,} images, {counts.total():,} detections{": " * bool(listed)}{listed}')
        print(f'{done / seconds:.2f} images/s (ms per image: {shares})')
        print(f'written: {", ".join(str(writer.path) for writer in opened)}')


def build_detector(args: argparse.Namespace) -> Any:
    """Return the `Detector`; for an exported file, a config only has `custom_imports`."""
    keys = ('device', 'amp', 'compile', 'threads', 'backend')
    options = {key: getattr(args, key) for key in keys}
    if is_exported(args.checkpoint):
        if args.cfg_options or args.strict:
            raise ValueError('a file keeps its settings: leave --cfg-options and --strict out')
        if args.config:
            arguments.read_config(args.config)
        return inference.Detector(args.checkpoint, **options)
    cfg = arguments.load_config(args)
    with name_the_key(cfg, args.cfg_options):
        return inference.Detector(cfg, args.checkpoint, **options)


def write(results: Any, opened: list[Any], times: dict, total: int | None, hidden: bool) -> Counter:
    """Write the results; return the numbers of images (of None) and of detections per class."""
    counts: Counter[str | None] = Counter({None: 0})
    columns = [*progress.Progress.get_default_columns(), progress.MofNCompleteColumn()]
    finished, screen = False, console.Console(stderr=True)
    try:
        with progress.Progress(*columns, console=screen, disable=hidden) as bar:
            for image, found in bar.track(results, total, description='predicting'):
                begin, pixels = time.perf_counter(), cache(partial(read_pixels, image, found))
                for writer in opened:
                    writer.write(found, pixels)
                counts.update([None, *found.names])
                times['write'] += time.perf_counter() - begin
        finished = True
    finally:
        files = list[str]()
        with ExitStack() as ends:  # all are closed, also after an error of one
            if not finished:
                of = '' if total is None else f' of {total}'
                text = f'stopped after {counts[None]}{of} images, kept in'
                ends.callback(lambda: print(text, ', '.join(files), file=sys.stderr))
            for writer in reversed(opened):
                ends.callback(lambda each: files.append(str(each.close(finished))), writer)
    return counts


def read_pixels(image: Any, found: Any) -> Any:
    """Return the image (h, w, 3) in BGR."""
    return found.read(image.path) if image.image is None else image.image


if __name__ == '__main__':
    cli.run(main)
