"""Weights and the state of a run in files.

Importing this package installs the loaders of checkpoints and the workarounds of `compat`.
"""

from ghmdet import compat
from ghmdet.checkpoint.download import register_loaders
from ghmdet.checkpoint.pretrained import Pretrained

__all__ = ['Pretrained']

compat.apply()
register_loaders()
