"""A training step of a config and its parts, against torchvision's RetinaNet R-50."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope

from ghmdet import engine, get_config
from ghmdet.models.speedup import low_precision

from .measure import Rates, Report, Stopwatch, measure
from .networks import (
    build_ghmdet,
    build_torchvision,
    count_own_bytes,
    draw_batch,
    find_floor,
    list_variants,
    to_torchvision,
)

_REFERENCE = 'torchvision float32'


def run(args: argparse.Namespace, rates: Rates) -> Report:
    """Measure whole steps: preprocessing, network, targets, losses, backward, optimizer."""
    cfg = get_config(args.config)
    # The first step of the warm-up: random weights and a full learning rate would diverge.
    cfg.optim_wrapper.optimizer.lr *= 0.001
    batch = draw_batch(args, cfg.model.bbox_head.num_classes)
    steps: dict[str, Callable[[], object]] = {}
    watches: dict[str, Stopwatch] = {}
    owned: dict[str, tuple] = {}
    for name, (amp, compiled) in list_variants(args).items():
        model, optim_wrapper = _prepare(cfg, args, amp, compiled)
        watches[name] = Stopwatch(args.device)
        _watch(watches[name], model, optim_wrapper, whole=compiled)
        steps[name] = _make_step(model, optim_wrapper, batch, watches[name])
        owned[name] = model, optim_wrapper.optimizer
    for name in ('torchvision float32', 'torchvision amp')[: 2 if args.amp else 1]:
        steps[name], owned[name] = _make_reference(cfg, args, batch, amp=name.endswith('amp'))
    floors = find_floor(steps['ghmdet float32'], rates)
    report = Report('step', [])
    for name, row in measure(steps, args.runs, args.device).items():
        row.reference = _REFERENCE
        row.notes['img/s'] = args.batch / row.median
        if row.peak_bytes is not None:
            row.peak_bytes += count_own_bytes(*owned[name])
        report.rows.append(row)
        if name in watches:
            row.floor_seconds = floors[list_variants(args)[name][0]]
            report.rows += watches[name].rows(name, args.runs)
    report.remarks.append(
        f'{args.config}, {args.batch} x {args.size[0]} x {args.size[1]}; peak: weights, '
        "gradients, optimizer's state and all in between; floor: operations of forward and "
        'backward / measured rate'
    )
    return report


def _prepare(
    cfg: Config, args: argparse.Namespace, amp: bool, compiled: bool
) -> tuple[BaseModel, OptimWrapper]:
    """Build as `tools/train.py [--amp] [--compile]` does."""
    cfg = copy.deepcopy(cfg)
    if amp:
        engine.apply_amp(cfg)
    model = build_ghmdet(cfg, args.device).train()
    if compiled:
        engine.compile_network(model)
    with DefaultScope.overwrite_default_scope('ghmdet'):  # as the Runner has it
        return model, build_optim_wrapper(model, cfg.optim_wrapper)


def _watch(watch: Stopwatch, model: BaseModel, optim_wrapper: OptimWrapper, whole: bool) -> None:
    """Time the parts of a step; a compiled network is one part."""
    if not whole:
        watch.watch(model.data_preprocessor, 'preprocessing')
        watch.watch(model.neck, 'backbone and neck')
        watch.watch(model.bbox_head, 'head')
    update, backward = optim_wrapper.update_params, optim_wrapper.backward

    def update_params(*args: Any, **kwargs: Any) -> None:
        watch.mark('forward and loss' if whole else 'targets and loss')
        update(*args, **kwargs)
        watch.mark('optimizer')

    def watched_backward(*args: Any, **kwargs: Any) -> None:
        backward(*args, **kwargs)
        watch.mark('backward')

    optim_wrapper.update_params, optim_wrapper.backward = update_params, watched_backward


def _make_step(
    model: BaseModel, optim_wrapper: OptimWrapper, batch: dict[str, list], watch: Stopwatch
) -> Callable[[], object]:
    def step() -> None:
        watch.start()
        model.train_step(batch, optim_wrapper)

    return step


def _make_reference(
    cfg: Config, args: argparse.Namespace, batch: dict[str, list], amp: bool
) -> tuple[Callable[[], object], tuple]:
    model = build_torchvision(args, cfg.model.bbox_head.num_classes).train()
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # as norm_eval of ghmdet's recipe
    settings = {key: value for key, value in cfg.optim_wrapper.optimizer.items() if key != 'type'}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = getattr(torch.optim, cfg.optim_wrapper.optimizer.type)(learning, **settings)
    kind = args.device.partition(':')[0]

    def step() -> None:
        images, targets = to_torchvision(batch, args.device)
        with torch.autocast(kind, dtype=low_precision(kind)) if amp else nullcontext():
            loss = sum(model(images, targets).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, (model, optimizer)
