"""Seals: a digest inside a Parquet file over all of its other bytes.

Parquet's own checksums cover pages, not the footer that says where they lie and what they mean: one in seventy of the
bits of a file of events could be flipped and was read as another figure. The digest stands between the pages and the
footer, where no reader of Parquet looks.
"""

from __future__ import annotations

import hashlib

_MARK = b"sha256="
_LENGTH = len(_MARK) + 64
_END = 8
"""The footer's length and the magic behind it."""


def sealed(data: bytes) -> bytes:
    """The file with its digest in it. data: a whole Parquet file."""
    at = _footer(data)
    return data[:at] + _MARK + hashlib.sha256(data).hexdigest().encode() + data[at:]


def broken(data: bytes) -> bool:
    """Whether the bytes are not those that were sealed. A file without a seal, from before there were any, passes."""
    end = _footer(data)
    at = end - _LENGTH
    if at < 0 or data[at : at + len(_MARK)] != _MARK:
        return False
    return hashlib.sha256(data[:at] + data[end:]).hexdigest().encode() != data[at + len(_MARK) : end]


def _footer(data: bytes) -> int:
    """Where the footer begins, if the bytes are Parquet."""
    return len(data) - _END - int.from_bytes(data[-_END : -_END + 4], "little")
