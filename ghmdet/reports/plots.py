"""What all charts share."""

from __future__ import annotations

COLORS = '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000'
"""Colours that colour-blind people can tell apart (Okabe and Ito); lines also differ in style."""
LINE_STYLES = '-', '--', '-.', ':'
