# RetinaNet R-101-FPN with GHM-C and GHM-R: COCO val2017 box AP 39.1 (published), 6.0 GB.
#   python tools/train.py configs/retinanet_ghm_r101_fpn_1x_coco.py
_base_ = 'retinanet_ghm_r50_fpn_1x_coco.py'

model = dict(
    backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'))
)
