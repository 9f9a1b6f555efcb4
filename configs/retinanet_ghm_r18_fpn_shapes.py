# Narrow RetinaNet R-18-FPN with GHM-C and GHM-R on a drawn dataset of coloured shapes: the demo.
#   python tools/dataset_converters/shapes.py --out data/shapes
#   python tools/train.py configs/retinanet_ghm_r18_fpn_shapes.py
# From scratch, one process, batch size 4.
_base_ = 'retinanet_ghm_r50_fpn_1x_coco.py'

classes = ('circle', 'square', 'triangle')
data_root = 'data/shapes/'
scale = (160, 160)
width = 64
norm_cfg = dict(type='GN', num_groups=16)

model = dict(
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None),
    # Three levels suffice for small images; GHM gives each level the same weight.
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=width, num_outs=3, norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=len(classes),
        in_channels=width,
        feat_channels=width,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        anchor_generator=dict(octave_base_scale=3, strides=[8, 16, 32]),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
dataset = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=train_pipeline,
        **dataset,
    ),
)
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
        pipeline=test_pipeline,
        **dataset,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(classwise=True)
test_evaluator = val_evaluator
tta_pipeline = None  # the default: the image and the flipped image

max_epochs = 15
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=1e-5, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(max_keep_ckpts=2, save_best='coco/bbox_mAP'),
)
randomness = dict(seed=0)
