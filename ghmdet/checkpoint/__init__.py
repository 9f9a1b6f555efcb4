"""Weights and the state of a run in files.

Importing it replaces mmengine's checkpoint loaders (see `download.register_loaders`), registers
`Pretrained` and applies the workarounds of `ghmdet.compat`.
"""

from ghmdet import compat
from ghmdet.checkpoint.download import register_loaders
from ghmdet.checkpoint.pretrained import Pretrained

__all__ = ['Pretrained', 'register_loaders']

compat.apply()
register_loaders()
