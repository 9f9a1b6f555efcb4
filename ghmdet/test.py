"""Evaluate a checkpoint: `python -m ghmdet.test CONFIG CHECKPOINT`, or `tools/test.py`."""

from __future__ import annotations

import argparse
import copy
import os
import warnings
from os.path import expanduser

from mmengine.config import Config, ConfigDict

from ghmdet import engine
from ghmdet.config import arguments, cli
from ghmdet.config.errors import name_the_key
from ghmdet.files import is_exported
from ghmdet.messages import list_items
from ghmdet.registry import METRICS


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint.')
    parser.add_argument('config', help='config file, or the name of a config that ghmdet ships')
    text = 'checkpoint, or file of ghmdet.export (.onnx, .pt2)'
    parser.add_argument('checkpoint', type=expanduser, help=text)
    parser.add_argument('--backend', help='runs an .onnx: onnxruntime (default) or openvino')
    parser.add_argument('--out', type=expanduser, help='detections: .json (COCO results) or .pkl')
    parser.add_argument(
        '--images',
        type=expanduser,
        metavar='DIR',
        help='detect on all images in this folder and below; implies --format-only; images that '
        'cannot be used are left out and listed at the end',
    )
    parser.add_argument('--show-dir', help='draw into <work dir>/<time stamp>/<this folder>')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds a shown image stays')
    parser.add_argument(
        '--curves',
        type=expanduser,
        metavar='DIR',
        help='write precision, recall and F1 over the score threshold, as CSV and PNG',
    )
    flags = {
        '--format-only': 'only COCO results, also without annotations, and no evaluation; in '
        '<work dir>/results.bbox.json, or --out',
        '--allow-skipped': 'exit with code 0, not 1, although images of --images were left out',
        '--show': 'show the detections in a window',
        '--tta': 'merge flipped and rescaled views',
        '--amp': 'low precision: bfloat16 on the CPU and on CUDA cards that have it, else float16; '
        'scores, boxes and NMS stay float32',
    }
    for flag, text in flags.items():
        parser.add_argument(flag, action='store_true', help=text)
    arguments.add_common_arguments(parser)
    args = parser.parse_args()
    if args.out is not None and not args.out.endswith(('.json', '.pkl', '.pickle')):
        parser.error(f'--out must end in .json, .pkl or .pickle, got {args.out}')
    return args


def turn_on_drawing(cfg: Config, args: argparse.Namespace) -> None:
    """Let the visualization hook, which the config must have, show or save every image."""
    hook = cfg.default_hooks.get('visualization')
    if hook is None:
        raise RuntimeError(
            '--show and --show-dir need default_hooks.visualization in the config, e.g. '
            "dict(type='DetVisualizationHook')"
        )
    hook.draw = True
    if args.show:
        hook.show, hook.wait_time = True, args.wait_time
    if args.show_dir:
        hook.test_out_dir = expanduser(args.show_dir)


def turn_on_tta(cfg: Config) -> None:
    """Wrap the model and the test pipeline for test-time augmentation."""
    if cfg.get('tta_model') is None:
        warnings.warn('no `tta_model` in the config: merging by NMS at 0.5, 100 boxes per image')
        merging = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
        cfg.tta_model = dict(type='DetTTAModel', tta_cfg=merging)
    dataset = engine.innermost(cfg.test_dataloader.dataset)
    if cfg.get('tta_pipeline') is None:
        warnings.warn('no `tta_pipeline` in the config: merging the image and its mirror image')
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        cfg.tta_pipeline = copy.deepcopy(dataset.pipeline)
        transforms = [flips, [dict(type='PackDetInputs')]]
        cfg.tta_pipeline[-1] = dict(type='TestTimeAug', transforms=transforms)
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def main() -> None:
    """Run the program."""
    args = parse_args()
    cli.outlive_readers()
    cfg = arguments.load_config(args)
    with name_the_key(cfg, args.cfg_options):
        test(cfg, args)


def test(cfg: Config, args: argparse.Namespace) -> None:
    """Test with the arguments of `parse_args`."""
    cfg.load_from = args.checkpoint
    cfg.resume = False  # of a config that trains
    if exported := is_exported(args.checkpoint):
        given = [f'--{key}' for key in ('amp', 'compile', 'tta') if getattr(args, key)]
        given += [key for key in args.cfg_options if key.split('.')[0] == 'model']
        engine.use_exported_file(cfg, args.checkpoint, args.backend, given)
    elif args.backend is not None:
        raise ValueError(f'--backend {args.backend}: {args.checkpoint} is no exported file, .onnx')
    to_json = args.out is not None and args.out.endswith('.json')
    path = args.out if to_json else os.path.join(cfg.work_dir, 'results.bbox.json')
    if args.images is not None:
        engine.use_image_folder(cfg, args.images, path)
    elif args.format_only:
        engine.skip_evaluation(cfg, path)
    elif to_json:
        engine.write_coco_results(cfg, path)
    engine.report_thresholds(cfg, args.curves)
    left_out = {}
    if args.images is not None:  # errors of other arguments come before the images are read
        if '://' not in args.checkpoint and not exported:
            engine.load_checkpoint_file(args.checkpoint)
        left_out = engine.leave_out_unusable(cfg)
    if args.show or args.show_dir:
        turn_on_drawing(cfg, args)
    if args.tta:
        turn_on_tta(cfg)
    if args.amp:
        engine.apply_amp_to_test(cfg)
    runner = engine.build_runner(cfg, splits=('test',), verbose=args.verbose)
    runner.register_hook(engine.TestSpeedupHook(cast=args.amp, compile=args.compile))
    if args.out is not None and not to_json:
        dump = METRICS.build(dict(type='DumpDetResults', out_file_path=args.out))
        runner.test_evaluator.metrics.append(dump)
    if not args.verbose:
        engine.show_live_line(runner)
    runner.test()
    if left_out:
        message = f'{len(left_out)} images of {args.images} cannot be used and were left out'
        runner.logger.warning('\n'.join([f'{message}:', *left_out.values()]))
        if not args.allow_skipped:
            raise ValueError(
                f'{message}: {list_items(left_out.values(), 5, "; ")}. The results of the others '
                'are written; --allow-skipped accepts this'
            )


if __name__ == '__main__':
    cli.run(main)
