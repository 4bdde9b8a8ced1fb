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


def transient(error: BaseException) -> bool:
    """Whether this may be over later: by its class, or for what the system said that it was raised from."""
    if isinstance(error, TransientError):
        return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _PASSING:
            return True
        cause = cause.__cause__
    return False
