"""Functions from outside of the package: which are, and what goes wrong in them, in one line that names them."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar

import torch

T = TypeVar("T")

PACKAGES = frozenset({"search_spaces", "tournaments", "evo"})
CURE = "mend it, or leave it out"
LONGEST = 300


def ours(function: Callable[..., Any]) -> bool:
    """Whether it is one of the package's own, which are asked as they are."""
    # A user's function that wraps one of ours takes over its module's name, but not its globals.
    home = getattr(function, "__globals__", {}).get("__name__") or getattr(function, "__module__", "")
    return str(home).partition(".")[0] in PACKAGES


def asked(said: str, function: Callable[..., T], *given: Any, error: type[ValueError] = ValueError) -> T:
    """What it returns. said: the setting and the name under which it was asked for.

    Raises `error` with whatever it raised inside; want of memory is nobody's mistake and stays what it is.
    """
    try:
        return function(*given)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as err:  # whatever a user's function does
        raise error(f"{said} failed with {shown(err, LONGEST)}; {CURE}") from err


def shown(value: object, longest: int = 60) -> str:
    """The value on one line of a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= longest else f"{text[:longest]} ..."


def number(value: object) -> TypeGuard[float]:
    """Whether it is a real number, Python's or NumPy's; Python counts True as 1, this does not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
