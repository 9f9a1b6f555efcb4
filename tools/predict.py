"""Detect in images: python tools/predict.py CONFIG CHECKPOINT SOURCE...: see `ghmdet.predict`."""

from ghmdet.config.cli import run
from ghmdet.predict import main

if __name__ == '__main__':
    run(main)
