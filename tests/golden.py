"""MMDetection 3.3.0's figures and their inputs, drawn as tests/data/golden/README.md says."""

import json
from pathlib import Path

import numpy as np
import torch

from tests.data.golden.seeded import normal, seeded_state_dict, uniform

__all__ = ['boxes', 'load', 'model_batch', 'normal', 'seeded_state_dict', 'state_dicts', 'uniform']

FOLDER = Path(__file__).parent / 'data' / 'golden'
SEED = 1


def load(name):
    return np.load(FOLDER / f'{name}.npz')


def state_dicts():
    return json.loads((FOLDER / 'state_dicts.json').read_text())


def boxes(name, num, h, w):
    u = uniform(name, (num, 4), SEED)
    x1, y1 = u[:, 0] * (w - 5), u[:, 1] * (h - 5)
    x2 = np.minimum(x1 + 4 + 120 * u[:, 2], w - 1)
    y2 = np.minimum(y1 + 4 + 120 * u[:, 3], h - 1)
    return torch.from_numpy(np.stack([x1, y1, x2, y2], axis=1))


def model_batch(sample_class, instances_class):
    """The two images and samples that the models' figures were computed on."""
    images, samples = [], []
    for i, ((h, w), num) in enumerate(zip([(150, 210), (160, 200)], [5, 3], strict=True)):
        image = (uniform(f'img{i}', (3, h, w), SEED) * 255).astype(np.uint8)
        images.append(torch.from_numpy(image))
        sample = sample_class(
            metainfo=dict(
                img_id=i, img_shape=(h, w), ori_shape=(2 * h, 2 * w), scale_factor=(0.5, 0.5)
            )
        )
        labels = (uniform(f'gtl{i}', (num,), SEED) * 80).astype(np.int64)
        sample.gt_instances = instances_class(
            bboxes=boxes(f'gtb{i}', num, h, w), labels=torch.from_numpy(labels)
        )
        sample.ignored_instances = instances_class(bboxes=boxes(f'igb{i}', 2, h, w))
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)
