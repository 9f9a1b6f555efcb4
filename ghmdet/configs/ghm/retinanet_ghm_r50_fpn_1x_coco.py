"""Values of the text config ghm/retinanet_ghm_r50_fpn_1x_coco, for `with read_base()`."""

globals().update(
    __import__('ghmdet').config.shipped.shipped_values('ghm/retinanet_ghm_r50_fpn_1x_coco')
)
