"""Values of the text config _base_/datasets/coco_detection, for `with read_base()`."""

globals().update(
    __import__('ghmdet').config.shipped.shipped_values('_base_/datasets/coco_detection')
)
