"""RetinaNet's head: towers, targets, loss and detections."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from mmcv.cnn import ConvModule
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseModule
from torch import Tensor, nn

from ghmdet.argument_checks import check_flag, check_integer, check_number, is_number
from ghmdet.boxes.delta_xywh_bbox_coder import clip_bboxes
from ghmdet.boxes.postprocess import check_test_cfg, finish_detections, select_candidates
from ghmdet.registry import MODELS, TASK_UTILS
from ghmdet.structures import DetDataSample, InstanceData

_RETINANET_ANCHORS = dict(
    type='AnchorGenerator',
    octave_base_scale=4,
    scales_per_octave=3,
    ratios=[0.5, 1.0, 2.0],
    strides=[8, 16, 32, 64, 128],
)


class Targets(NamedTuple):
    """Training targets: lists of L tensors, each of all images of a level in order."""

    labels: list[Tensor]  # int64 (N * P_l,), C is background
    label_weights: list[Tensor]  # float32 (N * P_l,), 0 is ignored
    bbox_targets: list[Tensor]  # float32 (N * P_l, 4), deltas of positives, else 0
    bbox_weights: list[Tensor]  # float32 (N * P_l, 4), 1 for positives, else 0
    avg_factor: Tensor  # number of positives; at least 1 per image, and 0 for padding samples


@MODELS.register_module()
class RetinaHead(BaseModule):
    """Anchor head ("Focal Loss for Dense Object Detection", arXiv:1708.02002, section 4).

    Two towers of `stacked_convs` convolutions, shared by all levels, end in class logits and box
    deltas of A anchors per cell. Anchors, matching, coding and losses are used here and only here.

    Args:
        num_classes: C, the number of object classes; background is none of them.
        in_channels: of the feature maps.
        stacked_convs: convolutions in a tower.
        feat_channels: width of the towers.
        conv_cfg: of the towers' convolutions, None is `Conv2d`.
        norm_cfg: of the towers' norms, None is no norm.
        anchor_generator: built from TASK_UTILS; has `grid_priors` and `valid_flags`.
        bbox_coder: built from TASK_UTILS; has `encode` and `decode`.
        loss_cls: built from MODELS; called (pred (n, C), labels (n,), weights (n,), avg_factor=).
        loss_bbox: built from MODELS; called (pred (n, 4), targets, weights, avg_factor=).
        train_cfg: `assigner`, built from TASK_UTILS, and `pos_weight`, the label weight of
            positives, 1 if it is not positive.
        test_cfg: `nms_pre` candidates per level, `score_thr`, `min_bbox_size`, `nms`,
            `max_per_img`.
        init_cfg: default normal with std 0.01, and a class bias with which all scores are 0.01.
        sync_avg_factor: whether the processes of a distributed training divide by the mean of their
            numbers of positives (`avg_factor`); in MMDetection each divides by its own. With it the
            mean of their focal, L1 and smooth L1 losses is what one process gets for the joined
            batch. GHM losses do not use it, they have `sync`.

    Raises:
        ValueError: a setting out of its range, named.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stacked_convs: int = 4,
        feat_channels: int = 256,
        conv_cfg: dict[str, Any] | None = None,
        norm_cfg: dict[str, Any] | None = None,
        anchor_generator: dict[str, Any] | None = None,
        bbox_coder: dict[str, Any] | None = None,
        loss_cls: dict[str, Any] | None = None,
        loss_bbox: dict[str, Any] | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        check_integer('model.bbox_head.num_classes', num_classes, 1)
        check_flag('model.bbox_head.sync_avg_factor', sync_avg_factor)
        last_conv = dict(type='Normal', name='retina_cls', std=0.01, bias_prob=0.01)
        super().__init__(
            init_cfg=init_cfg or dict(type='Normal', layer='Conv2d', std=0.01, override=last_conv)
        )
        self.num_classes = num_classes
        self.sync_avg_factor = sync_avg_factor
        self.prior_generator = TASK_UTILS.build(anchor_generator or _RETINANET_ANCHORS)
        self.bbox_coder = TASK_UTILS.build(bbox_coder or dict(type='DeltaXYWHBBoxCoder'))
        self.loss_cls = MODELS.build(loss_cls or dict(type='FocalLoss'))
        self.loss_bbox = MODELS.build(loss_bbox or dict(type='L1Loss'))
        num_priors, *others = set(self.prior_generator.num_base_priors)
        if others:
            raise ValueError(
                'anchor_generator: the towers are shared, so all levels must have the same number '
                f'of anchors per cell, got {self.prior_generator.num_base_priors}'
            )
        conv = partial(ConvModule, kernel_size=3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        *inputs, width = in_channels, *[feat_channels] * stacked_convs
        self.cls_convs = nn.ModuleList(conv(channels, feat_channels) for channels in inputs)
        self.reg_convs = nn.ModuleList(conv(channels, feat_channels) for channels in inputs)
        self.retina_cls = nn.Conv2d(width, num_priors * num_classes, 3, padding=1)
        self.retina_reg = nn.Conv2d(width, num_priors * 4, 3, padding=1)
        self._read_train_cfg(train_cfg)
        self.test_cfg = dict(test_cfg or {})
        if self.test_cfg:
            check_test_cfg(self.test_cfg)

    def _read_train_cfg(self, train_cfg: dict[str, Any] | None) -> None:
        train_cfg = train_cfg or {}
        sampler = train_cfg.get('sampler') or dict(type='PseudoSampler')
        if not str(sampler.get('type')).endswith('PseudoSampler'):
            raise ValueError(
                f'train_cfg.sampler: only PseudoSampler (all anchors) is defined, got {sampler}'
            )
        if train_cfg.get('allowed_border', -1) != -1:
            raise ValueError(
                'train_cfg.allowed_border: only -1 (anchors may cross the border) is defined, '
                f'got {train_cfg["allowed_border"]!r}'
            )
        self.pos_weight = train_cfg.get('pos_weight', -1)
        check_number('model.train_cfg.pos_weight', self.pos_weight, 'a number', is_number)
        assigner = train_cfg.get('assigner')
        self.assigner = TASK_UTILS.build(assigner) if assigner else None

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return L class logits (N, A * C, h, w) and L box deltas (N, A * 4, h, w).

        `feats` are L maps (N, in_channels, h, w).
        """
        cls_scores, bbox_preds = [], []
        for feat in feats:
            cls_feat = reg_feat = feat
            for cls_conv, reg_conv in zip(self.cls_convs, self.reg_convs, strict=True):
                cls_feat, reg_feat = cls_conv(cls_feat), reg_conv(reg_feat)
            cls_scores.append(self.retina_cls(cls_feat))
            bbox_preds.append(self.retina_reg(reg_feat))
        return cls_scores, bbox_preds

    def loss(
        self, feats: Sequence[Tensor], data_samples: list[DetDataSample]
    ) -> dict[str, list[Tensor]]:
        """Return `loss_cls` and `loss_bbox`, each L scalars, P3 first.

        The samples have `gt_instances`, perhaps `ignored_instances`, and `pad_shape`. Those with
        `is_padding=True` add nothing to the losses.
        """
        cls_scores, bbox_preds = self(feats)
        *targets, avg_factor = self.get_targets(cls_scores, data_samples)
        losses_cls, losses_bbox = [], []
        for scores, deltas, labels, label_weights, bbox_targets, bbox_weights in zip(
            cls_scores, bbox_preds, *targets, strict=True
        ):
            scores = by_prior(scores, self.num_classes).flatten(0, 1)
            losses_cls.append(self.loss_cls(scores, labels, label_weights, avg_factor=avg_factor))
            deltas = by_prior(deltas, 4).flatten(0, 1)
            loss_bbox = self.loss_bbox(deltas, bbox_targets, bbox_weights, avg_factor=avg_factor)
            losses_bbox.append(loss_bbox)
        return dict(loss_cls=losses_cls, loss_bbox=losses_bbox)

    @torch.no_grad()
    def get_targets(
        self, cls_scores: Sequence[Tensor], data_samples: list[DetDataSample]
    ) -> Targets:
        """Match all anchors of all images and compute their training targets.

        Of the L class maps, size and device are used.
        """
        featmap_hws = [tuple(score.shape[-2:]) for score in cls_scores]
        device = cls_scores[0].device
        level_priors = self.prior_generator.grid_priors(featmap_hws, device=device)
        priors = torch.cat(level_priors)
        per_image = []
        for sample in data_samples:
            on_image = self.prior_generator.valid_flags(featmap_hws, sample.pad_shape, device)
            per_image.append(self._targets_of_image(priors, torch.cat(on_image), sample))
        level_sizes = [len(level) for level in level_priors]
        labels, label_weights, bbox_targets, bbox_weights = (
            [level.flatten(0, 1) for level in torch.stack(images).split(level_sizes, dim=1)]
            for images in zip(*per_image, strict=True)
        )
        avg_factor = self._average_factor([weights for *_, weights in per_image], data_samples)
        return Targets(labels, label_weights, bbox_targets, bbox_weights, avg_factor)

    def _average_factor(
        self, bbox_weights: list[Tensor], data_samples: list[DetDataSample]
    ) -> Tensor:
        """Return `Targets.avg_factor`, given weights (P, 4) of each image."""
        num_positives = [
            weights[:, 0].sum().clamp(min=0 if _is_padding(sample) else 1)
            for weights, sample in zip(bbox_weights, data_samples, strict=True)
        ]
        avg_factor = torch.stack(num_positives).sum()
        # In eval mode processes may have different numbers of images.
        if self.sync_avg_factor and self.training:
            all_reduce(avg_factor, 'mean')
        # Smaller only if all samples are padding; avoids 0 / 0.
        return avg_factor.clamp(min=1 / get_world_size())

    def match_anchors(self, priors: Tensor, on_image: Tensor, sample: DetDataSample) -> Tensor:
        """Return the object of each anchor, int64 (P,): -1 ignored, 0 background, i + 1 object i.

        `priors` are all anchors (P, 4), `on_image` (P,) those that may match; see `valid_flags`.
        """
        if self.assigner is None:
            raise ValueError('model.train_cfg.assigner is needed for training, got none')
        bboxes = sample.gt_instances.bboxes
        ignored = sample.ignored_instances.bboxes if 'ignored_instances' in sample else None
        gt_inds = torch.full((len(priors),), -1, dtype=torch.int64, device=priors.device)
        if not _is_padding(sample):
            gt_inds[on_image] = self.assigner.assign(priors[on_image], bboxes, ignored).gt_inds
        if len(bboxes) == 0 and ignored is not None and hasattr(self.assigner, 'find_ignored'):
            # assign() does this if there are gts; without, it returns background as in MMDetection.
            gt_inds[self.assigner.find_ignored(priors, ignored)] = -1
        return gt_inds

    def _targets_of_image(
        self, priors: Tensor, on_image: Tensor, sample: DetDataSample
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Labels (P,), their weights (P,), deltas (P, 4) and their weights (P, 4) of one image."""
        gts, gt_inds = sample.gt_instances, self.match_anchors(priors, on_image, sample)
        labels = torch.full_like(gt_inds, self.num_classes)
        label_weights = (gt_inds >= 0).to(priors.dtype)
        bbox_targets = torch.zeros_like(priors)
        bbox_weights = torch.zeros_like(priors)
        positive = (gt_inds > 0).nonzero().squeeze(1)
        matched = gt_inds[positive] - 1
        labels[positive] = gts.labels[matched]
        bbox_targets[positive] = self.bbox_coder.encode(priors[positive], gts.bboxes[matched])
        bbox_weights[positive] = 1
        if self.pos_weight > 0:
            label_weights[positive] = self.pos_weight
        return labels, label_weights, bbox_targets, bbox_weights

    def predict(
        self, feats: Sequence[Tensor], data_samples: list[DetDataSample], rescale: bool = False
    ) -> list[InstanceData]:
        """Return the detections of every image: `bboxes` (n, 4), `scores` (n,), `labels` (n,).

        Boxes are in pixels of the network's input or, with `rescale`, of the original image; the
        samples have `img_shape`, and `scale_factor` when rescaling.
        """
        device = feats[0].device
        sizes = torch.tensor([sample.img_shape[:2] for sample in data_samples], device=device)
        inverse_scales = None
        if rescale:
            inverse = [[1 / factor for factor in scale_factor_of(each)] for each in data_samples]
            inverse_scales = torch.tensor(inverse, dtype=torch.float32, device=device)
        found = self.detect(feats, sizes, inverse_scales)
        counts = (found[1] > 0).sum(dim=1).tolist()
        return [
            InstanceData(bboxes=bboxes[:n], scores=scores[:n], labels=labels[:n])
            for n, bboxes, scores, labels in zip(counts, *found, strict=True)
        ]

    def detect(
        self, feats: Sequence[Tensor], sizes: Tensor, inverse_scales: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (N, k, 4), scores (N, k) and labels (N, k), as `finish_detections`.

        `sizes` (N, 2) are the (h, w) of the images without padding, to which boxes are clipped.
        """
        cls_scores, bbox_preds = self(feats)
        featmap_hws = [tuple(score.shape[-2:]) for score in cls_scores]
        level_priors = self.prior_generator.grid_priors(featmap_hws, device=sizes.device)
        candidates = []
        for logits, deltas, priors in zip(cls_scores, bbox_preds, level_priors, strict=True):
            best, labels, inds = select_candidates(
                by_prior(logits, self.num_classes).float().sigmoid(),
                self.test_cfg.get('score_thr', 0),
                self.test_cfg.get('nms_pre', -1),
            )
            deltas = by_prior(deltas, 4).float().gather(1, inds[..., None].expand(-1, -1, 4))
            candidates.append((best, labels, deltas, priors[inds]))
        scores, labels, deltas, priors = (
            torch.cat(parts, dim=1) for parts in zip(*candidates, strict=True)
        )
        bboxes = self.bbox_coder.decode(priors.flatten(0, 1), deltas.flatten(0, 1))
        bboxes = bboxes.view(deltas.shape)
        if getattr(self.bbox_coder, 'clip_border', True):
            bboxes = clip_bboxes(bboxes, sizes[:, None].to(bboxes))
        return finish_detections(bboxes, scores, labels, self.test_cfg, inverse_scales)


def _is_padding(sample: DetDataSample) -> bool:
    return bool(sample.get('is_padding', False))


def scale_factor_of(sample: DetDataSample) -> tuple[float, float]:
    """Return the scale factor (w, h) of a sample."""
    if 'scale_factor' in sample:
        return sample.scale_factor
    if sample.get('ori_shape', sample.img_shape) == sample.img_shape:
        return 1, 1
    raise ValueError(
        f'scale_factor is missing in an image resized from {sample.ori_shape} to '
        f'{sample.img_shape}, so that detections cannot be scaled back to its pixels: add '
        'scale_factor to meta_keys of PackDetInputs'
    )


def by_prior(level_map: Tensor, num_values: int) -> Tensor:
    """Turn a map (N, A * v, h, w) into (N, h * w * A, v), in the order of the anchors."""
    return level_map.permute(0, 2, 3, 1).reshape(level_map.shape[0], -1, num_values)
