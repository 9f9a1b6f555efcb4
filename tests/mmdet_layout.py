"""Configs laid out as MMDetection lays out its own, in words of this project."""

FILES = {
    '_base_/models/retinanet.py': """
model = dict(
    type='mmdet.RetinaNet',
    data_preprocessor=dict(
        type='mmdet.DetDataPreprocessor', bgr_to_rgb=True, pad_size_divisor=32,
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        type='ResNet', depth=50, frozen_stages=1, norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    neck=dict(
        type='mmdet.FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, start_level=1,
        add_extra_convs='on_input', num_outs=5),
    bbox_head=dict(
        type='mmdet.models.dense_heads.RetinaHead', num_classes=80, in_channels=256,
        stacked_convs=4, feat_channels=256,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', _scope_='mmdet'),
        loss_cls=dict(type='FocalLoss', gamma=2.0, alpha=0.25),
        loss_bbox=dict(type='L1Loss')),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0,
                      _scope_='mmdet'),
        sampler=dict(type='mmdet.PseudoSampler'), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=1000, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5),
                  max_per_img=100))
""",
    '_base_/datasets/coco.py': """
dataset_type = 'mmdet.CocoDataset'
data_root = 'data/'
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='mmdet.Resize', scale=(96, 96), keep_ratio=True),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs',
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
train_pipeline = [
    test_pipeline[0], test_pipeline[2], test_pipeline[1],
    dict(type='mmdet.RandomFlip', prob=0.5), dict(type='mmdet.PackDetInputs')]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'),
    dataset=dict(type=dataset_type, data_root=data_root, ann_file='annotations/train.json',
                 data_prefix=dict(img='train/'), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1, num_workers=0, drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, ann_file='annotations/val.json',
                 data_prefix=dict(img='val/'), test_mode=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='mmdet.CocoMetric', ann_file=data_root + 'annotations/val.json', metric='bbox')
test_evaluator = val_evaluator
""",
    '_base_/schedules/short.py': """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)]
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
""",
    '_base_/default_runtime.py': """
default_scope = 'mmdet'
default_hooks = dict(
    timer=dict(type='IterTimerHook'), logger=dict(type='LoggerHook', interval=1),
    param_scheduler=dict(type='ParamSchedulerHook'), sampler_seed=dict(type='DistSamplerSeedHook'),
    checkpoint=dict(type='CheckpointHook', interval=1),
    visualization=dict(type='mmdet.DetVisualizationHook'))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='mmdet.DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
""",
    'retinanet/tta.py': """
tta_model = dict(type='mmdet.DetTTAModel',
                 tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='mmdet.Resize', scale=s, keep_ratio=True) for s in [(96, 96), (128, 128)]],
        [dict(type='mmdet.RandomFlip', prob=1.0), dict(type='mmdet.RandomFlip', prob=0.0)],
        [dict(type='mmdet.PackDetInputs', meta_keys=(
            'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
            'flip_direction'))]])]
""",
    'retinanet/r50.py': """
_base_ = ['../_base_/models/retinanet.py', '../_base_/datasets/coco.py',
          '../_base_/schedules/short.py', '../_base_/default_runtime.py', './tta.py']
""",
    '_base_/datasets/voc.py': """
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.Resize', scale=(1000, 600), keep_ratio=True),
    dict(type='mmdet.RandomFlip', prob=0.5), dict(type='mmdet.PackDetInputs')]
test_pipeline = [
    train_pipeline[0], train_pipeline[2], train_pipeline[1],
    dict(type='mmdet.PackDetInputs',
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
def of(year):
    return dict(
        type='mmdet.VOCDataset', data_root='data/VOCdevkit/', backend_args=None,
        ann_file=f'{year}/ImageSets/Main/trainval.txt',
        data_prefix=dict(sub_data_root=f'{year}/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=32),
        pipeline=train_pipeline)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'),
    dataset=dict(type='RepeatDataset', times=3, dataset=dict(
        type='ConcatDataset', ignore_keys=['dataset_type'],
        datasets=[of('VOC2007'), of('VOC2012')])))
val_dataloader = dict(
    batch_size=1, num_workers=0, drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmdet.VOCDataset', data_root='data/VOCdevkit/', test_mode=True,
                 ann_file='VOC2007/ImageSets/Main/test.txt',
                 data_prefix=dict(sub_data_root='VOC2007/'), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmdet.VOCMetric', metric='mAP', eval_mode='11points')
test_evaluator = val_evaluator
del of
""",
    'pascal_voc/r50.py': """
_base_ = ['../_base_/models/retinanet.py', '../_base_/datasets/voc.py',
          '../_base_/schedules/short.py', '../_base_/default_runtime.py']
model = dict(bbox_head=dict(num_classes=20))
""",
    'retinanet/r50_lsj.py': """
_base_ = './r50.py'
size = (96, 96)
model = dict(data_preprocessor=dict(
    batch_augments=[dict(type='mmdet.BatchFixedSizePad', size=size)]))
steps = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.RandomResize', scale=size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type='mmdet.RandomCrop', crop_type='absolute_range', crop_size=size,
         recompute_bbox=True, allow_negative_crop=True),
    dict(type='mmdet.FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='mmdet.RandomFlip', prob=0.5), dict(type='mmdet.PackDetInputs')]
train_dataloader = dict(
    batch_sampler=None,
    dataset=dict(_delete_=True, type='RepeatDataset', times=2, dataset=dict(
        type='mmdet.CocoDataset', data_root='data/', ann_file='annotations/train.json',
        data_prefix=dict(img='train/'), filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=steps, backend_args=None)))
optim_wrapper = dict(type='AmpOptimWrapper')
""",
    'ghm/r50_ghm.py': """
_base_ = {retinanet!r}
model = dict(bbox_head=dict(
    loss_cls=dict(_delete_=True, type='mmdet.GHMC', bins=30, momentum=0.75),
    loss_bbox=dict(_delete_=True, type='GHMR', mu=0.02, bins=10, momentum=0.7, loss_weight=10.0)))
""",
}


def write(folder):
    """Write them; the last names its base by the absolute path, the others by relative ones."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if '{retinanet!r}' in text:
            text = text.format(retinanet=str(folder / 'retinanet' / 'r50.py'))
        path.write_text(text)
    return folder / 'ghm' / 'r50_ghm.py'
