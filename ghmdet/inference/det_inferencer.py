"""DetInferencer, MMDetection's call for detections."""

from __future__ import annotations

import ast
import copy
import os
import warnings
from collections.abc import Mapping
from itertools import chain, count, islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from msgspec.json import encode
from rich.console import Console
from rich.progress import Progress
from torch import nn

from ghmdet.argument_checks import check_integer, check_range
from ghmdet.config.cli import LazyModule
from ghmdet.datasets.image_folder import list_images
from ghmdet.inference.detector import Detector
from ghmdet.inference.sources import SourceImage, SourceReader, image_name, iterate
from ghmdet.inference.writers import write_file, write_picture
from ghmdet.structures import DetDataSample
from ghmdet.visualization.drawing import DetLocalVisualizer

pyplot = LazyModule('matplotlib.pyplot')

_WITHOUT_WINDOWS = ('agg', 'cairo', 'pdf', 'pgf', 'ps', 'svg', 'template')


class DetInferencer:
    """Detects in images, with the arguments and results of MMDetection 3.3.0's DetInferencer.

    Other than there, equal file names do not overwrite one another, a folder is read sorted,
    only `return_vis` fills `visualization`, drawings of arrays have the right colours, and without
    weights it is an error instead of random ones. Has `model`, `cfg` and `visualizer`.

    Args:
        model: a name, also MMDetection's, or file of a config, a Config or dict, or what `Detector`
            takes; None: the config that is saved in `weights`, which is read, not run as code.
        weights: file or URL; None loads the weights that are published for the config.
        device: e.g. 'cuda:0'; None is CUDA if there is one, else the CPU.
        scope: not used; parts of MMDetection's configs are found in ghmdet.
        palette: (r, g, b) or one per class, 'random' for different hues, 'none' for the colours in
            the checkpoint or dataset, if any.
        show_progress: whether a progress bar is written to stderr.

    Raises:
        ValueError: no config, an unknown palette, or see `Detector`.
        LookupError: no weights are given, and none are published for the config.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Mapping[str, Any] | Config | nn.Module | None = None,
        weights: str | os.PathLike[str] | None = None,
        device: str | None = None,
        scope: str | None = 'mmdet',
        palette: Any = 'none',
        show_progress: bool = True,
    ) -> None:
        if isinstance(palette, str) and palette not in ('none', 'random'):
            raise ValueError(f"palette must be (r, g, b), 'random' or 'none', got {palette!r}")
        if model is None:
            model = _read_saved_config(weights)
        elif isinstance(model, Config | Mapping):
            model = copy.deepcopy(model) if isinstance(model, Config) else Config(dict(model))
        self._detector = Detector(model, weights, device=device)
        self.model, self.cfg = self._detector.model, self._detector.model.cfg
        self.show_progress = show_progress
        colors = None if isinstance(palette, str) else palette
        self.visualizer = DetLocalVisualizer('inferencer', bbox_color=colors)
        meta = dict(getattr(self.model, 'dataset_meta', None) or {}, classes=self._detector.classes)
        self.visualizer.dataset_meta = meta | ({'palette': None} if palette == 'random' else {})
        self._numbers = count()  # of images
        self._images: dict[Path, object] = {}  # which image a file name is taken by

    def __call__(  # noqa: D417
        self,
        inputs: Any,
        batch_size: int = 1,
        return_vis: bool = False,
        show: bool = False,
        wait_time: float = 0,
        no_save_vis: bool = False,
        draw_pred: bool = True,
        pred_score_thr: float = 0.3,
        return_datasamples: bool = False,
        print_result: bool = False,
        no_save_pred: bool = True,
        out_dir: str | os.PathLike[str] = '',
        texts: None = None,
        stuff_texts: None = None,
        custom_entities: bool = False,
        tokens_positive: None = None,
        **kwargs: Any,
    ) -> dict[str, list[Any]]:
        """Detect in images.

        Args:
            inputs: a file, a URL, an array uint8 (h, w, 3) in BGR, a list of these, or a folder,
                without its subfolders; or another source of `ghmdet.inference.iterate`.
            batch_size: number of images in a batch, which does not change the results.
            return_vis: whether to return the images with their detections drawn.
            show: whether to show them in a window.
            wait_time: seconds that each is shown; 0: until the space key is pressed.
            no_save_vis: do not write them to `out_dir/vis/<name>`.
            draw_pred: whether the detections are drawn.
            pred_score_thr: lower scores are not drawn; the predictions have all.
            return_datasamples: predictions are `DetDataSample`, which are not written.
            print_result: whether the predictions are printed, after each batch.
            no_save_pred: do not write the predictions to `out_dir/preds/<name>.json`.
            out_dir: folder for these files; '': none are written. An image has its base name, or
                its path below the folder of all inputs, or a number, if that is taken.
            texts, ...: the others, for models with text prompts, are errors.

        Returns:
            `predictions`, one per image in the order of the inputs: dicts with lists of `labels`,
            `scores`, best first, and `bboxes`, [x1, y1, x2, y2] in pixels of the original image, or
            samples. `visualization`: arrays uint8 (h, w, 3) in RGB, or [].

        Raises:
            ValueError, TypeError, ImageError: an argument or image is none of these.
            RuntimeError: `show` without a display.
        """
        prompts = dict(texts=texts, stuff_texts=stuff_texts, custom_entities=custom_entities)
        _check_call(prompts | dict(tokens_positive=tokens_positive), kwargs, show)
        check_integer('batch_size', batch_size, 1)
        check_range('pred_score_thr', pred_score_thr, 0, 1)
        kinds = dict(vis=not no_save_vis, preds=not no_save_pred) if os.fspath(out_dir) else {}
        folders = {kind: Path(out_dir, kind) for kind, wanted in kinds.items() if wanted}
        if return_datasamples and 'preds' in folders:
            warnings.warn('samples are not written: use return_datasamples=False')
            del folders['preds']
        for each in folders.values():
            each.mkdir(parents=True, exist_ok=True)
        options = dict(draw_pred=draw_pred, pred_score_thr=pred_score_thr, wait_time=wait_time)
        images, results = _find_images(inputs), dict[str, list](predictions=[], visualization=[])
        screen, hidden = Console(stderr=True), not self.show_progress
        with Progress(console=screen, disable=hidden, redirect_stdout=False) as bar:
            sources = bar.track(images, images.count(), description='Inference')
            while batch := list(islice(sources, batch_size)):
                samples = self._detector.predict([*map(self._detector.prepare, batch)])
                found = samples if return_datasamples else [*map(_to_dict, samples)]
                for source, sample, result in zip(batch, samples, found, strict=True):
                    name = self._name(source, Path(out_dir)) if folders else image_name(source)
                    if folder := folders.get('preds'):
                        write_file((folder / name).with_suffix('.json'), encode(result))
                    if (folder := folders.get('vis')) or show or return_vis:
                        drawn = self._draw(source, name, sample, folder, show=show, **options)
                        results['visualization'] += [drawn] * return_vis
                if print_result:
                    print({'predictions': found})
                results['predictions'] += found
        return results

    def _draw(
        self, source: SourceImage, name: str, sample: Any, folder: Path | None, **options: Any
    ) -> np.ndarray:
        """Return the drawing (h, w, 3) in RGB, and write it."""
        image = self._detector.read(str(source.path)) if source.image is None else source.image
        rgb = np.ascontiguousarray(image[..., ::-1])
        drawn = self.visualizer.add_datasample(name, rgb, sample, draw_gt=False, **options)
        if folder:
            write_picture(folder / name, drawn[..., ::-1])
        return drawn

    def _name(self, source: SourceImage, folder: Path) -> str:
        """Return the name of an image for its files, without suffix unlike those of all others."""
        name, image, number = image_name(source), (source.path, source.frame), next(self._numbers)
        if source.path is None:
            name, image = f'{number:08d}.jpg', ('', number)
        (stem, suffix), base = os.path.splitext(name), PurePosixPath(name).name
        names = [name] if source.frame is not None else [base, name]
        for each in chain(names, (f'{stem}_{number}{suffix}' for number in count(2))):
            if self._images.setdefault((folder / each).with_suffix(''), image) == image:
                break
        return each


def _check_call(prompts: dict[str, Any], kwargs: dict[str, Any], show: bool) -> None:
    if given := [*filter(prompts.get, prompts), *kwargs]:
        raise ValueError(
            f'leave out {", ".join(given)}: no model of ghmdet has text prompts, and there are no '
            'other arguments'
        )
    if show and (backend := pyplot.get_backend().lower()) in _WITHOUT_WINDOWS:
        raise RuntimeError(
            f'show=True: there is no display for a window (matplotlib uses {backend}); take '
            'return_vis=True, or out_dir to write the drawings'
        )


def _find_images(inputs: Any) -> SourceReader:
    if isinstance(inputs, str | os.PathLike) and os.path.isdir(inputs):
        names = [name for name in list_images(inputs) if '/' not in name]
        inputs = [os.path.join(inputs, name) for name in names]
    return iterate(inputs)


def _to_dict(sample: DetDataSample) -> dict[str, list[Any]]:
    found = sample.pred_instances
    return {key: found[key].tolist() for key in ('labels', 'scores', 'bboxes')}


def _read_saved_config(weights: str | os.PathLike[str] | None) -> Config:
    """Return the config that a training saved in a checkpoint, without running it as code."""
    load = CheckpointLoader.load_checkpoint
    text = None if weights is None else load(os.fspath(weights), 'cpu').get('meta', {}).get('cfg')
    try:
        body: Any = _DictCalls().visit(ast.parse(text or '0')).body
        return Config({each.targets[0].id: ast.literal_eval(each.value) for each in body})
    except (TypeError, ValueError, SyntaxError, AttributeError):
        text = f'weights={weights!r} have no config that can be read'
        raise ValueError(f'give model, since {text}') from None


class _DictCalls(ast.NodeTransformer):
    """Replaces `dict(a=1)`, as a config is saved, by the literal {'a': 1}."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict' or node.args:
            return node
        pairs = [(ast.Constant(word.arg), word.value) for word in node.keywords]
        return ast.Dict([key for key, _ in pairs], [value for _, value in pairs])
