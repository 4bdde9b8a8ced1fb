"""Buckets: stores on whatever pyarrow reaches beyond this machine's folders, above all on S3.

Listing, replacing and removing are pyarrow's. What pyarrow does not know is the object store's own library's: to create
a name only where there is none, and to read in one request what others may be replacing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
import urllib.parse
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from pyarrow import fs

from evo.config import ConfigError
from evo.storage import StorageError, StoreAwayError, checked

T = TypeVar("T")

PATIENCE = float(os.environ.get("MERISTEM_STORE_PATIENCE", "60"))
"""Seconds for which an operation on a store that does not answer is tried again."""

_LIBRARIES = ("botocore", "boto3", "google", "requests", "urllib3")
"""Whose errors are the store's, beside every OSError: pyarrow's are such."""

_FINAL = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "EXPIRED_TOKEN")
"""What in pyarrow's words no second try would mend."""


@dataclass(frozen=True)
class Bucket:
    """A store on any file system of pyarrow's; it can create where `CREATE` says how."""

    uri: str

    def create(self, name: str, data: bytes) -> bool:
        if self._scheme not in CREATE:
            raise ConfigError(
                f"out: expected a file system on which the first writer wins ({', '.join(CREATE)}), got {self._scheme} "
                f"in {self.uri!r}; write one of those with --out, and copy the finished run there"
            )
        return CREATE[self._scheme](self, self._path(name), data)

    def replace(self, name: str, data: bytes) -> None:
        path = self._path(name)

        def put() -> None:
            with self._system.open_output_stream(path) as stream:
                stream.write(data)

        self.patiently(put)

    def read(self, name: str) -> bytes:
        """As one writer left it: on what others write to meanwhile, in one request."""
        path = self._path(name)
        return self.patiently(lambda: READ.get(self._scheme, _read)(self, path))

    def names(self, prefix: str = "") -> list[str]:
        top = "/".join(filter(None, (self._top, prefix.rpartition("/")[0])))
        found = self.patiently(
            lambda: self._system.get_file_info(fs.FileSelector(top, allow_not_found=True, recursive=True))
        )
        cut = len(self._top) + 1
        names = (info.path[cut:] for info in found if info.type == fs.FileType.File)
        return sorted(name for name in names if name.startswith(prefix) and "/." not in f"/{name}")

    def remove(self, name: str) -> None:
        path = self._path(name)
        with contextlib.suppress(FileNotFoundError):
            self.patiently(lambda: self._system.delete_file(path))

    def patiently(self, work: Callable[[], T]) -> T:
        """Does it, again and again while the store does not answer, for `PATIENCE` seconds at most."""
        end, pause = time.monotonic() + PATIENCE, 0.1
        while True:
            try:
                return work()
            except Exception as error:
                home = type(error).__module__.partition(".")[0]
                if isinstance(error, FileNotFoundError) or not (isinstance(error, OSError) or home in _LIBRARIES):
                    raise
                if _final(error) or time.monotonic() + pause > end:
                    raise self._gone(error) from error
            time.sleep(pause * random.uniform(0.5, 1.0))  # only when, never what
            pause = min(2 * pause, 10.0)

    def _gone(self, error: Exception) -> StorageError:
        told = " ".join(str(error).split())[:300]
        bare = self.uri.partition("?")[0]
        if _final(error):
            cure = "create the bucket, or give the credentials that may use it"
            return StorageError(f"{bare}: the store cannot be used ({told}); {cure}")
        cure = (
            f"it was tried for {PATIENCE:g} s; nothing that was committed is lost: see to it and try again, a run by "
            "`evo resume RUN`"
        )
        return StoreAwayError(f"{bare}: the store cannot be used ({told}); {cure}")

    @property
    def _scheme(self) -> str:
        return self.uri.partition("://")[0]

    @cached_property
    def _system(self) -> fs.FileSystem:
        return self._opened[0]

    @cached_property
    def _top(self) -> str:
        return self._opened[1]

    @cached_property
    def _opened(self) -> tuple[fs.FileSystem, str]:
        try:
            if self._scheme == "s3":
                parts, asked = self.asked
                settings = {"region": asked.get("region"), "endpoint_override": asked.get("endpoint_override")}
                system = fs.S3FileSystem(
                    scheme=asked.get("scheme", "https"), **{k: v for k, v in settings.items() if v},
                    retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1), allow_delayed_open=True,
                    connect_timeout=10, request_timeout=60,
                )  # fmt: skip
                path = f"{parts.netloc}{urllib.parse.unquote(parts.path)}"
            else:
                system, path = fs.FileSystem.from_uri(self.uri)
        except (OSError, ValueError, NotImplementedError) as error:
            told = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"out: expected a folder, or an address such as s3://bucket/runs, got {self.uri!r} ({told}); correct it"
            ) from error
        return system, path.strip("/")

    @cached_property
    def asked(self) -> tuple[urllib.parse.SplitResult, dict[str, str]]:
        """The address, and what it and the environment say of region, scheme and endpoint_override."""
        parts = urllib.parse.urlsplit(self.uri)
        asked = dict(urllib.parse.parse_qsl(parts.query))
        if unknown := asked.keys() - {"region", "scheme", "endpoint_override"}:
            raise ConfigError(
                f"out: expected of s3 no more than region, scheme and endpoint_override, got {sorted(unknown)[0]!r} in "
                f"{self.uri!r}; leave it out"
            )
        known = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if "endpoint_override" not in asked and known:
            scheme, _, place = known.rpartition("://")
            asked |= {"endpoint_override": place.rstrip("/"), "scheme": scheme or "https"}
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if "region" not in asked and (region or "endpoint_override" in asked):
            asked["region"] = region or "us-east-1"
        return parts, asked

    @cached_property
    def s3(self) -> Any:
        """boto3's client: pyarrow knows no condition on what it writes."""
        try:
            import boto3
            from botocore.config import Config as Options
        except ImportError:
            raise ConfigError("out: s3 needs the package boto3; pip install 'meristem[s3]'") from None
        asked = self.asked[1]
        endpoint = asked.get("endpoint_override")
        return boto3.client(
            "s3", region_name=self._system.region or None,
            endpoint_url=endpoint and f"{asked.get('scheme', 'https')}://{endpoint}",
            # Tries are counted here, where an answer that was lost on its way is known from a name that was taken.
            config=Options(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=60),
        )  # fmt: skip

    @cached_property
    def gs(self) -> Any:
        """The client of Google's storage, for the same reason."""
        try:
            from google.cloud import storage
        except ImportError:
            raise ConfigError("out: gs needs the package google-cloud-storage; pip install 'meristem[gs]'") from None
        return storage.Client()

    def _path(self, name: str) -> str:
        return f"{self._top}/{checked(name)}"


