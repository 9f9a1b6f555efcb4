# RetinaNet R-18-FPN with GHM-C and GHM-R on BCCD (364 photographs of blood cells), from scratch.
#   python tools/dataset_converters/pascal_voc.py PATH/TO/BCCD --out data/bccd --allow-skipped
#   python tools/train.py configs/retinanet_ghm_r18_fpn_bccd.py
# One process, batch size 8, float32. The stem is frozen at its initial values (frozen_stages=0), as
# in the run of MMDetection that this one is compared with.
_base_ = 'retinanet_ghm_r50_fpn_1x_coco.py'

classes = ('WBC', 'RBC', 'Platelets')
data_root = 'data/bccd/'
scale = (320, 240)

model = dict(
    backbone=dict(depth=18, frozen_stages=0, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512]),
    bbox_head=dict(num_classes=len(classes)),
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
dataset = dict(
    data_root=data_root, metainfo=dict(classes=classes), data_prefix=dict(img='JPEGImages/')
)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(ann_file='annotations/train.json', pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    batch_size=8,
    dataset=dict(ann_file='annotations/val.json', pipeline=test_pipeline, **dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(classwise=True)
test_evaluator = val_evaluator
tta_pipeline = None  # the default: the image and the flipped image

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[9, 11], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=2, save_best='coco/bbox_mAP')
)
randomness = dict(seed=0)
