"""Values of the text config retinanet_r18_fpn_small, for `with read_base()`."""

globals().update(__import__('ghmdet').config.shipped.shipped_values('retinanet_r18_fpn_small'))
