# RetinaNet R-50-FPN with GHM-C and GHM-R: COCO val2017 box AP 37.0 (published), 4.0 GB.
#   python tools/train.py configs/retinanet_ghm_r50_fpn_1x_coco.py
# The learning rate is for a total batch size of 16 (8 GPUs x 2); for another add --auto-scale-lr.
_base_ = 'retinanet_r50_fpn_1x_coco.py'

model = dict(
    bbox_head=dict(
        loss_cls=dict(
            _delete_=True, type='GHMC', bins=30, momentum=0.75, use_sigmoid=True, loss_weight=1.0
        ),
        loss_bbox=dict(
            _delete_=True, type='GHMR', mu=0.02, bins=10, momentum=0.7, loss_weight=10.0
        ),
    )
)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
