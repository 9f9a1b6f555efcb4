"""The detector: backbone, neck and head."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModel
from torch import Tensor, nn

from ghmdet.registry import MODELS
from ghmdet.structures import DetDataSample


@MODELS.register_module()
class RetinaNet(BaseModel):
    """Single-stage detector ("Focal Loss for Dense Object Detection", arXiv:1708.02002).

    Backbone, neck, head and preprocessor are built from MODELS.

    Args:
        backbone: maps images (N, 3, H, W) to a tuple of feature maps.
        neck: maps these to L feature maps with the same number of channels; None: not used.
        bbox_head: must have `forward`, `loss` and `predict`; gets train_cfg and test_cfg.
        train_cfg: `assigner`, `pos_weight`, ...; see RetinaHead.
        test_cfg: `nms_pre`, `score_thr`, `nms`, ...; see RetinaHead.
        data_preprocessor: makes a batch of the images.
        init_cfg: of the detector as a whole, e.g. a checkpoint.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        bbox_head: dict[str, Any],
        neck: dict[str, Any] | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        if not isinstance(data_preprocessor, nn.Module):
            # BaseModel would use mmengine's root registry.
            data_preprocessor = MODELS.build(data_preprocessor or dict(type='DetDataPreprocessor'))
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck) if neck is not None else nn.Identity()
        self.bbox_head = MODELS.build({**bbox_head, 'train_cfg': train_cfg, 'test_cfg': test_cfg})
        if getattr(self.data_preprocessor, 'sync_batch_shape', False) is None:
            # In the joined batch all images would be padded to one size.
            self.data_preprocessor.sync_batch_shape = any(
                getattr(module, 'sync', False) for module in self.bbox_head.modules()
            )

    def val_step(self, data: Any) -> list[DetDataSample]:
        """Return the samples of a batch of the data loader, each with its detections.

        A batch does not change them: only images of equal padded size are joined. Group norm, and
        features near the edge of an image, would depend on the padding to a larger one.
        """
        images = data.get('inputs') if isinstance(data, dict) else None
        if not isinstance(images, list):  # a tensor has images of one size
            return super().val_step(data)
        padded_size = getattr(self.data_preprocessor, 'padded_size', lambda image: image.shape)
        groups: dict[Any, list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(padded_size(image), []).append(index)
        found: dict[int, DetDataSample] = {}
        for indices in groups.values():
            part = {key: value and [value[i] for i in indices] for key, value in data.items()}
            found.update(zip(indices, super().val_step(part), strict=True))
        return [found[index] for index in range(len(images))]

    test_step = val_step

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the L feature maps of images (N, 3, H, W)."""
        return self.neck(self.backbone(inputs))

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[DetDataSample] | None = None,
        mode: str = 'tensor',
    ) -> dict[str, list[Tensor]] | list[DetDataSample] | tuple[list[Tensor], list[Tensor]]:
        """Return losses ('loss'), samples with `pred_instances` ('predict') or maps ('tensor').

        The inputs (N, 3, H, W) are as the data preprocessor gives them. 'loss' and 'predict' need
        one sample per image; 'tensor' returns the raw maps of the head.

        Raises:
            ValueError: another mode, or no data_samples where they are needed.
        """
        if mode == 'tensor':
            return self.bbox_head(self.extract_feat(inputs))
        if mode not in ('loss', 'predict'):
            raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', got {mode!r}")
        if data_samples is None:
            raise ValueError(f'mode {mode!r} needs data_samples, one per image, got None')
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.predict(inputs, data_samples)

    def loss(self, inputs: Tensor, data_samples: list[DetDataSample]) -> dict[str, list[Tensor]]:
        """Return `loss_cls` and `loss_bbox`, each a list of L scalars."""
        return self.bbox_head.loss(self.extract_feat(inputs), data_samples)

    def predict(
        self, inputs: Tensor, data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """Return the samples, each with its `pred_instances`; see `RetinaHead.predict`."""
        detections = self.bbox_head.predict(self.extract_feat(inputs), data_samples, rescale)
        for sample, instances in zip(data_samples, detections, strict=True):
            sample.pred_instances = instances
        return data_samples