def _final(error: Exception) -> bool:
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return 400 <= status < 500 and status not in (408, 409, 429)
    named = type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError")
    return named or isinstance(error, PermissionError) or any(word in str(error) for word in _FINAL)


def _create_s3(store: Bucket, path: str, data: bytes) -> bool:
    bucket, _, key = path.partition("/")
    ours = uuid.uuid4().hex

    def put() -> bool:
        try:
            store.s3.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*", Metadata={"writer": ours})
        except store.s3.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
                raise
            # The answer to an earlier try may have been lost, and what stands there be ours.
            found = store.s3.head_object(Bucket=bucket, Key=key)
            return bool(found["Metadata"].get("writer") == ours)
        return True

    return store.patiently(put)


def _create_gs(store: Bucket, path: str, data: bytes) -> bool:
    bucket, _, key = path.partition("/")
    ours = uuid.uuid4().hex
    home = store.gs.bucket(bucket)
    from google.api_core.exceptions import PreconditionFailed

    def put() -> bool:
        blob = home.blob(key)
        blob.metadata = {"writer": ours}
        try:
            blob.upload_from_string(data, "application/octet-stream", if_generation_match=0)
        except PreconditionFailed:
            found = home.get_blob(key)
            return bool(found is not None and (found.metadata or {}).get("writer") == ours)
        return True

    return store.patiently(put)


def _read(store: Bucket, path: str) -> bytes:
    """pyarrow asks for the size first: it must not change between the two requests."""
    with store._system.open_input_stream(path) as stream:
        return bytes(stream.read())


def _read_s3(store: Bucket, path: str) -> bytes:
    bucket, _, key = path.partition("/")
    try:
        return bytes(store.s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    except store.s3.exceptions.NoSuchKey as error:
        raise FileNotFoundError(errno.ENOENT, "no such object", path) from error


def _read_gs(store: Bucket, path: str) -> bytes:
    bucket, _, key = path.partition("/")
    home = store.gs.bucket(bucket)
    from google.api_core.exceptions import NotFound

    try:
        return bytes(home.blob(key).download_as_bytes())
    except NotFound as error:
        raise FileNotFoundError(errno.ENOENT, "no such object", path) from error


READ: dict[str, Callable[[Bucket, str], bytes]] = {"s3": _read_s3, "gs": _read_gs, "gcs": _read_gs}
"""How an object is read whole while others replace it, by the scheme of an address."""

CREATE: dict[str, Callable[[Bucket, str, bytes], bool]] = {"s3": _create_s3, "gs": _create_gs, "gcs": _create_gs}
"""How the first of several writers wins, by the scheme of an address."""
