"""Values of the text config ghm/retinanet_ghm_x101_64x4d_fpn_1x_coco, for `with read_base()`."""

globals().update(
    __import__('ghmdet').config.shipped.shipped_values('ghm/retinanet_ghm_x101_64x4d_fpn_1x_coco')
)
