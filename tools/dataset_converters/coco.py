"""Merge, split, reduce, count and convert COCO files.

python tools/dataset_converters/coco.py merge A.json B.json --out C.json [--join] [--prefix a b]
python tools/dataset_converters/coco.py split ALL.json --split 0.8,0.2 --out DIR [--stratify]
python tools/dataset_converters/coco.py subset A.json --out B.json [--classes cat dog] [--limit 100]
python tools/dataset_converters/coco.py stats A.json
python tools/dataset_converters/coco.py to-yolo train.json val.json --out DIR [--images DIR]
python tools/dataset_converters/coco.py to-csv A.json --out A.csv

merge joins categories by name and numbers all ids anew from 1; of the fields that both files have,
such as `info`, those of the first count. split writes DIR/train.json, val.json and test.json, with
the same ids; the images of a group (--group-by) and copies of an image that Roboflow made stay
together. The image files stay where they are, and so does data_prefix.img in the config, except for
`merge --prefix`. Fields that ghmdet does not read, such as polygons, are kept in COCO files.

to-yolo writes DIR/labels, data.yaml, and train.txt, val.txt and test.txt, after the names of the
files. to-csv writes TensorFlow's columns: filename,width,height,class,xmin,ymin,xmax,ymax. Both are
read by to_coco.py. They leave out boxes with `iscrowd` or `ignore`, which they cannot mark.

A file is only overwritten if this tool wrote it, as COCO.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import splits

from ghmdet.config.cli import LazyModule, add_debug_argument, run, user_path

coco_classes = LazyModule('ghmdet.coco.classes')
coco_edit = LazyModule('coco_edit')
coco_export = LazyModule('coco_export')
coco_stats = LazyModule('coco_stats')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Merge, split, reduce, count, convert COCO files.')
    commands = parser.add_subparsers(dest='command', required=True)

    def add(
        name: str, description: str, out: str = '', several: bool = False
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=description, description=description)
        options: Any = {'nargs': '+'} if several else {'nargs': 1}
        command.add_argument('files', type=user_path, metavar='FILE', help='COCO file', **options)
        if out:
            command.add_argument('--out', type=user_path, required=True, help=out)
        add_debug_argument(command)
        return command

    command = add(
        'merge', description='join files into one', out='COCO file to write', several=True
    )
    command.add_argument(
        '--join', action='store_true', help='make one image of those with the same file name'
    )
    command.add_argument(
        '--prefix', nargs='+', metavar='FOLDER', help='put before the file names, one for each FILE'
    )
    command = add(
        'split', description='divide the images at random', out='folder to write train.json, ... to'
    )
    command.add_argument('--split', required=True, help='shares of train,val or train,val,test')
    splits.add_arguments(command)
    command = add(
        'subset', description='take some of the classes or images', out='COCO file to write'
    )
    command.add_argument('--classes', nargs='+', help='names, or a file, one per line')
    command.add_argument(
        '--images', type=user_path, metavar='LIST', help='file of file names or ids, one per line'
    )
    command.add_argument('--limit', type=int, metavar='N', help='N images, evenly spread')
    command.add_argument('--drop-empty', action='store_true', help='leave out images without a box')
    add('stats', description='count images, boxes and classes')
    command = add(
        'to-yolo', description='write YOLO labels', out='folder to write to', several=True
    )
    command.add_argument(
        '--images', type=user_path, help='folder of the file names, to which DIR/images links'
    )
    add('to-csv', description='write a table of the boxes', out='CSV file to write')
    args = parser.parse_args(argv)
    if args.command == 'subset' and not (
        args.classes or args.images or args.limit is not None or args.drop_empty
    ):
        parser.error('subset needs --classes, --images, --limit or --drop-empty')
    if args.command == 'subset' and args.limit is not None and args.limit < 1:
        parser.error(f'--limit must be at least 1, got {args.limit}')
    if args.command == 'merge' and args.prefix and len(args.prefix) != len(args.files):
        parser.error(f'--prefix needs {len(args.files)} folders, one for each FILE')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.command in ('merge', 'subset'):
        coco_edit.check_target(args.out, args.files)
    need_data = args.command in ('merge', 'split', 'subset')
    files = [coco_edit.read(path, need_data) for path in args.files]
    if args.command == 'merge':
        merge(args, files)
    elif args.command == 'split':
        split(args, files[0])
    elif args.command == 'subset':
        subset(args, files[0])
    elif args.command == 'stats':
        print(coco_stats.describe(files[0].records))
    elif args.command == 'to-yolo':
        coco_export.write_yolo(files, args.out, args.images)
    else:
        coco_export.write_csv(files[0], args.out)


def merge(args: argparse.Namespace, files: Sequence[Any]) -> None:
    merged, num_equal = coco_edit.merge(files, args.prefix or [''] * len(files), args.join)
    sums = [sum(len(file.data[key]) for file in files) for key in ('images', 'annotations')]
    reason = 'equal to one that an earlier file has in the image'
    names = 'joined with the image of the same file name'
    coco_edit.report(sums, {args.out.name: merged}, names, {reason: num_equal})
    coco_edit.write(args.out, merged, args.command, args.files)


def split(args: argparse.Namespace, file: Any) -> None:
    shares = splits.read_shares(args.split)
    targets = {name: args.out / f'{name}.json' for name in splits.SPLIT_NAMES}
    unused = list(targets.values())[len(shares) :]
    for path in list(targets.values())[: len(shares)]:
        coco_edit.check_target(path, args.files)
    for path in unused:
        if path.exists() and coco_edit.is_written(path, args.command):
            raise FileExistsError(
                f'{path} is of another split, and would have images of this one; remove it, or '
                'give another --out'
            )
    images = coco_edit.list_images(file.records)
    names = [image.path.as_posix() for image in images]
    groups = splits.name_groups(names, args.group_by)
    labels = [[box.name for box in image.boxes] for image in images]
    numbers = splits.split_groups(groups, labels, shares, args.seed, args.stratify)
    print(f'{len(images)} images in {len(set(groups))} groups are split with seed {args.seed}')
    parts = {
        name: coco_edit.take(file.data, [i for i, n in enumerate(numbers) if n == number])
        for number, name in enumerate(splits.SPLIT_NAMES[: len(shares)])
    }
    sums = len(images), len(file.data['annotations'])
    coco_edit.report(sums, parts, '', {})
    for name in parts:  # an interrupted run must not leave files of two splits
        targets[name].unlink(missing_ok=True)
    for name, data in parts.items():
        coco_edit.write(targets[name], data, args.command, args.files)


def subset(args: argparse.Namespace, file: Any) -> None:
    data, left_out = file.data, {}
    if args.classes:
        is_file = len(args.classes) == 1 and Path(args.classes[0]).expanduser().is_file()
        given = args.classes[0] if is_file else args.classes
        names = coco_classes.read_class_names(given, '--classes')
        categories = coco_edit.choose_categories(file, names)
        ids = {category['id'] for category in categories}
        kept = [entry for entry in data['annotations'] if entry['category_id'] in ids]
        left_out['of other classes'] = len(data['annotations']) - len(kept)
        data = data | {'categories': categories, 'annotations': kept}
    indices = sorted(coco_edit.choose_images(file, args.images) if args.images else _all(data))
    if args.drop_empty:
        having = {entry['image_id'] for entry in data['annotations']}
        indices = [index for index in indices if data['images'][index]['id'] in having]
    if args.limit and args.limit < len(indices):
        indices = [indices[i * len(indices) // args.limit] for i in range(args.limit)]
    if not indices:
        raise ValueError(f'{file.path}: no image is left of {len(data["images"])}: nothing written')
    chosen = coco_edit.take(data, indices)
    left_out['of images left out'] = len(data['annotations']) - len(chosen['annotations'])
    sums = len(data['images']), len(file.data['annotations'])
    coco_edit.report(sums, {args.out.name: chosen}, 'not chosen', left_out)
    coco_edit.write(args.out, chosen, args.command, args.files)


def _all(data: dict[str, Any]) -> range:
    return range(len(data['images']))


if __name__ == '__main__':
    run(main)
