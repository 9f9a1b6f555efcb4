# RetinaNet R-18-FPN with a narrow head for small datasets of photographs, from ImageNet weights.
#   python tools/train.py configs/retinanet_r18_fpn_small_imagenet.py --data-root data/mine
# One process, batch size 4.
_base_ = 'retinanet_r18_fpn_small.py'

scale = (320, 320)

model = dict(
    backbone=dict(
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='torchvision://resnet18'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512], start_level=1, num_outs=4),
    # Objects of 12 to 250 pixels of the resized image.
    bbox_head=dict(anchor_generator=dict(strides=[8, 16, 32, 64], ratios=[0.5, 1.0, 2.0])),
)

train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = scale
train_pipeline[3] = dict(type='RandomFlip', prob=0.5)
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = scale
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=3e-4))
