"""Messages that give advice, provoked, and the advice followed.

`tests/contracts/test_advice.py` checks that no message is left out.
"""

from __future__ import annotations

import pytest


def advice(part, *values):
    """A row of a table: part of the text of a message, and the values of the other parameters.

    {} stands for what is formatted into the text.
    """
    return pytest.param(part, *values, id=part)
