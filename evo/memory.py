"""Memory: work for which it does not suffice is done again in smaller parts, and the number of parts goes on record.

How much fits is found out by trying, so it is no property of a seed: the parts that were settled on are part of a life,
which a resume takes up and does not measure again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

ROWS = 8192
"""Samples that are looked at together, without gradients, where memory suffices."""

Work = Literal["training", "looking"]
Found = TypeVar("Found")

_SAID = ("can't allocate memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "HIP out of memory")


class ShortOfMemoryError(MemoryError):
    """Memory does not suffice for `work`, as it was cut."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)  # as it is made again from, where it comes from another process
        self.work = work

    def __str__(self) -> str:
        return f"memory does not suffice for {self.work}"


@dataclass(frozen=True)
class Parts:
    """training: parts of a batch, whose gradients are added up. looking: parts of ROWS, of what is only looked at."""

    training: int = 1
    looking: int = 1

    @property
    def rows(self) -> int:
        """Samples that are looked at together."""
        return max(1, ROWS // self.looking)

    def more(self, work: Work, batch: int) -> Parts | None:
        """Twice as many for this work; None where a part is a single sample already."""
        if getattr(self, work) >= (batch if work == "training" else ROWS):
            return None
        if work == "training":
            return dataclasses.replace(self, training=2 * self.training)
        return dataclasses.replace(self, looking=2 * self.looking)

    def with_all(self, other: Parts) -> Parts:
        """Enough for both."""
        return Parts(max(self.training, other.training), max(self.looking, other.looking))

    def told(self) -> str:
        return f"batches in {self.training} part{'s' * (self.training > 1)}, {self.rows} samples looked at together"


WHOLE = Parts()
"""What is tried first."""


@contextlib.contextmanager
def needed(work: Work) -> Iterator[None]:
    """Raises ShortOfMemoryError where memory runs out inside."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, ShortOfMemoryError) or not ran_out(error):
            raise
        raise ShortOfMemoryError(work) from error


def ran_out(error: BaseException | None) -> bool:
    """Whether it, or what it followed from (a capture that was broken off), tells of too little memory."""
    while error is not None:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(said in str(error) for said in _SAID):
            return True
        error = error.__cause__ or error.__context__
    return False


def fitted(parts: Parts, batch: int, work: Callable[[Parts], Found]) -> tuple[Found, Parts]:
    """What `work` comes to, and in which parts: in twice as many as often as memory does not suffice.

    Raises ShortOfMemoryError where it does not suffice for a single sample.
    """
    while True:
        try:
            return work(parts), parts
        except ShortOfMemoryError as short:
            more = parts.more(short.work, batch)
            if more is None:
                raise
        # Only here, with the error gone, is what its frames held free.
        parts = more
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
