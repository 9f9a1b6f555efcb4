import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from torch.utils.data import DataLoader, Dataset

from ghmdet.datasets.samplers import SampleIndex, seed_samples
from ghmdet.datasets.transforms import TorchvisionTransform
from ghmdet.registry import TRANSFORMS

BOXES = [[0, 0, 2, 2], [1, 0, 3, 2], [4, 3, 5, 4]]  # of an image of 5 x 4


def results(img=None):
    labels = np.arange(3)
    return dict(
        img=np.arange(60, dtype=np.uint8).reshape(4, 5, 3) if img is None else img,
        gt_bboxes=np.array(BOXES, np.float64),
        gt_bboxes_labels=labels,
        gt_ignore_flags=labels == 1,
    )


def test_a_flip():
    found = TorchvisionTransform('RandomHorizontalFlip', p=1.0)(results())
    assert found['img'].tolist() == results()['img'][:, ::-1].tolist()
    assert found['gt_bboxes'].tolist() == [[3, 0, 5, 2], [2, 0, 4, 2], [0, 3, 1, 4]]
    assert found['gt_bboxes'].dtype == np.float32


def test_colours_are_in_rgb():
    blue = np.full((1, 1, 3), (250, 0, 0), np.uint8)  # in BGR
    grey = TorchvisionTransform('Grayscale')({'img': blue})['img']
    assert grey.tolist() == [[28]]  # 0.114 * 250
    padded = TorchvisionTransform('Pad', padding=[1, 0, 0, 0], fill=(9, 5, 1))({'img': blue})
    assert padded == dict(img=pytest.approx(np.array([[[1, 5, 9], [250, 0, 0]]])), img_shape=(1, 2))


@pytest.mark.parametrize(
    ('settings', 'shape', 'kept'),
    [
        # The middle 3 x 2 pixels, from (1, 1)
        (dict(name='CenterCrop', size=(2, 3)), (2, 3), {0: [0, 0, 1, 1], 1: [0, 0, 2, 1]}),
        (
            *(dict(name='Pad', padding=[2, 1, 0, 0]), (5, 7)),
            {0: [2, 1, 4, 3], 1: [3, 1, 5, 3], 2: [6, 4, 7, 5]},
        ),
        (
            *(dict(name='SanitizeBoundingBoxes', min_size=2), (4, 5)),
            {0: [0, 0, 2, 2], 1: [1, 0, 3, 2]},
        ),
        (dict(name='RandomErasing', p=1.0), (4, 5), dict(enumerate(BOXES))),
    ],
)
def test_boxes_labels_and_flags(settings, shape, kept, recwarn):
    found = TorchvisionTransform(**settings)(results())
    assert found['img_shape'] == found['img'].shape[:2] == shape
    assert found['gt_bboxes_labels'].tolist() == list(kept)
    assert found['gt_bboxes'].tolist() == list(kept.values())
    assert found['gt_ignore_flags'].tolist() == [label == 1 for label in kept]
    assert not recwarn


def test_grey_images_and_images_without_boxes():
    crop = TorchvisionTransform('RandomIoUCrop')
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    assert sorted(crop({'img': grey})) == ['img', 'img_shape']
    flipped = TorchvisionTransform('RandomVerticalFlip', p=1.0)({'img': grey})
    assert flipped['img'].tolist() == grey[::-1].tolist()


class Images(Dataset):
    def __init__(self):
        self.step = TorchvisionTransform('RandomAffine', degrees=180)
        self.img = np.random.RandomState(0).randint(0, 256, (16, 16, 3)).astype(np.uint8)

    def __getitem__(self, index):
        return self.step({'img': self.img})['img']


def load(keys, seed=3, workers=0):
    dataset = Images()
    seed_samples(dataset, seed)
    loader = DataLoader(
        dataset, batch_sampler=[[key] for key in keys], num_workers=workers, collate_fn=bytes_of
    )
    return dict(zip(keys, loader, strict=True))


def bytes_of(batch):
    return batch[0].tobytes()


def test_the_draws_follow_seed_epoch_and_sample():
    keys = [SampleIndex(index, epoch) for epoch in (0, 1) for index in range(3)]
    torch.manual_seed(0)
    found = load(keys)
    assert len(set(found.values())) == 6
    torch.manual_seed(1)
    assert load(keys[::-1], workers=2) == found
    assert not set(load(keys, seed=4).values()) & set(found.values())


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (
            dict(name='MixUp'),
            'MixUp of torchvision.transforms.v2 does not change one image',
        ),
        (dict(name='RandAugment'), 'RandAugment of .* does not change one image with its boxes'),
        (dict(name='FiveCrop', size=3), 'FiveCrop of .* does not change one image'),
        (dict(name='ToTensor'), 'ToTensor of .* changes the type of the image'),
        (dict(name='ClampKeyPoints'), 'ClampKeyPoints of .* does not change one image'),
        (dict(name='ColorJitter', brightness=-1), 'ColorJitter of .*: If brightness is a single'),
        (dict(name='Resize'), 'Resize of .*: .*missing 1 required .*size'),
        (
            dict(name='SanitizeBoundingBoxes', labels_getter=None),
            ".* takes no 'labels_getter' here",
        ),
    ],
)
def test_refused(settings, message):
    with pytest.raises(ValueError, match=f'^TorchvisionTransform: {message}'):
        TorchvisionTransform(**settings)


@pytest.mark.follows(
    'TorchvisionTransform.name must be a class of torchvision.transforms.v2',
    'takes no {} here, but',
)
def test_the_nearest_name_and_argument_work():
    with pytest.raises(ValueError, match='got .RandomRotaton.; did you mean RandomRotation[?]$'):
        TorchvisionTransform('RandomRotaton', degrees=10)
    with pytest.raises(ValueError, match="takes no 'degres' here.*; did you mean degrees[?]$"):
        TorchvisionTransform('RandomRotation', degres=10)
    assert TorchvisionTransform('RandomRotation', degrees=10).inner.degrees == [-10, 10]


@pytest.mark.follows('sampler_options must contain 1.0')
def test_a_crop_that_would_not_end():
    with pytest.raises(ValueError, match='sampler_options must contain 1.0'):
        TorchvisionTransform('RandomIoUCrop', sampler_options=[0.3])
    step = TorchvisionTransform('RandomIoUCrop', sampler_options=[0.3, 1.0])
    assert step({'img': results()['img']})['img_shape'] == (4, 5)


@pytest.mark.follows('before PhotoMetricDistortion, and leave out to_float32')
def test_images_of_another_type():
    step = TorchvisionTransform('ColorJitter', brightness=(2, 2))
    with pytest.raises(ValueError, match=r'\(ColorJitter\) needs an image of uint8, got float32'):
        step({'img': np.ones((1, 1, 3), np.float32)})
    assert step({'img': np.full((1, 1, 3), 4, np.uint8)})['img'].tolist() == [[[8, 8, 8]]]


@pytest.mark.follows('list each of them as a step, in RandomApply or RandomChoice of mmcv')
def test_transforms_of_transforms():
    with pytest.raises(ValueError, match='RandomApply of .* takes other transforms or functions'):
        TorchvisionTransform('RandomApply', transforms=[])
    flip = dict(type='TorchvisionTransform', name='RandomHorizontalFlip', p=1.0)
    with DefaultScope.overwrite_default_scope('ghmdet'):  # as in a run
        step = TRANSFORMS.build(dict(type='RandomApply', transforms=[flip], prob=1.0))
    assert step(results())['gt_bboxes'].tolist()[0] == [3, 0, 5, 2]
