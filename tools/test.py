"""Evaluate a checkpoint: python tools/test.py CONFIG CHECKPOINT. The program is `ghmdet.test`."""

from ghmdet.config.cli import run
from ghmdet.test import main

if __name__ == '__main__':
    run(main)
