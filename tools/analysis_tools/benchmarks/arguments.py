"""The command line of `tools/analysis_tools/benchmark.py`, read before any task is imported."""

from __future__ import annotations

import argparse
from typing import Any

from ghmdet.config.cli import add_debug_argument, user_path

_CONFIG: dict[str, Any] = {'--config': dict(default='retinanet_ghm_r50_fpn_1x_coco')}
_SIZE: dict[str, Any] = dict(type=int, nargs=2, default=[800, 1344], metavar=('H', 'W'))
_PROGRAMS = ['train', 'test', 'predict']
_NETWORKS = {**_CONFIG, '--size': dict(_SIZE, help='of the images')}


def _number(default: int, help: str | None = None) -> dict[str, Any]:
    return dict(type=int, default=default, help=help)


# Of each task: what it measures, and the arguments of its own.
_TASKS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    'loss': (
        'GHM-C and GHM-R, forward and backward, against literal loops over the bins',
        {
            '--levels': dict(choices=['p3', 'all'], default='p3', help='of the pyramid'),
            '--images': _number(1, 'images of a batch'),
            '--size': _SIZE,
            '--classes': _number(80),
        },
    ),
    'step': (
        "a training step of a config and its parts, against torchvision's RetinaNet R-50",
        {**_NETWORKS, '--batch': _number(2, 'images at a time')},
    ),
    'inference': (
        "detecting the objects of images, against torchvision's RetinaNet R-50",
        {
            **_NETWORKS,
            '--batch': _number(1, 'images at a time'),
            '--candidates': _number(5000, 'pairs of anchor and class that score above 0.05'),
        },
    ),
    'dataloader': (
        "images per second of a config's training pipeline, against mmcv's transforms in a row",
        {
            **_CONFIG,
            '--images': _number(100, '640x480 JPEGs to draw'),
            '--workers': _number(0, 'also with so many processes'),
        },
    ),
    'dataset': (
        "reading an annotation file of train2017's size, against pycocotools",
        {'--images': _number(118_287, 'in the annotation file')},
    ),
    'evaluation': (
        "COCO's twelve numbers, against pycocotools",
        {'--images': _number(5000), '--detections': _number(100, 'of each image')},
    ),
    'load': (
        'steps alone and beside busy processes, against torch with its own way to wait (Linux)',
        {
            '--programs': dict(nargs='+', choices=_PROGRAMS, default=_PROGRAMS, metavar='P'),
            '--workers': _number(0, 'processes that load images'),
            '--seconds': dict(type=float, default=6, help='of each part of a run, at least'),
        },
    ),
    'startup': ('`--help` of every program, against `import torch`', {}),
}
TASKS = tuple(_TASKS)


def make_parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N')
    common.add_argument('--amp', action='store_true', help='step, inference: also mixed precision')
    common.add_argument(
        '--compile', action='store_true', help='loss, step, inference: also compiled'
    )
    common.add_argument('--runs', type=int, default=5, help='timed runs of each variant')
    add_debug_argument(common)
    common.add_argument('--json', type=user_path, help='also write the figures here')
    parser = argparse.ArgumentParser(description='Measure against a reference.')
    tasks = parser.add_subparsers(dest='task', required=True)
    for name, (help, arguments) in _TASKS.items():
        task = tasks.add_parser(name, parents=[common], help=help, description=help)
        for option, settings in arguments.items():
            task.add_argument(option, **settings)
    tasks.add_parser('all', parents=[common], help='all tasks, each with its defaults')
    return parser
