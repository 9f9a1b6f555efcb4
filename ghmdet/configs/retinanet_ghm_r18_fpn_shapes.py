"""Values of the text config retinanet_ghm_r18_fpn_shapes, for `with read_base()`."""

globals().update(__import__('ghmdet').config.shipped.shipped_values('retinanet_ghm_r18_fpn_shapes'))
