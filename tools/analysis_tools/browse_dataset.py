"""Draw what the pipeline makes of the images of a dataset. Needs no display.

python tools/analysis_tools/browse_dataset.py CONFIG [--split val] [--num N] [--draws K]

A picture has the image as it is in the file, and K random results of the whole pipeline, with size
and boxes. Boxes to ignore are grey. The same --seed gives the same pictures. Images that cannot be
read are named at the end. Not shown: what the data preprocessor does (mean, std, padding).
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path, PurePath
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.utils import ProgressBar

from ghmdet.config.arguments import add_data_root, move_data
from ghmdet.config.cfg_options import add_cfg_options, merge_options
from ghmdet.config.cli import LazyModule, add_debug_argument, run, user_path
from ghmdet.config.shipped import get_config
from ghmdet.messages import did_you_mean, list_items, nearest
from ghmdet.registry import DATASETS

anchor_check = LazyModule('ghmdet.checks.anchors')
class_check = LazyModule('ghmdet.checks.classes')
cv2 = LazyModule('cv2')
drawing = LazyModule('ghmdet.visualization.drawing')
image_file = LazyModule('ghmdet.datasets.image_file')
marked_pictures = LazyModule('ghmdet.visualization.marked_pictures')
mmcv = LazyModule('mmcv')
np = LazyModule('numpy')
structures = LazyModule('ghmdet.structures')
torch = LazyModule('torch')
wrappers = LazyModule('ghmdet.datasets.wrappers')

_SIDES = 320, 640  # of an image that is not enlarged or reduced, in pixels
_STRIP = 24  # pixels above an image, for the text
_GAP = 8
_SKIPPED = 'None: another image is taken'


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Draw what the pipeline makes of the images.')
    parser.add_argument('config', help='config file, or the name of a config that ghmdet ships')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train')
    parser.add_argument('--num', type=int, default=20, help='images, evenly spread (20)')
    parser.add_argument('--images', nargs='+', metavar='NAME', help='file names of the images')
    parser.add_argument(
        '--classes', nargs='+', metavar='CLASS', help='only images with these, and their boxes'
    )
    parser.add_argument(
        '--draws', type=int, help='random results of each image (3; 1 of val and test)'
    )
    parser.add_argument('--seed', type=int, default=0, help='of the random results (0)')
    parser.add_argument(
        '--output-dir', type=user_path, help='(work_dirs/NAME OF THE CONFIG/browse_SPLIT)'
    )
    parser.add_argument('--show', action='store_true', help='also show each in a window')
    parser.add_argument(
        '--show-interval', type=float, default=2, help='seconds; 0: until the space key (2)'
    )
    parser.add_argument('--not-show', action='store_true', help="MMDetection's; the default here")
    add_data_root(parser)
    add_cfg_options(parser)
    add_debug_argument(parser)
    args = parser.parse_args(argv)
    args.draws = (3 if args.split == 'train' else 1) if args.draws is None else args.draws
    for name, low in (('num', 1), ('draws', 1), ('seed', 0)):
        if getattr(args, name) < low:
            parser.error(f'--{name}: expected at least {low}, got {getattr(args, name)}')
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = get_config(args.config)
    move_data(cfg, args)
    merge_options(cfg, args.cfg_options)
    with DefaultScope.overwrite_default_scope('ghmdet'):
        datasets = build_datasets(cfg, args.split)
    labels = find_labels(datasets, args.classes)
    chosen = choose_images(datasets, labels, args)
    folder = args.output_dir
    if folder is None:
        folder = Path('work_dirs') / Path(args.config).stem / f'browse_{args.split}'
        marked_pictures.clear_pictures(folder)
    faults = []
    bar = ProgressBar(len(chosen), file=sys.stderr)
    for number, (dataset, index, position) in enumerate(chosen, 1):
        info = dataset.get_data_info(index)
        name = marked_pictures.picture_name(f'{number:03}', Path(info['img_path']).name)
        if (folder / name).resolve().parent == Path(info['img_path']).resolve().parent:
            raise ValueError(
                f'--output-dir {folder} has images of the dataset; name another folder'
            )
        try:
            picture = draw_image(dataset, index, labels, args, position)
        except (ValueError, RuntimeError, OSError) as error:  # the other images go on
            faults.append(str(error))
        else:
            mmcv.imwrite(picture[..., ::-1], str(folder / name))
            if args.show:
                drawing.DetLocalVisualizer().show(picture, name, wait_time=args.show_interval)
        bar.update()
    print(file=sys.stderr)
    report = f'{len(faults)} of {len(chosen)} images cannot be drawn: {list_items(faults, 5, "; ")}'
    if len(faults) == len(chosen):
        raise ValueError(report)
    print(f'written to {folder}: {len(chosen) - len(faults)} pictures')
    if faults:
        print(report)


def build_datasets(cfg: Config, split: str) -> list[Any]:
    """Return the datasets of a split, without what repeats or joins them."""
    if not cfg.get(f'{split}_dataloader'):
        raise ValueError(f'the config has no {split}_dataloader; choose another --split')
    class_check.resolve_classes(cfg, [split])
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    datasets = list(wrappers.base_datasets(dataset))
    for each in datasets:
        each.full_init()
    return datasets


def find_labels(datasets: list[Any], classes: list[str] | None) -> set[int] | None:
    """Return the labels of the classes; None: all."""
    known = datasets[0].metainfo['classes']
    for name in classes or ():
        if name not in known:
            near = did_you_mean(nearest(name, known))
            raise ValueError(
                f'--classes: no class {name!r}; there are {list_items(known, 20)}{near}'
            )
    return {known.index(name) for name in classes} if classes else None


def choose_images(
    datasets: list[Any], labels: set[int] | None, args: argparse.Namespace
) -> list[tuple[Any, int, int]]:
    """Return datasets, indices in them, and positions among the images of all."""
    pairs = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    found = [(*pair, position) for position, pair in enumerate(pairs)]
    if args.images or labels:
        infos = [dataset.get_data_info(index) for dataset, index in pairs]
    if args.images:
        paths = [PurePath(info['img_path']) for info in infos]
        wanted = {PurePath(name).parts for name in args.images}
        matches = [{w for w in wanted if path.parts[-len(w) :] == w} for path in paths]
        if missing := wanted - set().union(*matches):
            names = ['/'.join(parts) for parts in sorted(missing)]
            near = did_you_mean(nearest(names[0], {path.name for path in paths}))
            raise ValueError(f'--images: not in the dataset: {list_items(names)}{near}')
        found = [each for each in found if matches[each[2]]]
    if labels:
        instances = [info['instances'] for info in infos]
        found = [i for i in found if any(o['bbox_label'] in labels for o in instances[i[2]])]
        if not found:
            raise ValueError(f'none of these images has an object of {list_items(args.classes)}')
    return found if args.images else [found[i] for i in anchor_check.spread(len(found), args.num)]


def draw_image(
    dataset: Any, index: int, labels: set[int] | None, args: argparse.Namespace, position: int
) -> Any:
    """Return the image and its random results side by side, RGB uint8 (h, w, 3)."""
    info = dataset.get_data_info(index)
    loader, path = getattr(dataset, 'image_loader', None), info['img_path']
    image = loader.read(path, in_color=True) if loader else image_file.read_image(path)
    panels = [('file', image, read_objects(info))]
    for draw in range(1, args.draws + 1):
        words = np.random.SeedSequence((args.seed, position, draw)).generate_state(3).tolist()
        random.seed(words[0])
        np.random.seed(words[1])
        torch.manual_seed(words[2])
        data = dataset.prepare_data(index)
        if data is None:
            panels.append((_SKIPPED, np.full_like(image, 128), structures.DetDataSample()))
        else:
            panels.append((f'result {draw}', *unpack(data, dataset)))
    side = max(max(image.shape[:2]) for _, image, _ in panels)
    factor = min(max(1, _SIDES[0] / side), _SIDES[1] / side)
    painter = drawing.DetLocalVisualizer(line_width=2, alpha=1)
    # Without its palette, in which a class may be grey, like what is ignored.
    painter.dataset_meta = dict(classes=dataset.metainfo.get('classes', ()))
    return join([draw_panel(painter, *panel, labels, factor) for panel in panels])


def read_objects(info: dict[str, Any]) -> Any:
    """Return the boxes of an image as they are in the file."""
    sample = structures.DetDataSample()
    for name, flag in (('gt_instances', 0), ('ignored_instances', 1)):
        objects = [each for each in info['instances'] if each.get('ignore_flag', 0) == flag]
        boxes = torch.tensor([each['bbox'] for each in objects], dtype=torch.float32)
        part = structures.InstanceData(bboxes=boxes.reshape(-1, 4))
        part.labels = torch.tensor([each['bbox_label'] for each in objects], dtype=torch.int64)
        setattr(sample, name, part)
    return sample


def unpack(data: Any, dataset: Any) -> tuple[Any, Any]:
    """Return the image of a result, BGR uint8 (h, w, 3), and the sample with its boxes."""
    if 'inputs' not in data or 'data_samples' not in data:
        raise ValueError(
            f'PackDetInputs is missing at the end of the pipeline, which gives {[*data]}'
        )
    image, sample = data['inputs'].permute(1, 2, 0).float().numpy(), data['data_samples']
    if data['inputs'].dtype != torch.uint8 and (image.min() < 0 or image.max() <= 1):
        low, high = image.min(), image.max()  # normalised by a step
        image = (image - low) * (255 / max(high - low, 1e-6))
    names = [type(step).__name__ for step in dataset.pipeline.transforms]
    resized = next((i for i, name in enumerate(names) if 'Resize' in name), len(names))
    # In a test, the boxes are loaded after Resize: in pixels of the file.
    if any('LoadAnnotations' in name for name in names[resized:]) and 'scale_factor' in sample:
        factors = torch.tensor(sample.scale_factor, dtype=torch.float32).repeat(2)
        for part in (sample.gt_instances, sample.ignored_instances):
            part.bboxes = part.bboxes * factors
    image = image.round().clip(0, 255).astype(np.uint8)
    return (image if image.shape[2] == 3 else image[..., :1].repeat(3, 2)), sample


def draw_panel(
    painter: Any, title: str, image: Any, sample: Any, labels: set[int] | None, factor: float
) -> Any:
    """Return an image with its boxes, and a strip above with title, size and number of boxes."""
    counts = []
    for name in ('gt_instances', 'ignored_instances'):
        part = sample.get(name, structures.InstanceData())
        if 'bboxes' in part and labels is not None:
            part = part[torch.isin(part.labels, torch.tensor(sorted(labels)))]
        if 'bboxes' in part:
            part.bboxes = part.bboxes * factor
        setattr(sample, name, part)
        counts.append(len(part.bboxes) if 'bboxes' in part else 0)
    height, width = image.shape[:2]
    text = title if title == _SKIPPED else f'{title}: {width} x {height}, boxes: {counts[0]}'
    text += f', ignored: {counts[1]}' if counts[1] else ''
    size_wh = [max(1, round(side * factor)) for side in (width, height)]
    image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)[..., ::-1].copy()
    drawn = painter.add_datasample('image', image, sample, draw_pred=False, show=False)
    font = cv2.FONT_HERSHEY_SIMPLEX
    room = cv2.getTextSize(text, font, 0.5, 1)[0][0] + 4
    shape = (drawn.shape[0] + _STRIP, max(drawn.shape[1], room), 3)
    panel = np.full(shape, 255, np.uint8)
    panel[_STRIP:, : drawn.shape[1]] = drawn
    cv2.putText(panel, text, (2, _STRIP - 8), font, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return panel


def join(panels: list[Any]) -> Any:
    """Return panels of any size side by side on white."""
    height = max(len(panel) for panel in panels)
    edges = [((0, height - len(panel)), (0, _GAP), (0, 0)) for panel in panels]
    padded = [np.pad(p, edge, constant_values=255) for p, edge in zip(panels, edges, strict=True)]
    return np.concatenate(padded, axis=1)


if __name__ == '__main__':
    run(main)
