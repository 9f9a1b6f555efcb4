"""Which class is taken for which: a matrix that counts each object and each detection once.

python tools/analysis_tools/confusion_matrix.py RESULTS ANN [SAVE_DIR] [--score-thr 0.3]
python tools/analysis_tools/confusion_matrix.py CONFIG RESULTS [SAVE_DIR] [--tp-iou-thr 0.5]

Rows are the true classes, columns the predicted ones. Detections from the score threshold up are
matched with objects of their class, what is left with objects of other classes. The last column has
the objects that nothing found, the last row the detections that found nothing. So a row sums up to
the objects of its class, a column to the detections. Writes confusion_matrix.csv, .json and .png.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from results.arguments import add_results_arguments, check_share, read_results, write_json

from ghmdet.config.cli import LazyModule, run, user_path
from ghmdet.files import replacing, write_table

matplotlib = LazyModule('matplotlib')
figure_module = LazyModule('matplotlib.figure')
np = LazyModule('numpy')
postprocess = LazyModule('ghmdet.boxes.postprocess')
pyplot = LazyModule('matplotlib.pyplot')
summary = LazyModule('ghmdet.evaluation.coco_summary')
torch = LazyModule('torch')

BACKGROUND = 'background'
_PRINTED = 20  # classes; wider tables cannot be read
_NUMBERED = 31  # rows; smaller cells have no room for the count


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Which class is taken for which.')
    add_results_arguments(parser)
    parser.add_argument(
        'save_dir',
        nargs='?',
        type=user_path,
        default=Path('confusion_matrix'),
        help='folder of the files (confusion_matrix)',
    )
    parser.add_argument('--show', action='store_true', help='show the picture in a window')
    parser.add_argument('--color-theme', default='Blues', help="a colormap of matplotlib's (Blues)")
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='detections from this score up count (0.3)'
    )
    parser.add_argument(
        '--tp-iou-thr', type=check_share, default=0.5, help='IoU from which they match (0.5)'
    )
    parser.add_argument(
        '--nms-iou-thr',
        type=check_share,
        help='apply NMS to the detections of each class before, at this IoU (no NMS)',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.color_theme not in matplotlib.colormaps:
        raise ValueError(
            f'--color-theme {args.color_theme}: matplotlib has no colormap of this name; it has '
            'Blues, viridis, plasma, ...'
        )
    results = read_results(args)
    if args.nms_iou_thr is not None:
        kept = [suppress(image, args.nms_iou_thr) for image in results.images]
        results = results._replace(images=kept)
    matches = results.match(iou_thr=args.tp_iou_thr, score_thr=args.score_thr)
    matrix = count_pairs(matches)
    content = describe(matrix, matches)
    args.save_dir.mkdir(parents=True, exist_ok=True)
    write(args.save_dir, matrix, content)
    figure = draw(matrix, content['classes'], args.color_theme)
    with replacing(args.save_dir / 'confusion_matrix.png') as draft:
        figure.savefig(draft, format='png', dpi=120)
    print(report(matrix, content))
    print(f'written to {args.save_dir}: confusion_matrix.csv, .json and .png')
    if args.show:
        figure_ = pyplot.figure(figsize=figure.get_size_inches())
        draw(matrix, content['classes'], args.color_theme, figure_)
        pyplot.show()


def suppress(image: dict[str, Any], iou_thr: float) -> dict[str, Any]:
    """Apply NMS to the detections of an image, within each class."""
    boxes, scores, labels = (torch.as_tensor(image[k]) for k in ('bboxes', 'scores', 'labels'))
    keep = postprocess.class_wise_nms(boxes.double(), scores.double(), labels, iou_thr)
    columns = dict(bboxes=boxes[keep], scores=scores[keep], labels=labels[keep])
    return image | {key: column.numpy() for key, column in columns.items()}


def count_pairs(matches: Any) -> Any:
    """Return the counts int64 (classes + 1, classes + 1): rows true, columns predicted.

    The last row and column are background.

    Raises:
        RuntimeError: the sums are not the numbers of objects and detections (a fault of `match`).
    """
    size = len(matches.classes) + 1
    detections, objects = matches.detections, matches.objects
    found = np.where(detections.object >= 0, detections.object, detections.confused)
    counted = ~detections.ignored
    true_label = np.append(objects.label, size - 1)[found]  # the last one for -1
    missed = ~objects.ignored & (objects.detection < 0) & (objects.confused < 0)
    rows = np.concatenate([true_label[counted], objects.label[missed]])
    columns = np.concatenate([detections.label[counted], np.full(missed.sum(), size - 1)])
    matrix = np.zeros((size, size), np.int64)
    np.add.at(matrix, (rows, columns), 1)
    of_detections = np.bincount(detections.label[counted], minlength=size - 1)
    sums = matrix[:-1].sum(1), matrix[:, :-1].sum(0)
    if not all(map(np.array_equal, sums, (matches.count_objects(), of_detections))):
        raise RuntimeError(f'the sums {sums} are not the numbers of objects and detections')
    return matrix


def describe(matrix: Any, matches: Any) -> dict[str, Any]:
    """Return the content of the JSON file."""
    return dict(
        score_thr=matches.score_thr,
        iou_thr=matches.iou_thr,
        classes=[*matches.classes, BACKGROUND],
        counts=matrix.tolist(),
        shares=share_of_rows(matrix).tolist(),
        objects=int(matrix[:-1].sum()),
        detections=int(matrix[:, :-1].sum()),
        ignored_detections=int(matches.detections.ignored.sum()),
        ignored_objects=int(matches.objects.ignored.sum()),
    )


def share_of_rows(matrix: Any) -> Any:
    """Return each entry as a share of its row, 0 in a row without entries."""
    return matrix / np.maximum(matrix.sum(1, keepdims=True), 1)


def write(folder: Path, matrix: Any, content: dict[str, Any]) -> None:
    write_json(folder / 'confusion_matrix.json', content)
    rows = zip(content['classes'], matrix.tolist(), strict=True)
    header = ['true \\ predicted', *content['classes']]
    write_table(folder / 'confusion_matrix.csv', [header, *([name, *row] for name, row in rows)])


def report(matrix: Any, content: dict[str, Any]) -> str:
    """Return the text that is printed: the matrix, or its largest confusions if it is large."""
    names = content['classes']
    lines = []
    if len(names) <= _PRINTED + 1:
        rows = dict(zip(names, matrix.tolist(), strict=True))
        lines += [summary.format_table(['true \\ predicted', *names], rows), '']
    others = matrix[:-1, :-1] * (1 - np.eye(len(names) - 1, dtype=int))
    largest = np.argsort(-others, axis=None, kind='stable')[:10]
    pairs = [divmod(int(index), len(names) - 1) for index in largest] if others.any() else []
    lines += [
        f'{others[i, j]:,} of {matrix[i].sum():,} {names[i]} taken for {names[j]}'
        for i, j in pairs
        if others[i, j]
    ]
    found, ignored = int(np.trace(matrix)), content['ignored_detections']
    lines += [
        f'{content["objects"]:,} objects: {found:,} found, {others.sum():,} taken for another '
        f'class, {matrix[:-1, -1].sum():,} missed',
        f'{content["detections"]:,} detections from score {content["score_thr"]:g} up: {found:,} '
        f'right, {others.sum():,} of another class, {matrix[-1].sum():,} on background',
    ]
    if content['ignored_objects']:
        lines.append(
            f'not counted: {content["ignored_objects"]:,} ignored objects and crowd regions, '
            f'{ignored:,} detections on them'
        )
    return '\n'.join(lines)


def draw(matrix: Any, names: list[str], color_theme: str, figure: Any = None) -> Any:
    """Draw the shares of each row as colours, with the counts where there is room."""
    size = len(names)
    inches = max(4.5, 2 + (0.45 if size <= _NUMBERED else 0.15) * size)
    figure = figure or figure_module.Figure(figsize=(inches + 1, inches), layout='constrained')
    axes = figure.add_subplot()
    shares = share_of_rows(matrix)
    image = axes.imshow(shares, cmap=color_theme, vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label='share of the row', shrink=0.8)
    font = 9 if size <= _NUMBERED else 6
    axes.set_xticks(range(size), names, rotation=90 if size > 6 else 0, fontsize=font)
    axes.set_yticks(range(size), names, fontsize=font)
    axes.set(xlabel='predicted class', ylabel='true class')
    axes.hlines(size - 1.5, -0.5, size - 0.5, color='gray', linewidth=0.8)
    axes.vlines(size - 1.5, -0.5, size - 0.5, color='gray', linewidth=0.8)
    for i, j in np.argwhere(matrix).tolist() if size <= _NUMBERED else ():
        red, green, blue, _ = image.cmap(image.norm(shares[i, j]))
        color = 'white' if 0.3 * red + 0.6 * green + 0.1 * blue < 0.5 else 'black'
        text = dict(ha='center', va='center', color=color, fontsize=font)
        axes.text(j, i, f'{matrix[i, j]:,}', text)
    return figure


if __name__ == '__main__':
    run(main)
