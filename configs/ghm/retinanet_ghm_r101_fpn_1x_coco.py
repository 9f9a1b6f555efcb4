_base_ = '../retinanet_ghm_r101_fpn_1x_coco.py'
