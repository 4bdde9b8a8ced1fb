"""The address of a Ray cluster, and a knock at its door: who answers, which Ray, and whether it knows our token.

Ray itself tries a closed door for half a minute to two, and tells of it in pages. A knock takes a tenth of a second.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import socket
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import services
from ray._private.authentication import authentication_token_setup as tokens

from evo.config import ConfigError, UnavailableError

REMOTE = "ray://"
MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
PATIENCE = 5.0

SAME_TOKEN = (
    f"set {MODE}=token and {TOKEN} to the cluster's token, or put it into ~/.ray/auth_token; "
    "`ray get-auth-token` prints it on the head"
)


@dataclass(frozen=True)
class Door:
    """remote: a server for clients (`ray://`), which needs no Ray on this machine; else the cluster's own address."""

    host: str
    port: int
    remote: bool

    @property
    def text(self) -> str:
        return f"{REMOTE if self.remote else ''}{self.host}:{self.port}"


def is_remote(address: str | None) -> bool:
    """Whether the search's driver is to run on the cluster, because this machine is none of its nodes."""
    return address is not None and address.startswith(REMOTE)


def door(address: str) -> Door:
    """Where to go. Raises UnavailableError where `auto` finds no cluster on this machine."""
    if address == "auto":
        services.find_gcs_addresses.cache_clear()  # type: ignore[attr-defined]
        found = None
        with contextlib.suppress(ConnectionError):
            found = services.canonicalize_bootstrap_address("auto", None)
        if found is None:
            raise UnavailableError(
                "address: expected a Ray cluster that this machine is a node of, but 'auto' found none; start one with "
                "`ray start --head`, write --address ray://HOST:10001, or leave --address out"
            )
        address = str(found)
    host, _, port = address.removeprefix(REMOTE).rpartition(":")
    return Door(host, int(port), address.startswith(REMOTE))


def knock(at: Door) -> None:
    """Returns where the cluster lets us in, with token authentication switched on in this process if it asks for it.

    Raises UnavailableError where nothing listens there, and ConfigError where the token is missing or wrong, or the
    cluster runs another Ray.
    """
    try:
        socket.create_connection((at.host.strip("[]"), at.port), PATIENCE).close()
    except (OSError, OverflowError) as err:
        told = getattr(err, "strerror", None) or err
        start = "the head serves ray:// at port 10001" if at.remote else "`ray start --head` prints it"
        raise UnavailableError(
            f"address: expected a Ray cluster, but nothing listens at {at.text} ({told}); check the address ({start}), "
            "and that its port is open to this machine"
        ) from None
    answer = _ask(at, None)
    if answer is _UNKNOWN:
        return  # no gRPC for Python here: Ray will tell by itself, if slowly
    mode = os.environ.get(MODE, "").lower()
    if answer is _REFUSED:
        _show_token(at, mode)
        answer = _ask(at, _token())
    elif mode == "token" and not _token():
        # Ray would make no connection, though the cluster asks for no token.
        raise ConfigError(
            f"address: {MODE}=token, but this process has no token; unset it, for {at.text} asks for none, "
            f"or {SAME_TOKEN}"
        )
    if isinstance(answer, str) and answer and answer != ray.__version__:
        raise other_versions(at.text, f"Ray {answer}")


def other_versions(where: str, theirs: str) -> ConfigError:
    """What is told where Ray or Python differ between this process and the cluster."""
    ours = f"Ray {ray.__version__}, Python {platform.python_version()}"
    return ConfigError(
        f"address: expected the cluster's versions, but {where} runs {theirs}, and this process {ours}; install the "
        "same on both sides (pip install -c constraints.txt)"
    )


def _show_token(at: Door, mode: str) -> None:
    """Switches token authentication on, where there is a token that the cluster takes."""
    if mode == "disabled":
        raise ConfigError(f"address: {at.text} asks for a token, but {MODE}=disabled here; {SAME_TOKEN}")
    token = _token()
    if not token:
        raise ConfigError(f"address: {at.text} asks for a token, and this process has none; {SAME_TOKEN}")
    if _ask(at, token) is _REFUSED:
        raise ConfigError(
            f"address: {at.text} does not know the token of this process (InvalidAuthToken); {SAME_TOKEN}"
        )
    if mode != "token":
        tokens._enable_token_auth()


def _token() -> str:
    """As Ray finds it: in the environment, in the file that the environment names, or in ~/.ray/auth_token."""
    loader: Any = importlib.import_module("ray._raylet").AuthenticationTokenLoader.instance()
    if not loader.has_token(ignore_auth_mode=True):
        loader.reset_cache()  # it remembers that there was none
    token = loader.get_raw_token(ignore_auth_mode=True) if loader.has_token(ignore_auth_mode=True) else None
    return str(token or "")


_REFUSED, _UNKNOWN = object(), object()


def _ask(at: Door, token: str | None) -> Any:
    """The cluster's version of Ray, "" where it does not say; `_REFUSED`, or `_UNKNOWN` where it cannot be asked."""
    try:
        grpc: Any = importlib.import_module("grpc")
        gcs: Any = importlib.import_module("ray.core.generated.gcs_service_pb2")
        client: Any = importlib.import_module("ray.core.generated.ray_client_pb2")
    except ImportError:
        return _UNKNOWN
    if at.remote:
        path, read = "/ray.rpc.RayletDriver/ClusterInfo", client.ClusterInfoResponse
        request = client.ClusterInfoRequest(type=client.ClusterInfoType.PING)
    else:
        path, read = "/ray.rpc.NodeInfoGcsService/CheckAlive", gcs.CheckAliveReply
        request = gcs.CheckAliveRequest()
    metadata = [("client_id", "evo"), *([("authorization", f"Bearer {token}")] if token else [])]
    with grpc.insecure_channel(f"{at.host}:{at.port}") as channel, contextlib.suppress(grpc.FutureTimeoutError):
        grpc.channel_ready_future(channel).result(PATIENCE)
        ask = channel.unary_unary(path, type(request).SerializeToString, read.FromString)
        try:
            answer = ask(request, timeout=PATIENCE, metadata=metadata)
        except grpc.RpcError as err:
            return _REFUSED if err.code() == grpc.StatusCode.UNAUTHENTICATED else _UNKNOWN
        return str(getattr(answer, "ray_version", ""))
    return _UNKNOWN
