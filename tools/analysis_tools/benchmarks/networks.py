"""The two networks that are compared, ghmdet's and torchvision's, and their inputs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn

from ghmdet.registry import MODELS
from ghmdet.structures import DetDataSample, InstanceData

from .measure import Rates

BOXES_PER_IMAGE = 7


def build_ghmdet(cfg: Config, device: str) -> BaseModel:
    """Build the config's detector with random weights; nothing is downloaded."""
    torch.manual_seed(0)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.to(device)


def build_torchvision(args: argparse.Namespace, num_classes: int) -> RetinaNet:
    """Build torchvision's RetinaNet R-50 such that it computes what ghmdet's R-50 computes.

    The input is not resized, the stem and the first stage are frozen as in ghmdet's recipe, and
    detections are selected with the same numbers.
    """
    torch.manual_seed(0)
    model = retinanet_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=num_classes,
        min_size=min(args.size),
        max_size=max(args.size),
        score_thresh=0.05,
        topk_candidates=1000,
        nms_thresh=0.5,
        detections_per_img=100,
    )
    body = model.backbone.body
    for module in (body.conv1, body.bn1, body.layer1):
        module.requires_grad_(False)
    return model.to(args.device)


def draw_batch(args: argparse.Namespace, num_classes: int) -> dict[str, list]:
    """Draw what the data loader gives: uint8 images (3, H, W) on the CPU, samples with boxes.

    Raises:
        ValueError: one of the two networks would pad images of this size.
    """
    height, width = args.size
    if height % 32 or width % 32:
        raise ValueError(f'--size must be multiples of 32, which need no padding, got {args.size}')
    generator = torch.Generator().manual_seed(0)
    shape_hw = (height, width)
    inputs, samples = [], []
    for _ in range(args.batch):
        inputs.append(
            torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        )
        sample = DetDataSample(
            metainfo=dict(img_id=0, img_shape=shape_hw, ori_shape=shape_hw, scale_factor=(1.0, 1.0))
        )
        size = torch.tensor([width, height])
        corner = torch.rand(BOXES_PER_IMAGE, 2, generator=generator) * 0.6 * size
        side = (torch.rand(BOXES_PER_IMAGE, 2, generator=generator) * 0.38 + 0.02) * size
        labels = torch.randint(0, num_classes, (BOXES_PER_IMAGE,), generator=generator)
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + side], dim=1), labels=labels
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def to_torchvision(batch: dict[str, list], device: str) -> tuple[list[Tensor], list[dict]]:
    """Return the batch's images and targets as torchvision's detectors take them."""
    images = [image.to(device).float() / 255 for image in batch['inputs']]
    targets = [
        dict(boxes=s.gt_instances.bboxes.to(device), labels=s.gt_instances.labels.to(device))
        for s in batch['data_samples']
    ]
    return images, targets


def count_own_bytes(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int:
    """Bytes of the weights and buffers, and of the optimizer's state."""
    tensors: list[Any] = [*model.parameters(), *model.buffers()]
    if optimizer is not None:
        tensors += chain.from_iterable(state.values() for state in optimizer.state.values())
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def find_floor(function: Callable[[], object], rates: Rates) -> dict[bool, float]:
    """Seconds that the operations of a call take at the measured rates, by whether amp is on."""
    with FlopCounterMode(display=False) as counter:
        function()
    flop = counter.get_total_flops()
    names = {False: 'float32', True: 'bfloat16'}
    return {amp: flop / rates.flop_per_second[name] for amp, name in names.items()}


def list_variants(args: argparse.Namespace) -> dict[str, tuple[bool, bool]]:
    """Return (amp, compile) of each variant asked for, by its name."""
    variants = {}
    for compiled in (False, True) if args.compile else (False,):
        for amp in (False, True) if args.amp else (False,):
            name = f'ghmdet {"amp" if amp else "float32"}{" compiled" if compiled else ""}'
            variants[name] = (amp, compiled)
    return variants
