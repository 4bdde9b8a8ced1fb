"""How often something fired, and whether that is what was stated."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np


def rate(fired: Iterable[bool]) -> float:
    """Share of the true."""
    return float(np.mean(list(fired)))


def near(found: float, stated: float, n: int) -> bool:
    """Whether a rate found in n trials agrees with the one stated, to a tenth of it: ranks and counts are whole."""
    return abs(found - stated) < 3.5 * math.sqrt(stated * (1 - stated) / n) + 0.1 * stated
