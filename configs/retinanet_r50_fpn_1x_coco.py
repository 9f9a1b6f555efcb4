# RetinaNet R-50-FPN with focal loss, the baseline of the GHM models: COCO val2017 box AP 36.5.
#   python tools/train.py configs/retinanet_r50_fpn_1x_coco.py
# The learning rate is for a total batch size of 16 (8 GPUs x 2); for another add --auto-scale-lr.
_base_ = [
    '_base_/models/retinanet_r50_fpn.py',
    '_base_/datasets/coco_detection.py',
    '_base_/schedules/schedule_1x.py',
    '_base_/default_runtime.py',
]
optim_wrapper = dict(optimizer=dict(lr=0.01))
