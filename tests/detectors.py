"""Small detectors for tests of checkpoints."""

from __future__ import annotations

import torch

from ghmdet.registry import MODELS

GHM = dict(
    loss_cls=dict(type='GHMC', bins=30, momentum=0.75, use_sigmoid=True),
    loss_bbox=dict(type='GHMR', mu=0.02, bins=10, momentum=0.7),
)
FOCAL = dict(loss_cls=dict(type='FocalLoss', use_sigmoid=True), loss_bbox=dict(type='L1Loss'))


def detector_cfg(num_classes=3, width=8, losses=GHM, init_cfg=None, depth=18):
    return dict(
        type='RetinaNet',
        backbone=dict(type='ResNet', depth=depth, init_cfg=init_cfg),
        neck=dict(
            type='FPN',
            in_channels=[64, 128, 256, 512],
            out_channels=width,
            start_level=1,
            add_extra_convs='on_input',
            num_outs=5,
        ),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=num_classes,
            in_channels=width,
            feat_channels=width,
            stacked_convs=1,
            **losses,
        ),
        train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4)),
        test_cfg=dict(nms_pre=100, score_thr=0.0, nms=dict(iou_threshold=0.5), max_per_img=10),
    )


def detector(num_classes=3, seed=0, **options):
    """A detector whose every parameter and statistic is random."""
    model = MODELS.build(detector_cfg(num_classes, **options))
    randomize(model, seed)
    return model


def randomize(model, seed=0):
    """Fill a network with values of about unit gain, the batch norm statistics included."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.dtype != torch.float32 or 'loss_' in name:
            continue
        noise = torch.randn(value.shape, generator=generator)
        if value.dim() > 1:
            noise *= (2 / value[0].numel()) ** 0.5
        elif name.endswith('running_var'):
            noise = 0.75 + noise.abs() / 4
        elif name.endswith('weight'):  # residual branches are to add little
            noise = 0.5 + noise / 8
        else:
            noise /= 4
        value.copy_(noise)
