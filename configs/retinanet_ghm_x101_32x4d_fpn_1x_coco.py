# RetinaNet X-101-32x4d-FPN with GHM-C and GHM-R: COCO val2017 box AP 40.7 (published), 7.2 GB.
#   python tools/train.py configs/retinanet_ghm_x101_32x4d_fpn_1x_coco.py
_base_ = 'retinanet_ghm_r50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='ResNeXt',
        depth=101,
        groups=32,
        base_width=4,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnext101_32x4d'),
    )
)
