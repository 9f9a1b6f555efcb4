"""A small detector that finds much, with its files of both formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from ghmdet import Detector, config_path
from ghmdet.datasets import draw_shapes
from ghmdet.engine import get_model, init_detector
from tests.detectors import randomize

CONFIG = """
_base_ = {base!r}
data_root = {root!r}
model = dict(
    backbone=dict(num_stages=2, out_indices=(0, 1)),
    neck=dict(in_channels=[64, 128], start_level=0, out_channels=16, norm_cfg=None),
    bbox_head=dict(
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        norm_cfg=None,
        num_classes={number},
        anchor_generator=dict(strides=[4, 8, 16]),
    ),
    test_cfg=dict(score_thr=0.62, max_per_img=20),
)
steps = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 120), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
]
data = dict(data_root=data_root, pipeline=steps)
test_dataloader = dict(dataset=data, batch_size=3, num_workers=0, persistent_workers=False)
test_evaluator = dict(ann_file=data_root + 'annotations/val.json')
"""


def write_model(root: Path, classes: tuple[str, ...]) -> None:
    """Write config.py and model.pth, of a detector with random weights, into a folder."""
    base = config_path('retinanet_ghm_r18_fpn_shapes')
    (root / 'source.py').write_text(
        CONFIG.format(base=base, root=f'{root}/data/', number=len(classes))
    )
    Config.fromfile(root / 'source.py').dump(root / 'config.py')
    (root / 'source.py').unlink()
    model = get_model(str(root / 'config.py'))
    randomize(model)
    model.bbox_head.retina_cls.weight.data *= 0.3  # scores far from 1
    model.bbox_head.retina_cls.bias.data.fill_(-1.5)
    meta = dict(dataset_meta=dict(classes=classes))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), root / 'model.pth')


def export_model(root: Path, *names: str, static_hw: tuple[int, int] | None = None) -> None:
    """Export config.py and model.pth of a folder to files there, by their endings."""
    pytest.importorskip('onnxscript')
    graph = pytest.importorskip('ghmdet.export.graph')
    model = init_detector(str(root / 'config.py'), root / 'model.pth')
    program, metadata = graph.trace(model, static_hw), graph.describe(model, static_hw)
    for name in names:
        if name.endswith('.pt2'):
            graph.save_pt2(program, root / name, metadata)
        else:
            pytest.importorskip('ghmdet.export.onnx').save_onnx(program, root / name, metadata)


def write_annotations(root: Path) -> None:
    """Make val.json of some of the detections of model.pth, moved, so that AP is not near 0."""
    file = root / 'data/annotations/val.json'
    content, detector = (
        json.loads(file.read_text()),
        Detector(root / 'config.py', root / 'model.pth'),
    )
    content['annotations'] = []
    for image in content['images']:
        found = detector(root / 'data/val' / image['file_name'])
        for row in found.to_coco(image['id'])[:15:2]:
            del row['score']
            row['bbox'][0] += len(content['annotations']) % 4
            row |= dict(id=len(content['annotations']) + 1, iscrowd=0, area=100)
            content['annotations'].append(row)
    file.write_text(json.dumps(content))


def make_exported(root: Path) -> Path:
    """Write `data`, config.py, model.pth, model.onnx and model.pt2 into a folder."""
    draw_shapes(root / 'data', dict(val=6), seed=3)
    write_model(root, ('circle', 'square', 'triangle'))
    write_annotations(root)
    export_model(root, 'model.onnx', 'model.pt2')
    return root
