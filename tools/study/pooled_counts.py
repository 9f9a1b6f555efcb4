"""A head whose classification loss sees all levels at once, so that GHM-C counts over all of them.

`RetinaHead`, as MMDetection's, calls the loss for each level: an entry is compared with those of
its level. The paper does not say which is meant.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ghmdet.models.retina_head import RetinaHead, by_prior
from ghmdet.registry import MODELS
from ghmdet.structures import DetDataSample


@MODELS.register_module()
class PooledRetinaHead(RetinaHead):
    """`RetinaHead` with one call of `loss_cls` for all levels; `loss_bbox` is called per level.

    GHM-C divides each call by its number of entries. The sum over L levels is about L times the
    result of one call, so `loss_cls.loss_weight` must be L for a loss of the same size.
    """

    def loss(
        self, feats: Sequence[Tensor], data_samples: list[DetDataSample]
    ) -> dict[str, list[Tensor]]:
        """Return `loss_cls`, a list of one scalar, and `loss_bbox`, L scalars, P3 first."""
        cls_scores, bbox_preds = self(feats)
        targets = self.get_targets(cls_scores, data_samples)
        loss_cls = self.loss_cls(
            torch.cat([by_prior(scores, self.num_classes).flatten(0, 1) for scores in cls_scores]),
            torch.cat(targets.labels),
            torch.cat(targets.label_weights),
            avg_factor=targets.avg_factor,
        )
        losses_bbox = [
            self.loss_bbox(
                by_prior(deltas, 4).flatten(0, 1), *of_level, avg_factor=targets.avg_factor
            )
            for deltas, *of_level in zip(
                bbox_preds, targets.bbox_targets, targets.bbox_weights, strict=True
            )
        ]
        return dict(loss_cls=[loss_cls], loss_bbox=losses_bbox)
