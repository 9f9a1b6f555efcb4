"""Export: python tools/export.py CONFIG CHECKPOINT --format onnx|pt2: see `ghmdet.export`."""

from ghmdet.config.cli import run
from ghmdet.export.__main__ import main

if __name__ == '__main__':
    run(main)
