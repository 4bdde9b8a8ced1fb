"""Trouble that may be over when the same is tried again later, and no mistake in what was asked for."""

from __future__ import annotations

import errno

_PASSING = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE,
    errno.EBUSY, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENETDOWN,
    errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOLCK,
})  # fmt: skip
"""Of a disk, a network or a machine that has no room or does not answer now. What is missing, forbidden or read-only is
a path that was written wrong, as far as a program can know.
"""


class TransientError(ValueError):
    """What is wrong may be over by itself: one line with what it is and how to go on."""


def transient(error: BaseException | None) -> bool:
    """Whether this error, or one that it was raised from, may be over later."""
    while error is not None:
        if isinstance(error, (TransientError, TimeoutError, ConnectionError)):
            return True
        if isinstance(error, OSError) and error.errno in _PASSING:
            return True
        error = error.__cause__
    return False
