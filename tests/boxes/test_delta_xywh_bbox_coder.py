import math

import numpy as np
import pytest
import torch

from ghmdet.boxes import DeltaXYWHBBoxCoder
from tests import golden

MEANS, STDS = [0.1, 0.0, 0.0, -0.1], [0.1, 0.1, 0.2, 0.2]


def test_golden():
    figures = golden.load('coder')
    priors, gts = golden.boxes('p', 64, 150, 201), golden.boxes('q', 64, 150, 201)
    deltas = torch.from_numpy(
        golden.normal('deltas', (64, 4), golden.SEED) * np.float32([1, 1, 2, 6])
    )
    plain, scaled = DeltaXYWHBBoxCoder(), DeltaXYWHBBoxCoder(MEANS, STDS)
    for name, result in dict(
        encoded=plain.encode(priors, gts),
        encoded_std=scaled.encode(priors, gts),
        decoded=plain.decode(priors, deltas),
        decoded_clip=plain.decode(priors, deltas, max_shape=(150, 201)),
        decoded_std=scaled.decode(priors, deltas, max_shape=(150, 201)),
    ).items():
        np.testing.assert_allclose(result, figures[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_decode_inverts_encode():
    priors, gts = golden.boxes('p', 64, 150, 201), golden.boxes('q', 64, 150, 201)
    coder = DeltaXYWHBBoxCoder(MEANS, STDS)
    torch.testing.assert_close(
        coder.decode(priors, coder.encode(priors, gts)), gts, atol=1e-4, rtol=1e-5
    )


def test_worked_by_hand():
    coder = DeltaXYWHBBoxCoder(target_means=(0.5, 0, 0, 0), target_stds=(0.5, 1, 1, 2))
    prior = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    gt = torch.tensor([[10.0, 5.0, 30.0, 15.0]])  # centre 15 right of it, 20 x 10
    deltas = coder.encode(prior, gt)
    expected = [(1.5 - 0.5) / 0.5, 0, math.log(2), math.log(0.5) / 2]
    assert deltas[0].tolist() == pytest.approx(expected)


def test_decode_bounds_the_size_ratio_and_clips_only_if_asked():
    prior = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    huge = torch.tensor([[0.0, 0.0, 100.0, -100.0]])
    free = DeltaXYWHBBoxCoder(clip_border=False).decode(prior, huge, max_shape=(20, 30))
    ratio = 1000 / 16
    assert free[0].tolist() == pytest.approx(
        [5 - 5 * ratio, 5 - 5 / ratio, 5 + 5 * ratio, 5 + 5 / ratio]
    )
    clipped = DeltaXYWHBBoxCoder().decode(prior, huge, max_shape=(20, 30))
    assert clipped[0].tolist() == pytest.approx([0, 4.92, 30, 5.08])


@pytest.mark.parametrize('kwargs', [dict(target_means=[0.0]), dict(target_stds=[1, 1, 1, 0])])
def test_bad_settings(kwargs):
    with pytest.raises(ValueError, match='four target_means and four positive target_stds'):
        DeltaXYWHBBoxCoder(**kwargs)
