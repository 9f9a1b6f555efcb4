"""The detector as a whole and its test-time augmentation; see also golden."""

import pytest
import torch
from mmengine.config import Config

import ghmdet
from ghmdet.models import DetTTAModel
from ghmdet.registry import MODELS
from ghmdet.structures import DetDataSample, InstanceData
from tests.detectors import detector_cfg


@pytest.fixture(scope='module')
def model():
    cfg = Config.fromfile(ghmdet.config_path('retinanet_ghm_r18_fpn_bccd'))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def batch(num=1):
    samples = []
    for i in range(num):
        sample = DetDataSample(
            metainfo=dict(img_id=i, img_shape=(60, 50), ori_shape=(60, 50), scale_factor=(1, 1))
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[5.0, 5, 45, 45]]), labels=torch.tensor([i % 3])
        )
        samples.append(sample)
    images = [torch.full((3, 60, 50), 100, dtype=torch.uint8) for _ in range(num)]
    return dict(inputs=images, data_samples=samples)


def test_modes_agree(model):
    model.eval()
    data = model.data_preprocessor(batch(), False)
    with torch.no_grad():
        scores, deltas = model(data['inputs'], mode='tensor')
        again = model.bbox_head(model.neck(model.backbone(data['inputs'])))
        losses = model(**data, mode='loss')
        found = model(**data, mode='predict')
    assert [tuple(s.shape) for s in scores][:2] == [(1, 27, 8, 8), (1, 27, 4, 4)]
    assert all(torch.equal(a, b) for a, b in zip(scores + deltas, again[0] + again[1], strict=True))
    assert set(losses) == {'loss_cls', 'loss_bbox'}
    assert [len(v) for v in losses.values()] == [5, 5]
    # Untrained scores are near .01, below the threshold.
    assert found[0].pred_instances.bboxes.shape == (0, 4)


NORMS = dict(GN=dict(type='GN', num_groups=2), BN=dict(type='BN'))


def spread_detections(model):
    """Give a new model weights by which its detections differ in score, class and place."""
    torch.nn.init.normal_(model.bbox_head.retina_cls.weight)
    model.eval().bbox_head.retina_cls.bias.zero_()
    maps = model(**model.data_preprocessor(collate([random_image(64, 64)])), mode='tensor')
    for layer, outputs in zip(
        (model.bbox_head.retina_cls, model.bbox_head.retina_reg), maps, strict=True
    ):
        layer.weight.div_(outputs[0].std())
    return model


@pytest.mark.parametrize('norm', NORMS)
@torch.no_grad()
def test_a_batch_never_changes_a_detection(norm):
    cfg = detector_cfg()
    for part in (cfg['neck'], cfg['bbox_head']):
        part['norm_cfg'] = NORMS[norm]
    cfg['data_preprocessor'] = dict(
        type='DetDataPreprocessor', mean=[100] * 3, std=[60] * 3, pad_size_divisor=32
    )
    torch.manual_seed(0)
    model = spread_detections(MODELS.build(cfg))
    sizes = [(60, 50), (33, 90), (64, 64), (60, 64), (90, 33), (31, 95), (60, 50)]
    batch = [random_image(*size) for size in sizes]
    alone = [predict(model, [item])[0] for item in batch]
    assert all(len(found.scores) == 10 for found in alone)
    for size in (3, 7):
        parts = [batch[start : start + size] for start in range(0, 7, size)]
        together = [found for part in parts for found in predict(model, part)]
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
            torch.testing.assert_close(one.bboxes, other.bboxes, atol=1e-3, rtol=0)
            assert one.labels.tolist() == other.labels.tolist()
    # The network itself does depend on the padding to other images of a batch.
    padded = model(**model.data_preprocessor(collate(batch)), mode='predict')[0].pred_instances
    assert (padded.scores - alone[0].scores).abs().max() > (0.01 if norm == 'GN' else 1e-5)


def random_image(height, width):
    generator = torch.Generator().manual_seed(height * width)
    image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
    shapes = dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1, 1))
    return image, DetDataSample(metainfo=shapes)


def collate(items):
    images, samples = zip(*items, strict=True)
    return dict(inputs=list(images), data_samples=[sample.clone() for sample in samples])


def predict(model, items):
    return [sample.pred_instances for sample in model.test_step(collate(items))]


