_base_ = '../retinanet_ghm_x101_64x4d_fpn_1x_coco.py'
