"""Values of the text config _base_/models/retinanet_r50_fpn, for `with read_base()`."""

globals().update(
    __import__('ghmdet').config.shipped.shipped_values('_base_/models/retinanet_r50_fpn')
)
