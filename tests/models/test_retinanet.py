"""The detector as a whole, its preprocessor and its test-time augmentation; see also golden."""

import pytest
import torch
from mmengine.config import Config

import ghmdet
from ghmdet.models import DetDataPreprocessor, DetTTAModel
from ghmdet.registry import MODELS
from ghmdet.structures import DetDataSample, InstanceData


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


def test_unknown_mode(model):
    with pytest.raises(ValueError, match="mode must be 'loss', 'predict' or 'tensor', got 'train'"):
        model(torch.zeros(1, 3, 64, 64), mode='train')
    with pytest.raises(ValueError, match="mode 'loss' needs data_samples, one per image"):
        model(torch.zeros(1, 3, 64, 64), mode='loss')


def test_preprocessor_normalises_pads_and_sets_the_shapes():
    preprocessor = DetDataPreprocessor(
        mean=[1.0, 2.0, 3.0], std=[2.0, 2.0, 4.0], bgr_to_rgb=True, pad_size_divisor=32
    )
    blue = torch.tensor([7, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    images = [blue.expand(3, 10, 40), blue.expand(3, 33, 20)]
    samples = [DetDataSample(), DetDataSample()]
    data = preprocessor(dict(inputs=images, data_samples=samples), training=True)
    samples = data['data_samples']
    assert data['inputs'].shape == (2, 3, 64, 64)
    # Channels are red, green, blue: (0 - 1) / 2, (0 - 2) / 2, (7 - 3) / 4
    assert data['inputs'][0, :, 9, 39].tolist() == [-0.5, -1.0, 1.0]
    assert data['inputs'][0, :, 10, 0].tolist() == [0, 0, 0]
    assert [sample.pad_shape for sample in samples] == [(32, 64), (64, 32)]
    assert samples[1].batch_input_shape == (64, 64)


def test_preprocessor_without_samples():
    data = DetDataPreprocessor()(dict(inputs=[torch.zeros(3, 4, 4)]))
    assert data['data_samples'] is None


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


def test_tta_without_detections():
    tta = DetTTAModel(tta_cfg=dict(nms=dict(iou_threshold=0.5), max_per_img=2), module=Stub())
    empty = [view([], [], [], flip=False), view([], [], [], flip=True, flip_direction='vertical')]
    assert tta.merge_preds([empty])[0].pred_instances.bboxes.shape == (0, 4)


def test_tta_builds_its_detector():
    cfg = Config.fromfile(ghmdet.config_path('retinanet_ghm_r18_fpn_bccd'))
    tta = MODELS.build(dict(**cfg.tta_model, module=cfg.model))
    assert tta.module.bbox_head.num_classes == 3
