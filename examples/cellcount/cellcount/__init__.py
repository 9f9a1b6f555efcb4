"""Cells in microscope images. Importing the package registers its parts with ghmdet."""

from cellcount.dataset import CellDataset
from cellcount.network import AddDown, PlainNet

__all__ = ['AddDown', 'CellDataset', 'PlainNet']
