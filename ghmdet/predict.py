"""Detect in images and videos: `python -m ghmdet.predict`, or `tools/predict.py`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

from ghmdet.argument_checks import check_integer, check_range, is_number
from ghmdet.config import arguments, cli
from ghmdet.config.cfg_options import add_cfg_options, merge_options
from ghmdet.config.errors import name_the_key
from ghmdet.config.parts import log_on_first
from ghmdet.config.unused_keys import find_unused_options
from ghmdet.files import read_text
from ghmdet.messages import did_you_mean, list_items, nearest

console = cli.LazyModule('rich.console')
inference = cli.LazyModule('ghmdet.inference')
progress = cli.LazyModule('rich.progress')
writers = cli.LazyModule('ghmdet.inference.writers')

_OUTPUTS = {  # besides --pictures and --crops
    'json': ('F.json', 'COCO results, with names of files and classes'),
    'coco': ('F.json', 'a COCO data set whose annotations are the detections'),
    'csv': ('F.csv', 'a row per detection'),
    'yolo': ('DIR', 'labels/<image>.txt with scores, and classes.txt'),
    'labelme': ('DIR', 'a file of LabelMe per image'),
    'video': ('F.mp4', 'a video of the drawn frames: .mp4, .avi or .webm'),
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        usage='%(prog)s CONFIG CHECKPOINT SOURCE... [options]',
        description='Detect in images and videos. Without any of --json to --video, results.json, '
        'results.csv and pictures are written into --out.',
    )
    add = parser.add_argument
    add('model', metavar='CONFIG', help='config file, or the name of a config that ghmdet ships')
    add(
        'rest',
        nargs='*',
        metavar='CHECKPOINT SOURCE',
        help='checkpoint, then images, videos, folders, patterns, URLs, lists (.txt), - for stdin',
    )
    add('--list', metavar='FILE', help='file .txt with a source per line; - for stdin')
    add('--out', type=cli.user_path, default=Path('predictions'), metavar='DIR', help='folder')
    for key, (metavar, text) in _OUTPUTS.items():
        add(f'--{key}', type=cli.user_path, metavar=metavar, help=text)
    add('--pictures', action='store_true', help='draw the detections, into OUT/pictures')
    add('--crops', action='store_true', help='cut the objects out, into OUT/crops/<class>')
    add('--score-thr', type=float, default=0.3, metavar='T', help='least score, default 0.3')
    add(
        '--class-thr',
        type=read_thresholds,
        nargs='+',
        action='extend',
        default=[],
        metavar='NAME=T',
        help='least score of a class in place of --score-thr; @FILE reads those of threshold.py',
    )
    add('--batch-size', type=int, default=1, metavar='N', help='images that run together')
    add('--every', type=int, default=1, metavar='K', help='use each K-th frame of videos')
    add('--device', help="e.g. 'cpu' or 'cuda:1'; default CUDA if there is any")
    add('--amp', action='store_true', help='low precision, as in tools/test.py')
    add('--compile', action='store_true', help='compile the network with torch.compile')
    add('--threads', type=int, metavar='N', help='threads of torch')
    add(
        '--on-error',
        choices=('stop', 'skip'),
        default='stop',
        help='stop at the first image that cannot be used, or list these at the end',
    )
    add('--exist-ok', action='store_true', help='replace files of an earlier run')
    add('--quiet', action='store_true', help='neither progress nor summary')
    add_cfg_options(parser)
    cli.add_debug_argument(parser)
    args = parser.parse_intermixed_args()
    split_positionals(args)
    if args.checkpoint is None or not args.sources:
        parser.error('expected CONFIG CHECKPOINT SOURCE..., or --list FILE in place of SOURCE')
    if args.list and args.list != '-' and not args.list.endswith('.txt'):
        parser.error(f'--list must end in .txt or be -, got {args.list}')
    return args


def split_positionals(args: argparse.Namespace) -> None:
    """Set `checkpoint` and `sources`."""
    args.checkpoint = os.path.expanduser(args.rest[0]) if args.rest else None
    args.sources = args.rest[1:] + ([args.list] if args.list else [])


def read_thresholds(word: str) -> dict[str, float]:
    """Read NAME=T, or @FILE: `{"classes": {name: {"threshold": t}}}` or `{name: t}`.

    A class whose threshold is null is left out.
    """
    name, _, text = word.rpartition('=')
    found: dict[str, Any] = {}
    try:
        if word.startswith('@'):
            found = json.loads(read_text(word[1:]))
            found = found['classes'] if isinstance(found.get('classes'), dict) else found
        else:
            found[name] = float(text)
        values = {k: v['threshold'] if isinstance(v, dict) else v for k, v in found.items()}
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except (ValueError, AttributeError, KeyError):
        values = {'': word}
    values = {name: value for name, value in values.items() if value is not None}
    if '' in values or not all(is_number(value, 0, 1) for value in values.values()):
        raise argparse.ArgumentTypeError(
            f'expected NAME=T with T in [0, 1], or @FILE with the JSON of threshold.py, got '
            f'{word!r}; write sources before --class-thr'
        )
    return values


def choose_outputs(args: argparse.Namespace) -> dict[str, Path]:
    """Return the path of each output, by its key in `WRITERS`.

    Raises:
        ValueError: pictures of an earlier run would be read as images, or sources replaced.
    """
    outputs = {key: getattr(args, key) for key in _OUTPUTS if getattr(args, key)}
    folders = {key: args.out / key for key in ('pictures', 'crops') if getattr(args, key)}
    if not outputs | folders:
        outputs = {'json': args.out / 'results.json', 'csv': args.out / 'results.csv'}
        folders = {'pictures': args.out / 'pictures'}
    for folder in filter(Path.exists, folders.values()):
        for source in filter(os.path.exists, args.sources):
            paths = folder.resolve(), Path(source).resolve()
            if paths[0].is_relative_to(paths[1]) or paths[1].is_relative_to(paths[0]):
                raise ValueError(
                    f'--out {args.out}: the pictures in {folder} belong to the source {source}, '
                    'choose another --out'
                )
    return outputs | folders


def choose_thresholds(args: argparse.Namespace, classes: Iterable[str]) -> dict[str, float]:
    """Return the least score of each class.

    Raises:
        ValueError: --class-thr names a class that there is not.
    """
    thresholds = dict.fromkeys(classes, args.score_thr)
    given = {name: value for each in args.class_thr for name, value in each.items()}
    for name in given.keys() - thresholds.keys():
        near = did_you_mean(nearest(name, thresholds)) or f', only {list_items(thresholds, 12)}'
        raise ValueError(f'--class-thr: there is no class {name!r}{near}')
    return thresholds | given


def main() -> None:
    """Run the program."""
    args = parse_args()
    check_range('--score-thr', args.score_thr, 0, 1)
    check_integer('--batch-size', args.batch_size, 1)
    check_integer('--every', args.every, 1)
    outputs = choose_outputs(args)
    writers.check_outputs(outputs, args.exist_ok)
    skips = args.on_error == 'skip'
    images = inference.iterate(args.sources, every=args.every, allow_missing=skips)
    total = inference.count_images(args.sources, every=args.every)
    cfg = arguments.read_config(args.model)
    for sentence in find_unused_options(cfg, args.cfg_options):
        log_on_first(f'config: {sentence}', logging.WARNING)
    merge_options(cfg, args.cfg_options)
    speed = {key: getattr(args, key) for key in ('device', 'amp', 'compile', 'threads')}
    with name_the_key(cfg, args.cfg_options):
        detector = inference.Detector(cfg, args.checkpoint, **speed)
    skipped: list[str] = []
    times = dict(read=0.0, network=0.0, write=0.0)
    on_error = (lambda error: skipped.append(str(error))) if skips else 'raise'
    results = detector.run(images, args.batch_size, on_error=on_error, times=times)
    thresholds = choose_thresholds(args, detector.classes)
    kinds = ((writers.WRITERS[key], path) for key, path in outputs.items())
    opened = [kind(path, detector.classes, args.every) for kind, path in kinds]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # closes the files
    start = time.perf_counter()
    counts = write(args, results, total, thresholds, opened, times)
    if skipped:
        lines = [f'{len(skipped)} images cannot be used and were left out:', *skipped]
        print('\n'.join(lines), file=sys.stderr)
    if skipped and not counts['']:
        raise ValueError(f'no image can be used: {list_items(skipped, 5, "; ")}')
    if not args.quiet:
        summarize(counts, time.perf_counter() - start, times, opened)


def write(
    args: argparse.Namespace,
    results: Iterable[tuple[Any, Any]],
    total: int | None,
    thresholds: dict[str, float],
    opened: list[Any],
    times: dict[str, float],
) -> Counter[str]:
    """Write the results, and count the detections of each class, and the images as class ''."""
    counts: Counter[str] = Counter({'': 0})
    finished = False
    columns = [*progress.Progress.get_default_columns(), progress.MofNCompleteColumn()]
    disable = args.quiet or not sys.stderr.isatty()
    screen = console.Console(stderr=True)
    try:
        with progress.Progress(*columns, console=screen, disable=disable) as bar:
            for image, found in bar.track(results, total, description='predicting'):
                begin, found = time.perf_counter(), found.above(thresholds)
                pixels = cache(partial(read_pixels, image, found))
                for writer in opened:
                    writer.write(found, pixels)
                counts.update(['', *found.names])
                times['write'] += time.perf_counter() - begin
        finished = True
    finally:
        files = [writer.close(finished) for writer in opened]
        if not finished:
            of = '' if total is None else f' of {total}'
            listed = list_items(files, len(files))
            print(f'stopped after {counts[""]}{of} images, see {listed}', file=sys.stderr)
    return counts


def read_pixels(image: Any, found: Any) -> Any:
    """Return the image (h, w, 3) in BGR."""
    return found.read(image.path) if image.image is None else image.image


def summarize(
    counts: Counter[str], seconds: float, times: dict[str, float], opened: list[Any]
) -> None:
    """Print what was found, how fast, and where it is."""
    done = counts.pop('')
    listed = ', '.join(f'{name} {count:,}' for name, count in counts.most_common())
    shares = ', '.join(f'{key} {1000 * value / max(done, 1):.1f}' for key, value in times.items())
    lines = [
        f'{done:,} images, {counts.total():,} detections{f": {listed}" if listed else ""}',
        f'{done / seconds:.2f} images/s (ms per image: {shares})',
        f'written: {", ".join(str(writer.path) for writer in opened)}',
    ]
    try:
        print('\n'.join(lines), flush=True)
    except BrokenPipeError:  # Python would fail again when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == '__main__':
    cli.run(main)
