"""Run folders: made whole or not at all, found by name, listed."""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from evo import faults, lease, replica
from evo.config import Config, ConfigError, UnavailableError
from evo.replica_lock import LOCK
from evo.storage import below, is_remote, lock_file, remove_empty, sync

DISTRIBUTIONS = (
    "meristem", "torch", "numpy", "scipy", "scikit-learn", "ray", "optuna", "pandas", "pyarrow", "mlflow", "pydantic",
    "safetensors",
)  # fmt: skip
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def create(kind: str, config: Config, **more: Any) -> tuple[Path, Config]:
    """A new run's folder with its run.json, and the config with its name filled in.

    The folder is built under a dot-name and renamed, so whoever sees it sees all of it, and of two runs that want one
    name only one gets it. In a bucket run.json is what only one gets, and the folder is this machine's replica. Raises
    ConfigError where a name that was asked for is taken or is no name.
    """
    if is_remote(config.out):
        return _create_remote(kind, config, more)
    faults.point("run.begin")
    out = Path(config.out)
    wanted = checked_name(config.name) if config.name is not None else _name_of(config.task)
    parents_before = next(p for p in (out, *out.absolute().parents) if p.exists())
    out.mkdir(parents=True, exist_ok=True)
    draft = out / f".{wanted}.{os.getpid()}"
    try:
        for attempt in range(1, 1000 if config.name is None else 2):
            name = wanted if attempt == 1 else f"{wanted}-{attempt}"
            named = config.model_copy(update={"name": name})
            draft.mkdir(exist_ok=True)
            _write(draft / "run.json", {**describe(kind, named), **more})
            try:
                # Where another folder bears the name, this fails, for none is empty.
                draft.rename(out / name)
            except OSError as err:
                if err.errno not in _TAKEN:
                    raise
                continue
            sync(out)
            faults.point("run.written")
            return out / name, named
        raise _taken(str(out / wanted), wanted)
    except (OSError, ConfigError):
        shutil.rmtree(draft, ignore_errors=True)
        remove_empty(out, parents_before)
        raise


def amend(folder: Path, info: Mapping[str, Any]) -> None:
    """Puts another run.json in the place of a run's, whole or not at all. Call it while the run is `locked`."""
    if (held := replica.of(folder)) is not None:
        held.store.replace(replica.INFO, _json(info))
    draft = folder / f".run.json.{os.getpid()}"
    try:
        _write(draft, info)
        draft.replace(folder / "run.json")
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync(folder)
    faults.point("run.amended")


def _create_remote(kind: str, config: Config, more: Mapping[str, Any]) -> tuple[Path, Config]:
    wanted = checked_name(config.name) if config.name is not None else _name_of(config.task)
    for attempt in range(1, 1000 if config.name is None else 2):
        named = config.model_copy(update={"name": wanted if attempt == 1 else f"{wanted}-{attempt}"})
        assert named.name is not None
        folder = replica.claim(config.out, named.name, _json({**describe(kind, named), **more}))
        if folder is not None:
            faults.point("run.written")
            return folder, named
    uri = below(config.out, wanted)
    raise _taken(uri, uri)


def _taken(place: str, run: str) -> ConfigError:
    return ConfigError(
        f"name: expected one that is free, but {place!r} is there already; "
        f"write another --name, or go on with `evo resume {run}`"
    )


def describe(kind: str, config: Config) -> dict[str, Any]:
    """Enough to run it again: config, versions, revision, processor."""
    return {
        "name": config.name,
        "kind": kind,
        "task": config.task,
        "seed": config.seed,
        "config": config.model_dump(mode="json"),
        "versions": versions(),
        "processor": processor(),
        "git": git_revision(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def find(run: str | os.PathLike[str], out: str | os.PathLike[str] = "runs") -> Path:
    """The folder of a run, given that folder or its name under `out`; of one in a bucket, an up-to-date replica.

    Raises ConfigError where there is none, and StorageError for a bucket that cannot be read.
    """
    if (uri := replica.remote(run, out)) is not None:
        found = replica.opened(uri)
        if found is None:
            above, name = replica.split(uri)
            close = difflib.get_close_matches(name, replica.names(above), n=1)
            cure = f"write {close[0]}" if close else f"`evo runs --out '{above}'` lists those that are"
            raise ConfigError(f"run: there is no run {name!r} in {above!r}; {cure}")
        return found
    for folder in (Path(run), Path(out) / run):
        if (folder / "run.json").exists():
            return folder
    names = [folder.name for folder in folders(out)]
    close = difflib.get_close_matches(Path(run).name, names, n=1)
    cure = f"write {close[0]}" if close else "`evo runs` lists them"
    raise ConfigError(f"run: there is no run {str(run)!r}, neither as a folder nor in {str(out)!r}; {cure}")


def folders(out: str | os.PathLike[str] = "runs") -> list[Path]:
    """Every folder of a run under `out`, by name; of a bucket, up-to-date replicas."""
    if is_remote(out):
        held = (replica.opened(below(out, name)) for name in replica.names(str(out)))
        return [folder for folder in held if folder is not None]
    if not Path(out).is_dir():
        return []
    return sorted(f for f in Path(out).iterdir() if not f.name.startswith(".") and (f / "run.json").is_file())


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Callable[[], None]]:
    """Keeps a second process from working on the same run. Ends with the process, however that ends.

    Raises UnavailableError where another one is at work on it. So does what it gives once another one has taken the
    run over, as may happen in a bucket.
    """
    with contextlib.ExitStack() as opened:
        with replica.settled(folder):
            lock = opened.enter_context(lock_file(folder / LOCK))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UnavailableError(
                    f"run: expected {folder.name} to be at rest, but another process is at work on it; "
                    "wait for that one, or stop it with Ctrl-C"
                ) from None
        found = replica.of(folder)
        if found is None:
            yield lambda: None
            return
        with lease.held(found.store) as mine:
            yield mine.check


def discard(folder: Path) -> None:
    """Removes the folder of a run that came to nothing: one without a single event."""
    if not any((folder / "events").glob("*.parquet")):
        replica.discard(folder)
        shutil.rmtree(folder, ignore_errors=True)


def versions() -> dict[str, str]:
    """Python's and those of every library that results depend on, as installed."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def processor() -> str:
    """The type of CPU: results repeat bit for bit on one type."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{platform.machine()} {line.partition(':')[2].strip()}"
    return f"{platform.machine()} {platform.processor()}".strip()


def git_revision() -> str | None:
    """Of this package's own repository, `+` appended where files differ from it; None where it is not in one."""
    home = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(home), *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        # Installed into an environment inside somebody's repository, that repository says nothing about us.
        if Path(git("rev-parse", "--show-toplevel")) != home:
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or name in ("mlflow.db", "mlartifacts", "queue"):
        raise ConfigError(
            f"name: expected up to 100 letters, digits, '.', '_' and '-', a letter or digit first, got {name[:110]!r}; "
            "write for example name: first-try"
        )
    return name


def _name_of(task: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', task).strip('-') or 'run'}-{datetime.now():%Y%m%d-%H%M%S}"


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with path.open("wb") as file:
        file.write(_json(content))
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
