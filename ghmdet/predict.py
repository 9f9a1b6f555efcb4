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
from ghmdet.config.unused_keys import find_unused_options, find_unused_parts
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
_PICTURES = 'pictures', 'crops'  # in --out
_IMAGES = None  # their number, beside that of each class


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        usage='%(prog)s CONFIG CHECKPOINT SOURCE... [options]',
        description='Detect in images and videos. Without any of --json to --video, results.json, '
        'results.csv and pictures are written into --out.',
    )
    add = parser.add_argument
    add('model', metavar='CONFIG', help='config file, or the name of a config that ghmdet ships')
    text = 'checkpoint, then images, videos, folders, patterns, URLs, lists (.txt), - for stdin'
    add('rest', nargs='*', metavar='CHECKPOINT SOURCE', help=text)
    add('--list', metavar='FILE', help='file .txt with a source per line; - for stdin')
    add('--out', type=cli.user_path, default=Path('predictions'), metavar='DIR', help='folder')
    for key, (metavar, text) in _OUTPUTS.items():
        add(f'--{key}', type=cli.user_path, metavar=metavar, help=text)
    add('--pictures', action='store_true', help='draw the detections, into OUT/pictures')
    add('--crops', action='store_true', help='cut the objects out, into OUT/crops/<class>')
    add('--score-thr', type=float, default=0.3, metavar='T', help='least score, default 0.3')
    text = 'least score of a class in place of --score-thr; @FILE reads those of threshold.py'
    kind: dict[str, Any] = dict(type=read_thresholds, nargs='+', action='extend', default=[])
    add('--class-thr', metavar='NAME=T', help=text, **kind)
    add('--batch-size', type=int, default=1, metavar='N', help='images that run together')
    add('--every', type=int, default=1, metavar='K', help='use each K-th frame of videos')
    add('--device', help="e.g. 'cpu' or 'cuda:1'; default CUDA if there is any")
    add('--amp', action='store_true', help='low precision, as in tools/test.py')
    add('--compile', action='store_true', help='compile the network with torch.compile')
    add('--threads', type=int, metavar='N', help='threads of torch')
    text = 'stop at the first image that cannot be used, or list these at the end'
    add('--on-error', choices=('stop', 'skip'), default='stop', help=text)
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
    values: dict[str, Any] = {name: text}
    try:
        if word.startswith('@'):
            values = json.loads(read_text(word[1:]))
            values = values['classes'] if isinstance(values.get('classes'), dict) else values
        else:
            values[name] = float(text)
        found = {k: v['threshold'] if isinstance(v, dict) else v for k, v in values.items()}
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except (ValueError, AttributeError, KeyError):
        found = {'': word}
    found = {name: value for name, value in found.items() if value is not None}
    if '' in found or not all(is_number(value, 0, 1) for value in found.values()):
        raise argparse.ArgumentTypeError(
            f'expected NAME=T with T in [0, 1], or @FILE with the JSON of threshold.py, got '
            f'{word!r}; write sources before --class-thr'
        )
    return found


