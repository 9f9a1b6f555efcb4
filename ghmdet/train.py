"""Train a detector: `python -m ghmdet.train CONFIG`; `tools/train.py` is the same program."""

from __future__ import annotations

import argparse
import os
from os.path import expanduser
from pathlib import Path

from mmengine.config import Config

from ghmdet import engine
from ghmdet.config import arguments, cli
from ghmdet.config.errors import name_the_key


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train a detector.')
    parser.add_argument('config', help='config file, or the name of a config that ghmdet ships')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision, in validation too: bfloat16 on the CPU and on CUDA cards that have '
        'it, else float16 with loss scaling; weights, losses and boxes stay float32',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the batch of all processes / base_batch_size',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        type=expanduser,
        help='resume from this checkpoint; without a value from the newest in the work dir',
    )
    parser.add_argument('--seed', type=int, help="random seed, in place of the config's")
    parser.add_argument(
        '--deterministic',
        action='store_true',
        help='use deterministic algorithms only, and stop where CUDA has none; on the CPU all are '
        'deterministic',
    )
    parser.add_argument(
        '--report', action='store_true', help='write report.html into the work dir at the end'
    )
    add, text = parser.add_argument, 'log to {} too; a failure of it does not end the training'
    add('--tensorboard', action='store_true', help=text.format('TensorBoard, in the work dir'))
    store = os.environ.get('MLFLOW_TRACKING_URI') or Path('mlruns').absolute().as_uri()
    add('--mlflow', nargs='?', const=store, metavar='URI', help=text.format('MLflow'))
    add('--wandb', nargs='?', const='', metavar='PROJECT', help=text.format('W&B'))
    arguments.add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Run the program."""
    args = parse_args()
    cli.outlive_readers()
    cfg = arguments.load_config(args)
    with name_the_key(cfg, args.cfg_options):
        train(cfg, args)


def train(cfg: Config, args: argparse.Namespace) -> None:
    """Train with the arguments of `parse_args`."""
    if args.amp:
        engine.apply_amp(cfg)
    if args.auto_scale_lr:
        engine.apply_auto_scale_lr(cfg)
    if args.seed is not None:
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=args.seed)
    if args.deterministic:
        engine.apply_deterministic(cfg)
    if args.resume == 'auto':
        cfg.resume = 'auto'
    elif args.resume is not None:
        cfg.resume, cfg.load_from = True, args.resume
    if args.report:
        engine.keep_detections(cfg)
    if args.tensorboard:
        engine.add_tracker(cfg, 'TensorboardVisBackend')
    if args.mlflow is not None:
        engine.add_tracker(cfg, 'MLflowVisBackend', tracking_uri=args.mlflow)
    if args.wandb is not None:
        project = dict(project=args.wandb) if args.wandb else {}
        engine.add_tracker(cfg, 'WandbVisBackend', init_kwargs=project)
    runner = engine.build_runner(cfg, verbose=args.verbose)
    if args.compile:
        engine.compile_network(runner.model)
    stop = engine.StopHook()
    runner.register_hook(stop)
    if not args.verbose:
        engine.show_live_line(runner)
    try:
        runner.train()
    finally:
        runner.visualizer.close()  # mmengine does not after an exception
        stop.release()
    if args.report:
        engine.report_run(runner)


if __name__ == '__main__':
    cli.run(main)
