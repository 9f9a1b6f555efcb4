"""Count the operations of a forward pass and the parameters of a model, without weights or data.

python tools/analysis_tools/get_flops.py CONFIG [--shape H W] [--out FILE]

GMAC are multiplications with an addition: what papers, and MMDetection, call FLOPs. GFLOP count
both. Counted are convolutions and matrix products of backbone, neck and head, for one image; not
counted are decoding and NMS.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from ghmdet.config.cfg_options import add_cfg_options, merge_options
from ghmdet.config.cli import LazyModule, add_debug_argument, run, user_path
from ghmdet.config.shipped import get_config
from ghmdet.files import replacing
from ghmdet.messages import shorten, type_name

flop_counter = LazyModule('torch.utils.flop_counter')
inference = LazyModule('ghmdet.inference.model')
torch = LazyModule('torch')
_MAX_SIDE = 100_000


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Operations and parameters of a model.')
    parser.add_argument('config', help='config file, or the name of a config that ghmdet ships')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        help='height and width of the input, one number for a square (that of the largest image '
        'that Resize of the test pipeline makes, in landscape format)',
    )
    parser.add_argument('--out', type=user_path, help='JSON file to write')
    parser.add_argument(
        '--device',
        default='meta',
        help="cpu computes values too, for parts that need them (meta, torch's device without)",
    )
    add_cfg_options(parser)
    add_debug_argument(parser)
    args = parser.parse_args(argv)
    if args.shape and (len(args.shape) > 2 or not all(0 < n <= _MAX_SIDE for n in args.shape)):
        parser.error(f'--shape takes 1 or 2 numbers in 1 to {_MAX_SIDE:,}, got {args.shape}')
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = get_config(args.config)
    merge_options(cfg, args.cfg_options)
    divisor = (cfg.model.get('data_preprocessor') or {}).get('pad_size_divisor', 1)
    asked = (args.shape * 2)[:2] if args.shape else find_shape(cfg)
    shape = [math.ceil(side / divisor) * divisor for side in asked]
    parts = count(cfg, shape, args.device)
    print(f'input: 1 image of {shape[0]} x {shape[1]} (height x width)', end='')
    print('' if shape == asked else f', padded from {asked[0]} x {asked[1]}')
    print(f'{"":20}{"GFLOP":>12}{"GMAC":>12}{"parameters":>14}')
    for name, part in parts.items():
        print(f'{name:20}{part["gflop"]:12,.3f}{part["gmac"]:12,.3f}{part["parameters"]:14,}')
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        content = dict(config=args.config, shape=shape, **parts.pop('total'), parts=parts)
        with replacing(args.out) as draft:
            draft.write_text(json.dumps(content, indent=2) + '\n')


def find_shape(cfg: Config) -> list[int]:
    """Return the height and width of the largest input of the test pipeline, in landscape format.

    Raises:
        ValueError: it has no Resize with a scale.
    """
    for step in inference.find_test_pipeline(cfg):
        scale = step.get('scale')
        if 'Resize' in type_name(step) and scale:
            width, height = (scale, scale) if isinstance(scale, int) else scale
            keeps = step.get('keep_ratio')
            return [min(width, height), max(width, height)] if keeps else [height, width]
    raise ValueError('test_dataloader has no Resize with a scale in its pipeline: set --shape H W')


def count(cfg: Config, shape: list[int], device: str) -> dict[str, dict[str, Any]]:
    """Return `gflop`, `gmac` and `parameters` of each part of the model, and of `total`.

    Raises:
        ValueError: the model cannot be run.
    """
    counter = flop_counter.FlopCounterMode(display=False)
    with DefaultScope.overwrite_default_scope('ghmdet'), torch.device(device), torch.no_grad():
        try:
            model = inference.init_detector(cfg, device=device)
            with counter:
                model(torch.zeros(1, 3, *shape), mode='tensor')
        except (RuntimeError, TypeError) as error:  # from parts of users, or without values
            hint = '. The meta device has no values; try --device cpu' if device == 'meta' else ''
            raise ValueError(
                f'the model does not run on an image of {shape[0]} x {shape[1]}: '
                f'{type(error).__name__}: {shorten(str(error), 400)}{hint}'
            ) from error
    counts = counter.get_flop_counts()
    rows = dict(model.named_children())
    parts = {}
    for name, module in [*rows.items(), ('total', model)]:
        prefix = type(model).__name__ + (f'.{name}' if name in rows else '')
        flop = sum(counts.get(prefix, {}).values())
        size = sum(parameter.numel() for parameter in module.parameters())
        if flop or size:
            parts[name] = dict(gflop=flop / 1e9, gmac=flop / 2e9, parameters=size)
    return parts


if __name__ == '__main__':
    run(main)
