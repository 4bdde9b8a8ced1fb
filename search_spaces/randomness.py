"""Random numbers, each stream keyed by what it is for: the same key gives the same numbers in any process."""

from __future__ import annotations

import hashlib
import operator

import numpy as np


def keyed(*key: int | str) -> np.random.Generator:
    """The stream of numbers that belongs to `key`, say `keyed("split", seed, "n003")`.

    The whole key is hashed, every part with its type and length: a SeedSequence pads short entropy with zeros and cuts
    large integers into words, so that (1,) and (1, 0), or (2**32,) and (0, 1), would share one stream.
    """
    if not key:
        raise ValueError("expected a key of integers and strings that says what the numbers are for, got none")
    digest = hashlib.blake2b(digest_size=16)
    for part in key:
        text = f"s{part}" if isinstance(part, str) else f"i{operator.index(part)}"
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    words = np.frombuffer(digest.digest(), dtype="<u4").tolist()
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