def choose_outputs(args: argparse.Namespace) -> dict[str, Path]:
    """Return the path of each output, by its key in `WRITERS`.

    Raises:
        ValueError: pictures of an earlier run would be read as images, or sources replaced.
    """
    outputs = {key: getattr(args, key) for key in _OUTPUTS if getattr(args, key)}
    outputs |= {key: args.out / key for key in _PICTURES if getattr(args, key)}
    default = {'json': 'results.json', 'csv': 'results.csv', 'pictures': 'pictures'}
    outputs = outputs or {key: args.out / name for key, name in default.items()}
    folders = [path.resolve() for key, path in outputs.items() if key in _PICTURES]
    for folder in filter(Path.exists, folders):
        for source in (Path(name).resolve() for name in args.sources if os.path.exists(name)):
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
    outputs = choose_outputs(args)
    writers.check_outputs(outputs, args.exist_ok)
    skips = args.on_error == 'skip'
    images = inference.iterate(args.sources, every=args.every, allow_missing=skips)
    cfg = arguments.read_config(args.model)
    unused = list(find_unused_options(cfg, args.cfg_options))
    merge_options(cfg, args.cfg_options)
    for sentence in [*unused, *find_unused_parts(cfg)]:
        log_on_first(f'config: {sentence}', logging.WARNING)
    speed = {key: getattr(args, key) for key in ('device', 'amp', 'compile', 'threads')}
    with name_the_key(cfg, args.cfg_options):
        detector = inference.Detector(cfg, args.checkpoint, **speed)
    class_thr = {name: value for each in args.class_thr for name, value in each.items()}
    thresholds = dict.fromkeys(detector.classes, args.score_thr) | class_thr
    for name in class_thr.keys() - set(detector.classes):
        near = did_you_mean(nearest(name, detector.classes)) or f' among {detector.classes}'
        raise ValueError(f'--class-thr: there is no class {name!r}{near}')
    kinds = ((writers.WRITERS[key], path) for key, path in outputs.items())
    opened = [kind(path, detector.classes, args.every) for kind, path in kinds]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # closes the files

    skipped: list[str] = []
    times = dict(read=0.0, network=0.0, write=0.0)
    on_error = (lambda error: skipped.append(str(error))) if skips else 'raise'
    start, results = time.perf_counter(), detector.run(images, args.batch_size, 0, on_error, times)
    counts = write(args, results, thresholds, opened, times)
    if skipped:
        lines = [f'{len(skipped)} images cannot be used and were left out:', *skipped]
        print('\n'.join(lines), file=sys.stderr)
    if skipped and not counts[_IMAGES]:
        raise ValueError(f'no image can be used: {list_items(skipped, 5, "; ")}')
    if not args.quiet:
        summarize(counts, time.perf_counter() - start, times, opened)


def write(
    args: argparse.Namespace,
    results: Iterable[tuple[Any, Any]],
    thresholds: dict[str, float],
    opened: list[Any],
    times: dict[str, float],
) -> Counter[str | None]:
    """Write the results; return the numbers of images and of detections of each class."""
    total = inference.count_images(args.sources, every=args.every)
    counts: Counter[str | None] = Counter({_IMAGES: 0})
    columns = [*progress.Progress.get_default_columns(), progress.MofNCompleteColumn()]
    hidden, screen = args.quiet or not sys.stderr.isatty(), console.Console(stderr=True)
    finished = False
    try:
        with progress.Progress(*columns, console=screen, disable=hidden) as bar:
            for image, found in bar.track(results, total, description='predicting'):
                begin, found = time.perf_counter(), found.above(thresholds)
                pixels = cache(partial(read_pixels, image, found))
                for writer in opened:
                    writer.write(found, pixels)
                counts.update([_IMAGES, *found.names])
                times['write'] += time.perf_counter() - begin
        finished = True
    finally:
        files = ', '.join([str(writer.close(finished)) for writer in opened])
        if not finished:
            of = '' if total is None else f' of {total}'
            print(f'stopped after {counts[_IMAGES]}{of} images, kept in {files}', file=sys.stderr)
    return counts


def read_pixels(image: Any, found: Any) -> Any:
    """Return the image (h, w, 3) in BGR."""
    return found.read(image.path) if image.image is None else image.image


def summarize(
    counts: Counter[str | None], seconds: float, times: dict[str, float], opened: list[Any]
) -> None:
    """Print what was found, how fast, and where it is."""
    done = counts.pop(_IMAGES)
    listed = ', '.join(f'{name} {count:,}' for name, count in counts.most_common())
    shares = ', '.join(f'{key} {1000 * value / max(done, 1):.1f}' for key, value in times.items())
    files = ', '.join(str(writer.path) for writer in opened)
    text = f'{done:,} images, {counts.total():,} detections{": " * bool(listed)}{listed}\n'
    try:
        print(f'{text}{done / seconds:.2f} images/s (ms per image: {shares})\nwritten: {files}')
        sys.stdout.flush()
    except BrokenPipeError:  # Python would fail again when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == '__main__':
    cli.run(main)
