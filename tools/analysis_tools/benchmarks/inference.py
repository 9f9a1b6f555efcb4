"""Detecting the objects of one image, against torchvision's RetinaNet R-50 on the same image."""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet

from ghmdet import engine, get_config
from ghmdet.models.speedup import low_precision

from .measure import Rates, Report, Row, Stopwatch, measure
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
_SCORE_THR = 0.05


@torch.no_grad()
def run(args: argparse.Namespace, rates: Rates) -> Report:
    """Measure from uint8 images on the CPU to detections, and the parts of that."""
    cfg = get_config(args.config)
    batch = draw_batch(args, cfg.model.bbox_head.num_classes)
    cfg.model.test_cfg.update(score_thr=_SCORE_THR, nms_pre=1000, max_per_img=100)
    template = build_ghmdet(cfg, args.device).eval()
    inputs = template.data_preprocessor(batch)['inputs']
    floors = find_floor(lambda: template(inputs), rates)
    head = template.bbox_head
    _spread_scores(head.retina_cls, lambda: template(inputs)[0], args.candidates * args.batch)

    calls: dict[str, Callable[[], list]] = {}
    networks: dict[str, Callable[[], object]] = {}
    watches: dict[str, Stopwatch] = {}
    models: dict[str, nn.Module] = {}
    for name, (amp, compiled) in list_variants(args).items():
        models[name] = model = _prepare(template, amp, compiled)
        call = _under_autocast(amp, args.device, partial(model.test_step, batch))
        calls[name] = call
        if compiled:  # whose parts cannot be timed
            networks[name] = _under_autocast(amp, args.device, partial(model, inputs))
        else:
            parts = [(model.data_preprocessor, 'preprocessing'), (model.bbox_head, 'network')]
            watches[name], calls[name] = _watch(call, parts, args.device)
    reference = _build_reference(args, batch, cfg.model.bbox_head.num_classes)
    for name in ('torchvision float32', 'torchvision amp')[: 2 if args.amp else 1]:
        models[name] = model = copy.deepcopy(reference)
        call = partial(_detect_by_reference, model, batch, args.device)
        call = _under_autocast(name.endswith('amp'), args.device, call)
        calls[name] = call
    model = models[_REFERENCE]
    parts = [(model.transform, 'preprocessing'), (model.head, 'network')]
    watches[_REFERENCE], calls[_REFERENCE] = _watch(calls[_REFERENCE], parts, args.device)
    return _report(args, calls, networks, watches, models, floors)


def _report(
    args: argparse.Namespace,
    calls: dict[str, Callable[[], list]],
    networks: dict[str, Callable[[], object]],
    watches: dict[str, Stopwatch],
    models: dict[str, nn.Module],
    floors: dict[bool, float],
) -> Report:
    report = Report('inference', [])
    alone = measure(networks, args.runs, args.device)
    for name, row in measure(calls, args.runs, args.device).items():
        row.reference = _REFERENCE
        row.notes['img/s'] = args.batch / row.median
        if row.peak_bytes is not None:
            row.peak_bytes += count_own_bytes(models[name])
        report.rows.append(row)
        parts = watches[name].rows(name, args.runs) if name in watches else []
        if name in alone:
            parts = [Row(f'{name}: network', alone[name].seconds)]
        if name.startswith('ghmdet'):
            floor = floors['amp' in name]
            row.floor_seconds = floor
            for part in parts:
                part.floor_seconds = floor if part.name.endswith(': network') else None
        report.rows += parts
        row.notes['detections'] = sum(_count_boxes(found) for found in calls[name]())
    report.remarks.append(
        f'{args.config}, {args.batch} x {args.size[0]} x {args.size[1]}, {args.candidates} '
        'candidates an image; peak: weights and all in between; floor: operations of the network '
        '/ measured rate'
    )
    return report


def _prepare(template: BaseModel, amp: bool, compiled: bool) -> BaseModel:
    """Prepare a copy as `tools/test.py [--amp] [--compile]` does."""
    model = copy.deepcopy(template)
    hook = engine.TestSpeedupHook(cast=amp, compile=compiled)
    hook.before_test(SimpleNamespace(model=model))
    return model


def _build_reference(
    args: argparse.Namespace, batch: dict[str, list], num_classes: int
) -> RetinaNet:
    model = build_torchvision(args, num_classes).eval()
    images = model.transform(to_torchvision(batch, args.device)[0])[0].tensors
    _spread_scores(
        model.head.classification_head.cls_logits,
        lambda: [model.head(list(model.backbone(images).values()))['cls_logits']],
        args.candidates * args.batch,
    )
    return model


def _detect_by_reference(
    model: RetinaNet, batch: dict[str, list], device: str
) -> list[dict[str, Tensor]]:
    return model(to_torchvision(batch, device)[0])


def _spread_scores(
    last_conv: nn.Conv2d, forward: Callable[[], list[Tensor]], num_candidates: int
) -> None:
    """Change the last convolution so that this many scores exceed the threshold.

    Random weights leave all scores at 0.01, and then there is nothing to post-process.
    """
    last_conv.get_parameter('weight').div_(
        torch.cat([level.flatten() for level in forward()]).std()
    )
    logits = torch.cat([level.flatten() for level in forward()])
    last = logits.topk(min(num_candidates, logits.numel())).values[-1]
    last_conv.get_parameter('bias').add_(math.log(_SCORE_THR / (1 - _SCORE_THR)) - last)


def _under_autocast(amp: bool, device: str, call: Callable[[], Any]) -> Callable[[], Any]:
    kind = device.partition(':')[0]

    def called() -> Any:
        with torch.autocast(kind, dtype=low_precision(kind), enabled=amp):
            return call()

    return called


def _watch(
    call: Callable[[], list], parts: list[tuple[nn.Module, str]], device: str
) -> tuple[Stopwatch, Callable[[], list]]:
    """Return a stopwatch and the call with its parts timed, the last being post-processing."""
    stopwatch = Stopwatch(device)
    for module, part in parts:
        stopwatch.watch(module, part)

    def watched() -> list:
        stopwatch.start()
        found = call()
        stopwatch.mark('post-processing')
        return found

    return stopwatch, watched


def _count_boxes(found: Any) -> int:
    """Of a DetDataSample, or of torchvision's dict."""
    return len(found['boxes'] if isinstance(found, dict) else found.pred_instances.bboxes)
