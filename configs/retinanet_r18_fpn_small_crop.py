# Narrow RetinaNet R-18-FPN for few small objects among much background: trained on crops of images
# in their own size, tested on whole images. Without pretrained weights.
#   python tools/train.py configs/retinanet_r18_fpn_small_crop.py --data-root data/mine
# One process, batch size 4.
_base_ = 'retinanet_r18_fpn_small.py'

model = dict(
    backbone=dict(out_indices=(0, 1, 2)),
    neck=dict(in_channels=[64, 128, 256]),
    bbox_head=dict(anchor_generator=dict(strides=[4, 8, 16])),  # objects of 6 to 65 pixels
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    # Three of four crops are around an object.
    dict(type='RandomCrop', crop_size=(192, 192), allow_negative_crop=True, box_prob=0.75),
    dict(
        type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']
    ),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape'),
    ),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# Whole images take long to test: half a minute for one of 12 megapixels on a CPU core.
train_cfg = dict(val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300))
