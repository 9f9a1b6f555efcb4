"""One module for each format that `to_coco.py` reads."""
