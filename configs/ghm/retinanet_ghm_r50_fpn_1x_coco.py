_base_ = '../retinanet_ghm_r50_fpn_1x_coco.py'
