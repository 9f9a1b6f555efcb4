# RetinaNet with this project's backbone, neck and dataset: ten seconds on one CPU core.
#   python -m cellcount.draw data/cells
#   python -m ghmdet.train configs/cells.py
_base_ = __import__('ghmdet').config_path('retinanet_ghm_r50_fpn_1x_coco')

custom_imports = dict(imports=['cellcount'])

classes = ('red', 'white')
data_root = 'data/cells/'
scale = (96, 96)
width = 32

model = dict(
    backbone=dict(_delete_=True, type='PlainNet', channels=[16, 32, 64]),
    neck=dict(_delete_=True, type='AddDown', in_channels=[16, 32, 64], out_channels=width),
    bbox_head=dict(
        num_classes=len(classes),
        in_channels=width,
        feat_channels=width,
        stacked_convs=1,
        anchor_generator=dict(octave_base_scale=3, strides=[4, 8, 16]),
        # The base's GHM-C with fewer bins; another loss in place of its GHM-R.
        loss_cls=dict(bins=10),
        loss_bbox=dict(_delete_=True, type='SmoothL1Loss', beta=0.11, loss_weight=5.0),
    ),
)

# The base's pipelines at another scale.
train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = scale
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = scale
dataset = dict(
    _delete_=True, type='CellDataset', data_root=data_root, metainfo=dict(classes=classes)
)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        ann_file='train.csv', data_prefix=dict(img='train/'), pipeline=train_pipeline, **dataset
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        ann_file='val.csv',
        data_prefix=dict(img='val/'),
        pipeline=test_pipeline,
        test_mode=True,
        **dataset,
    ),
)
test_dataloader = val_dataloader
# Without a COCO file the metric takes the ground truth from the samples.
val_evaluator = dict(_delete_=True, type='CocoMetric', classwise=True)
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=8, val_interval=4)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=2e-3))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=8, convert_to_iter_based=True)]
default_hooks = dict(logger=dict(interval=4), checkpoint=dict(save_best='coco/bbox_mAP'))
randomness = dict(seed=0)
