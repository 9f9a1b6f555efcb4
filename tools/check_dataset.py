"""Check every annotation and image: python tools/check_dataset.py CONFIG|JSON [--out DIR].

Checks all datasets of a config with their classes and filters, or one COCO file. Every entry is
read and every image decoded; an error does not stop the check. Writes report.txt, report.html and
pictures of the boxes with errors. The exit code is 1 if there are errors, which would stop a
training; boxes that a training would only skip, equal boxes, equal images, and images of the
training that are in the validation or test data too, are warnings. It is
also 1 if a dataset or images could not be checked, unless --allow-skipped is given. With --pipeline
the images go through all steps of their dataset's pipeline.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ghmdet.config.arguments import add_data_root, move_data, read_config
from ghmdet.config.cfg_options import add_cfg_options, merge_options
from ghmdet.config.cli import LazyModule, add_debug_argument, run, user_path
from ghmdet.config.data_root import find_datasets
from ghmdet.registry import DATASETS

if TYPE_CHECKING:
    from dataset_audit.audit import DatasetAudit

    from ghmdet.coco.records import ImageRecord
    from ghmdet.datasets import CocoDataset

dataset_audit = LazyModule('dataset_audit.audit')
audit_report = LazyModule('dataset_audit.report')
class_check = LazyModule('ghmdet.checks.classes')
coco_classes = LazyModule('ghmdet.coco.classes')
datasets = LazyModule('ghmdet.datasets')

# Where the images of a COCO file may be, relative to its folder.
_GUESSES = (
    '.',
    'images',
    '../images',
    '../JPEGImages',
    '{split}',
    '../{split}',
    '../images/{split}',
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Check all annotations and images.')
    parser.add_argument(
        'source',
        type=os.path.expanduser,
        help='config file, name of a config that ghmdet ships, or JSON',
    )
    parser.add_argument(
        '--out', type=user_path, help='folder of the report (check_<name of source>)'
    )
    parser.add_argument(
        '--img-dir',
        type=os.path.expanduser,
        help='folder of the images of a JSON (searched beside it)',
    )
    parser.add_argument(
        '--workers', type=int, default=os.cpu_count() or 1, help='processes that decode images'
    )
    parser.add_argument(
        '--pipeline',
        action='store_true',
        help='run the whole pipeline of each dataset of a config on its images, not only the '
        'decoder; what is random is drawn anew',
    )
    parser.add_argument(
        '--allow-skipped',
        action='store_true',
        help='exit with code 0 although datasets or images were not checked (other types of '
        'datasets, no folder, not on a local disk)',
    )
    parser.add_argument('--pictures', type=int, default=6, help='how many of each kind of error')
    add_cfg_options(parser)
    add_data_root(parser)
    add_debug_argument(parser)
    args = parser.parse_args()
    if args.workers < 0 or args.pictures < 0:
        parser.error('--workers and --pictures must not be negative')
    if args.pipeline and args.source.endswith('.json'):
        parser.error('--pipeline needs a config, since a JSON has no pipeline')
    return args


def main() -> None:
    args = parse_args()
    MMLogger.get_current_instance().setLevel(logging.ERROR)  # the report has what datasets log
    skipped: list[str] = []
    if args.source.endswith('.json'):
        audits = [check_json(args)]
    else:
        audits = list(check_config(args, skipped))
    if not audits:
        raise ValueError(f'{args.source}: nothing was checked: {"; ".join(skipped)}')
    find_leaks(audits)
    out = args.out or Path(f'check_{Path(args.source).stem}')
    audit_report.write_report(audits, out)
    print('\n'.join(map(audit_report.list_findings, audits)))
    print(f'report: {out / "report.html"} and {out / "report.txt"}')
    errors = sum(audit.num_errors for audit in audits)
    if errors:
        raise ValueError(f'{args.source}: {errors:,} errors in the data, see above and the report')
    skipped += [f'{a.unchecked:,} images of {a.ann_file}' for a in audits if a.unchecked]
    if skipped:
        message = f'{args.source}: not checked: {"; ".join(skipped)}'
        if not args.allow_skipped:
            raise ValueError(f'{message}. --allow-skipped accepts this')
        print(message, file=sys.stderr)


def check_json(args: argparse.Namespace) -> DatasetAudit:
    """Check a COCO file with all its categories."""
    entries = dataset_audit.read_valid_entries(args.source, need_annotations=False)
    names = coco_classes.find_classes(entries[0]).classes
    folder = args.img_dir or guess_folder(Path(args.source), entries[0].images[:1])
    dataset = datasets.CocoDataset(
        args.source,
        data_prefix={'img': folder or str(Path(args.source).parent)},
        metainfo={'classes': names} if names else None,
        test_mode=True,
        lazy_init=True,
    )
    if folder is None:
        print('no folder of images beside the file; name it with --img-dir', file=sys.stderr)
    return check(args, args.source, dataset, entries=entries, decode=folder is not None)


def guess_folder(ann_file: Path, images: Sequence[ImageRecord]) -> str | None:
    """Find the folder in which the image of a COCO file is."""
    split = ann_file.stem.removeprefix('instances_')
    folders = [ann_file.parent / guess.format(split=split) for guess in _GUESSES]
    found = [d for d in folders for image in images if (d / str(image.file_name)).is_file()]
    return str(found[0]) if found else None


def check_config(args: argparse.Namespace, skipped: list[str]) -> Iterator[DatasetAudit]:
    """Check the datasets of a config; equal ones are checked once, others added to `skipped`."""
    cfg = read_config(args.source)
    move_data(cfg, args)
    merge_options(cfg, args.cfg_options)
    classes_error = ''
    try:
        class_check.resolve_classes(cfg, ('train', 'val', 'test'))
    except (OSError, ValueError) as error:
        classes_error = str(error)
    keys: dict[str, list[str]] = {}
    init_default_scope(cfg.get('default_scope', 'ghmdet'))  # of steps inside of others
    configs = {
        key: dict(values) if args.pipeline else simplify(values)
        for key, values in find_datasets(cfg)
    }
    for key, values in configs.items():
        keys.setdefault(repr(values), []).append(key)
    num_errors = 0
    for same in keys.values():
        values, name = configs[same[0]], ', '.join(same)
        kind = DATASETS.get(values['type']) if isinstance(values['type'], str) else values['type']
        if not issubclass(kind, datasets.CocoDataset) or not values.get('ann_file'):
            skipped.append(f'{name} ({kind.__name__})')
            continue
        dataset, entries = DATASETS.build({**values, 'lazy_init': True}), None
        if classes_error and not (values.get('metainfo') or {}).get('classes'):
            entries, dataset = read_with_own_classes(dataset, values)
        audit = check(args, name, dataset, entries=entries)
        num_errors += audit.num_errors
        yield audit
    if classes_error and (not num_errors or classes_error.startswith('the classes do not agree')):
        audit = dataset_audit.DatasetAudit('all datasets', args.source)
        audit.add('classes', [classes_error])
        yield audit
    elif not keys:
        raise ValueError(f'{args.source}: no dataset in train_, val_ or test_dataloader')


def find_leaks(audits: Sequence[DatasetAudit]) -> None:
    """Add a warning to the datasets for validation and test that have images of the training.

    Args:
        audits: named by their keys in the config, such as `val_dataloader.dataset`.
    """
    for source, audit in product(audits, audits):
        train = ', '.join(k for k in source.name.split(', ') if k.startswith('train_'))
        other = ', '.join(k for k in audit.name.split(', ') if not k.startswith('train_'))
        if not (train and other):
            continue
        texts = [
            f'{name} is {source.images[key][0]} of {train}'
            for key, (name, _) in audit.images.items()
            if key in source.images
        ]
        count = f'{len(texts):,} of {len(audit.images):,} images of {other} are in {train} too'
        audit.add(f'image of the training: {count}', texts, is_error=False)


def read_with_own_classes(dataset: CocoDataset, values: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the entries of a dataset's file, None if it cannot be read, and the dataset.

    It gets the classes of the file. With those of COCO, its default, each file would lack them.
    """
    try:
        entries = dataset_audit.read_valid_entries(
            dataset.ann_file, dataset.backend_args, not dataset.test_mode
        )
    except (OSError, ValueError):  # found again by the check
        return None, dataset
    names = coco_classes.find_classes(entries[0]).classes
    metainfo = {'metainfo': {'classes': names}} if names else {}
    return entries, DATASETS.build({**values, **metainfo, 'lazy_init': True})


def simplify(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a dataset without what does not matter to the check."""
    steps = values.get('pipeline') or ()
    loaders = [s for s in steps if str(s.get('type')).endswith('LoadImageFromFile')]
    return {**values, 'pipeline': loaders}


def check(args: argparse.Namespace, name: str, dataset: CocoDataset, **kwargs: Any) -> DatasetAudit:
    with show_progress(name) as progress:
        kwargs |= dict(workers=args.workers, max_pictures=args.pictures, progress=progress)
        return dataset_audit.check_dataset(dataset, name, pipeline=args.pipeline, **kwargs)


@contextlib.contextmanager
def show_progress(name: str) -> Iterator:
    """Show a progress bar with the remaining time on stderr."""
    columns = [TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn()]
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == '__main__':
    run(main)
