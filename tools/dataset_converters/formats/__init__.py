"""One module for each format that `to_coco.py` reads.

A reader has `NAME`, `recognise(source) -> str` (why a source is of this format, '' if it is not)
and `read(source, images) -> Export`.
"""

from ghmdet.config.cli import LazyModule

_MODULES = {'csv': 'csv_tables', 'coco': 'coco_json', 'images': 'images_only'}
_FORMATS = 'voc yolo labelme cvat labelstudio csv via createml openimages coco images'
READERS = {name: LazyModule(f'formats.{_MODULES.get(name, name)}') for name in _FORMATS.split()}
"""By the name that `--from` takes."""
