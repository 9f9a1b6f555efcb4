"""Train a detector: python tools/train.py CONFIG. The program is `ghmdet.train`."""

from ghmdet.config.cli import run
from ghmdet.train import main

if __name__ == '__main__':
    run(main)
