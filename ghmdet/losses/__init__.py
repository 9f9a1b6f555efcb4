"""Losses: GHM-C and GHM-R, and the ones they are compared with.

Their constructors raise a ValueError that names a hyper-parameter out of its range.
"""

from .cross_entropy_loss import CrossEntropyLoss
from .focal_loss import FocalLoss
from .ghm_loss import GHMC, GHMR
from .smooth_l1_loss import L1Loss, SmoothL1Loss

__all__ = ['GHMC', 'GHMR', 'CrossEntropyLoss', 'FocalLoss', 'L1Loss', 'SmoothL1Loss']
