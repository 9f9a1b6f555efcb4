# Narrow RetinaNet R-18-FPN for small datasets, without pretrained weights.
#   python tools/train.py configs/retinanet_r18_fpn_small.py --data-root data/mine
# One process, batch size 4. The data are annotations/{train,val}.json and images/, as
# tools/dataset_converters/to_coco.py writes them; the classes are those of the JSON.
_base_ = 'retinanet_r50_fpn_1x_coco.py'

data_root = 'data/mine/'
scale = (256, 256)
width = 128
norm_cfg = dict(type='GN', num_groups=16)

model = dict(
    backbone=dict(
        depth=18,
        num_stages=3,
        out_indices=(1, 2),
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(
        in_channels=[128, 256],
        start_level=0,
        out_channels=width,
        num_outs=3,
        add_extra_convs='on_output',
        norm_cfg=norm_cfg,
    ),
    bbox_head=dict(
        in_channels=width,
        feat_channels=width,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        # Objects of 12 to 130 pixels of the resized image, nearly square.
        # tools/analysis_tools/anchor_report.py compares anchors with data.
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32], ratios=[0.8, 1.0, 1.25]),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=scale, ratio_range=(0.8, 1.2), keep_ratio=True),
    dict(
        type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']
    ),
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
dataset = dict(data_root=data_root, data_prefix=dict(img='images/'))
train_dataloader = dict(
    batch_size=4,
    dataset=dict(ann_file='annotations/train.json', pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    batch_size=8,
    dataset=dict(ann_file='annotations/val.json', pipeline=test_pipeline, **dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=None, classwise=True)
test_evaluator = val_evaluator
tta_pipeline = None  # the default: the image and the flipped image

# Iterations, not epochs: the same time for a hundred images and for a thousand.
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=600, val_interval=150)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, eta_min=1e-6),
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=150, max_keep_ckpts=2, save_best='coco/bbox_mAP'),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
