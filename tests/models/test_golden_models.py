"""Whole models against MMDetection 3.3.0: activations, detections, three training steps."""

import copy

import numpy as np
import pytest
import torch

from ghmdet.structures import DetDataSample, InstanceData
from tests import golden

CONFIGS = {
    'model_r50': 'retinanet_ghm_r50_fpn_1x_coco',
    'model_x101_32x4d': 'retinanet_ghm_x101_32x4d_fpn_1x_coco',
}


@pytest.fixture(params=['model_r50', pytest.param('model_x101_32x4d', marks=pytest.mark.long)])
def case(request, golden_model):
    return golden_model(CONFIGS[request.param]), golden.load(request.param)


def sampled(tensor):
    flat = tensor.detach().flatten()
    return flat[np.linspace(0, flat.numel() - 1, 64).astype(int)].numpy()


def check_activations(name, tensor, figures):
    np.testing.assert_allclose(sampled(tensor), figures[name], atol=2e-4, rtol=2e-4)
    if f'{name}_shape' in figures:
        assert list(tensor.shape) == figures[f'{name}_shape'].tolist()
    if f'{name}_meanstd' in figures:
        mean_std = [tensor.mean().item(), tensor.std().item()]
        np.testing.assert_allclose(mean_std, figures[f'{name}_meanstd'], atol=2e-4, rtol=2e-4)


def test_activations_and_predictions(case):
    model, figures = case
    model.eval()
    batch = golden.model_batch(DetDataSample, InstanceData)
    with torch.no_grad():
        data = model.data_preprocessor(batch, False)
        check_activations('preprocessed', data['inputs'], figures)
        stages = model.backbone(data['inputs'])
        levels = model.neck(stages)
        cls_scores, bbox_preds = model.bbox_head(levels)
        outputs = dict(backbone=stages, neck=levels, cls=cls_scores, reg=bbox_preds)
        for name, maps in outputs.items():
            for i, level_map in enumerate(maps):
                check_activations(f'{name}{i}', level_map, figures)
        for rescale in (0, 1):
            samples = model.predict(
                data['inputs'], copy.deepcopy(data['data_samples']), rescale=bool(rescale)
            )
            for i, sample in enumerate(samples):
                found, prefix = sample.pred_instances, f'pred{i}_rescale{rescale}'
                np.testing.assert_array_equal(found.labels, figures[f'{prefix}_labels'])
                np.testing.assert_allclose(found.scores, figures[f'{prefix}_scores'], atol=2e-4)
                np.testing.assert_allclose(found.bboxes, figures[f'{prefix}_boxes'], atol=0.05)


def test_three_training_steps(case):
    model, figures = case
    model.train()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(trainable) == set(figures['grad_names'].tolist())
    optimizer = torch.optim.SGD(trainable.values(), lr=0.001, momentum=0.9, weight_decay=1e-4)
    # Rounding decides the bin of some entries, so two threads and one part a little after a step.
    tolerances = [(2e-4, 1e-3), (2e-3, 2e-2), (2e-2, 1e-1)]
    for step, (tolerance, norm_tolerance) in enumerate(tolerances):
        data = model.data_preprocessor(golden.model_batch(DetDataSample, InstanceData), True)
        losses = model.loss(data['inputs'], data['data_samples'])
        for name in ('loss_cls', 'loss_bbox'):
            values = [level.item() for level in losses[name]]
            np.testing.assert_allclose(values, figures[f'step{step}_{name}'], rtol=tolerance)
        optimizer.zero_grad()
        sum(losses['loss_cls'] + losses['loss_bbox']).backward()
        if step == 0:
            norms = [trainable[name].grad.norm().item() for name in figures['grad_names'].tolist()]
            np.testing.assert_allclose(norms, figures['grad_norms'], rtol=1e-3, atol=1e-6)
        total_norm = torch.nn.utils.clip_grad_norm_(trainable.values(), 35)
        expected = figures[f'step{step}_total_norm']
        np.testing.assert_allclose(total_norm.item(), expected, rtol=norm_tolerance)
        optimizer.step()
    for loss, name in ((model.bbox_head.loss_cls, 'cls'), (model.bbox_head.loss_bbox, 'bbox')):
        np.testing.assert_allclose(loss.acc_sum.numpy(), figures[f'acc_sum_{name}'], 5e-2, 1)
