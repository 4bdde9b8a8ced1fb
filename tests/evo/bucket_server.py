"""A real S3 server on this machine's loopback, moto's: it can be stopped and started, and keeps what it holds."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import uuid
from collections.abc import Iterable, Iterator
from typing import Any
from unittest import mock

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip


class Silent(WSGIRequestHandler):
    def log_request(self, *_: Any) -> None:
        pass


class S3:
    """port: the same as long as this object lives. uri: of a bucket that exists."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = DomainDispatcherApplication(create_backend_app)
        self._one = threading.Lock()
        self._server: BaseWSGIServer | None = None
        self.port = 0
        self.name = f"bucket-{uuid.uuid4().hex[:8]}"  # moto keeps one set of buckets a process
        self.requests = 0
        self.start()
        self.client.create_bucket(Bucket=self.name)

    @property
    def client(self) -> Any:
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1", **keys)

    def uri(self, path: str = "") -> str:
        return f"s3://{self.name}{path}?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self.port, self._answer, threaded=True, request_handler=Silent)
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Nobody listens any more; connections that are open die with their next request."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], respond: Any) -> Iterable[bytes]:
        # moto looks for the key and writes it in two steps; S3 does it in one.
        with self._one:
            self.requests += 1
            return list(self._app(environ, respond))


@contextlib.contextmanager
def bucket() -> Iterator[S3]:
    """A server with an empty bucket, and credentials for it in the environment of this process and its children."""
    with mock.patch.dict(os.environ, ENVIRONMENT):
        server = S3()
        try:
            yield server
        finally:
            server.stop()
