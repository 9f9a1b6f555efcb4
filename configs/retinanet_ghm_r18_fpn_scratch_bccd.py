# Narrow RetinaNet R-18-FPN with GHM-C and GHM-R on BCCD: a recipe for small datasets without
# pretrained weights.
#   python tools/dataset_converters/pascal_voc.py PATH/TO/BCCD --out data/bccd --allow-skipped
#   python tools/train.py configs/retinanet_ghm_r18_fpn_scratch_bccd.py
# One process, batch size 4.
_base_ = 'retinanet_ghm_r18_fpn_bccd.py'

scale = (320, 240)
width = 128
norm_cfg = dict(type='GN', num_groups=16)

model = dict(
    # Cells are at most 120 pixels wide: the receptive field of three stages suffices.
    backbone=dict(num_stages=3, out_indices=(1, 2), frozen_stages=-1),
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
        # The sizes of the cells: 20 to 32, 40 to 63, 80 to 127 pixels; nearly square.
        anchor_generator=dict(octave_base_scale=2.5, strides=[8, 16, 32], ratios=[0.8, 1.0, 1.25]),
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
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))

max_epochs = 40
train_cfg = dict(max_epochs=max_epochs, val_interval=8)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=1e-6, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(logger=dict(interval=26))
