"""What does the work of MMDetection's parts here; `docs/from_mmdet.md` shows the same table."""

from __future__ import annotations

REPLACED_PARTS = {
    'Collect': 'PackDetInputs',
    'DefaultFormatBundle': 'PackDetInputs',
    'ImageToTensor': 'PackDetInputs',
    'Normalize': 'mean, std and bgr_to_rgb of model.data_preprocessor',
    'Pad': 'pad_size_divisor of model.data_preprocessor',
    'MultiScaleFlipAug': 'a plain test pipeline; TestTimeAug in tta_pipeline for several views',
    'GroupSampler': 'DefaultSampler with batch_sampler=dict(type="AspectRatioBatchSampler")',
    'DistributedGroupSampler': 'DefaultSampler with '
    'batch_sampler=dict(type="AspectRatioBatchSampler")',
    'DistributedSampler': 'DefaultSampler',
    'EpochBasedRunner': 'EpochBasedTrainLoop in train_cfg',
    'IterBasedRunner': 'IterBasedTrainLoop in train_cfg',
    'EvalHook': 'val_cfg, val_dataloader and val_evaluator',
    'DistEvalHook': 'val_cfg, val_dataloader and val_evaluator',
    'OptimizerHook': 'OptimWrapper in optim_wrapper',
    'Fp16OptimizerHook': 'AmpOptimWrapper in optim_wrapper, or --amp',
    'GradientCumulativeOptimizerHook': 'optim_wrapper.accumulative_counts',
    'TextLoggerHook': 'LoggerHook',
    'TensorboardLoggerHook': 'TensorboardVisBackend in visualizer.vis_backends',
    'WandbLoggerHook': 'WandbVisBackend in visualizer.vis_backends',
    'MMDetWandbHook': 'WandbVisBackend in visualizer.vis_backends',
    'ExpMomentumEMAHook': 'EMAHook with ema_type="ExponentialMovingAverage"',
    'ExpMomentumEMA': 'ExponentialMovingAverage',
    'LinearMomentumEMAHook': 'EMAHook',
    'NumClassCheckHook': 'DoorCheckHook, which runs by itself',
    'CheckInvalidLossHook': 'FiniteStepsHook, which runs by itself',
    'MemoryProfilerHook': 'PeakMemoryHook, which runs by itself',
    'CustomDataset': 'CocoDataset, with the annotations in COCO format',
    'XMLDataset': 'CocoDataset, after tools/dataset_converters/pascal_voc.py',
    'VOCDataset': 'CocoDataset, after tools/dataset_converters/pascal_voc.py',
    'VOCMetric': 'CocoMetric',
}
"""Part of MMDetection 2.x or 3.x -> what does its work here."""
