"""What may be over later is told from what is wrong, also when it comes from another process."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import pytest

from evo import replica_lock
from evo.config import ConfigError, UnavailableError
from evo.network_trial import portable
from evo.recorder import Fenced, RecordError
from evo.storage import StorageError, StoreAwayError
from evo.transient import transient


def raised_from(error: Exception, cause: Exception) -> Exception:
    try:
        raise error from cause
    except Exception as found:
        return found


FULL = OSError(errno.ENOSPC, "No space left on device")
LATER = [
    FULL,
    ConnectionResetError(errno.ECONNRESET, "reset"),
    TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
    UnavailableError("wait: the cluster stayed full"),
    StoreAwayError("s3://b: the store cannot be used"),
    Fenced("n000: another writer"),
    raised_from(RecordError("events: cannot be written"), FULL),
    raised_from(StorageError("queue: cannot be used"), OSError(errno.ESTALE, "Stale file handle")),
    raised_from(replica_lock.told(Path("x"), FULL), FULL),
]
WRONG = [
    ConfigError("seed: expected a number"),
    StorageError("s3://b: create the bucket"),
    RecordError("n000-000003.parquet: damaged"),
    FileNotFoundError(errno.ENOENT, "No such file"),
    PermissionError(errno.EACCES, "Permission denied"),
    OSError(errno.EROFS, "Read-only file system"),
    # Ray tells of a wrong token so.
    raised_from(ConfigError("address: refuses the token"), ConnectionError("InvalidAuthToken")),
]


@pytest.mark.parametrize(("error", "later"), [(e, True) for e in LATER] + [(e, False) for e in WRONG], ids=repr)
def test_what_may_be_over_later(error: Exception, later: bool) -> None:
    assert transient(error) is later
    # In a network's process it is made plain, and its cause stays behind.
    assert transient(pickle.loads(pickle.dumps(portable(error)))) is later