def test_a_batch_of_one_size_is_joined(model):
    joined = []
    handle = model.backbone.register_forward_pre_hook(
        lambda _, given: joined.append(given[0].shape)
    )
    items = [random_image(*size) for size in ((40, 40), (70, 40), (64, 33), (50, 20))]
    samples = model.eval().val_step(collate(items))
    handle.remove()
    assert [tuple(shape) for shape in joined] == [(2, 3, 64, 64), (1, 3, 96, 64), (1, 3, 64, 32)]
    assert [sample.img_shape for sample in samples] == [(40, 40), (70, 40), (64, 33), (50, 20)]


def test_unknown_mode(model):
    with pytest.raises(ValueError, match="mode must be 'loss', 'predict' or 'tensor', got 'train'"):
        model(torch.zeros(1, 3, 64, 64), mode='train')
    with pytest.raises(ValueError, match="mode 'loss' needs data_samples, one per image"):
        model(torch.zeros(1, 3, 64, 64), mode='loss')


OPTIONS = dict(bias_correct=True, momentum=0.5, max_weight=5.0)
LOSSES = [
    (dict(type='GHMC', bins=30, momentum=0.75), dict(type='GHMR', momentum=0.7, loss_weight=10.0)),
    (dict(type='GHMC', bins=10, **OPTIONS), dict(type='GHMR', **OPTIONS)),
    (dict(type='FocalLoss'), dict(type='L1Loss')),
    (dict(type='FocalLoss'), dict(type='SmoothL1Loss', beta=0.11)),
]


@pytest.mark.parametrize('with_object', [False, True], ids=['empty', 'with an object'])
@pytest.mark.parametrize(('loss_cls', 'loss_bbox'), LOSSES)
def test_every_parameter_gets_a_gradient_without_objects_too(loss_cls, loss_bbox, with_object):
    torch.manual_seed(0)
    model = MODELS.build(detector_cfg(losses=dict(loss_cls=loss_cls, loss_bbox=loss_bbox))).train()
    samples = batch(2)['data_samples']
    for sample in samples[with_object:]:
        sample.gt_instances = sample.gt_instances[:0]
    for sample in samples:
        sample.set_metainfo(dict(pad_shape=(64, 64)))
    losses = model(torch.randn(2, 3, 64, 64), samples, mode='loss')
    total_bbox = sum(losses['loss_bbox'])
    assert (total_bbox.item() > 0) == with_object
    total = sum(losses['loss_cls']) + total_bbox
    assert total.isfinite()
    total.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in trained.values())
    if not with_object:
        assert model.bbox_head.retina_reg.weight.grad.abs().max() == 0


class Stub(torch.nn.Module):
    def test_step(self, data):
        return data


def view(bboxes, scores, labels, **metainfo):
    sample = DetDataSample(metainfo=dict(ori_shape=(50, 100), **metainfo))
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor(bboxes).float().reshape(-1, 4),
        scores=torch.tensor(scores),
        labels=torch.tensor(labels).long(),
    )
    return sample


@pytest.mark.parametrize(
    ('direction', 'mirrored'),
    [
        ('horizontal', [60, 10, 90, 30]),
        ('vertical', [10, 20, 40, 40]),
        ('diagonal', [60, 20, 90, 40]),
    ],
)
def test_tta_merges_mirrored_views(direction, mirrored):
    tta = DetTTAModel(
        tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=2), module=Stub()
    )
    plain = view([[10, 10, 40, 30], [0, 0, 5, 5]], [0.6, 0.5], [1, 1], flip=False)
    flipped = view([mirrored, mirrored], [0.9, 0.4], [1, 2], flip=True, flip_direction=direction)
    merged = tta.merge_preds([[plain, flipped]])[0].pred_instances
    # The mirrored box is the first one, seen better; the limit of 2 drops class 2.
    assert merged.bboxes.tolist() == [[10, 10, 40, 30], [0, 0, 5, 5]]
    assert merged.scores.tolist() == pytest.approx([0.9, 0.5])
    assert merged.labels.tolist() == [1, 1]


def test_tta_builds_its_detector_and_merges_nothing():
    cfg = Config.fromfile(ghmdet.config_path('retinanet_ghm_r18_fpn_bccd'))
    tta = MODELS.build(dict(**cfg.tta_model, module=cfg.model))
    assert tta.module.bbox_head.num_classes == 3
    empty = [view([], [], [], flip=False), view([], [], [], flip=True, flip_direction='vertical')]
    assert tta.merge_preds([empty])[0].pred_instances.bboxes.shape == (0, 4)
