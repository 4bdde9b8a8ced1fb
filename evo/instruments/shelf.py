"""The shelf: every finished job of an instrument in one file of JSON lines, each appended and synced at once.

The same command on the same file goes on: jobs that are done are not done again. A line holds the job's key, label and
seed, the revision of the code that lived it, its outcome, and its last network where other jobs take that up. Jobs of
another revision are not done again either, as that may be dear: `mixed` says where a result rests on some.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evo import run_folder
from evo.config import ConfigError
from evo.instruments.jobs import Files, Job, Outcome

JOBS = "jobs.jsonl"
UNKNOWN = "unknown"
"""The revision of a line from before lines told theirs."""


@functools.cache
def revision() -> str:
    """Of the code that this process runs: git's, with `+` where files differ from it, or else the package's version."""
    version = run_folder.versions().get("meristem")
    return run_folder.git_revision() or (UNKNOWN if version is None else f"version {version}")


class Shelf:
    """The finished jobs of one file, by key. One process writes it. Raises ConfigError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._outcomes: dict[str, Outcome] = {}
        self._files: dict[str, Files] = {}
        self._revisions: dict[str, str] = {}
        self._own = revision()
        if self.path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._outcomes)

    def get(self, key: str) -> Outcome | None:
        return self._outcomes.get(key)

    def files(self, key: str) -> Files | None:
        """The last network of a finished job, where it was kept."""
        return self._files.get(key)

    def mixed(self, keys: Iterable[str]) -> str | None:
        """A sentence where some of these finished jobs were lived by other code than this process runs, else None.

        Two states of files that git does not hold look alike: both are the same revision and `+`.
        """
        used, own = [self._revisions[key] for key in dict.fromkeys(keys)], self._own
        others = Counter(told for told in used if told != own or told == UNKNOWN)
        if not others:
            return None
        told = ", ".join(f"{count} by {_short(name)}" for name, count in sorted(others.items()))
        return (
            f"{others.total()} of {len(used)} jobs were lived by other revisions of the code than this one, "
            f"{_short(own)}: {told}; another --name lives all of them anew"
        )

    def done(self, job: Job) -> bool:
        return job.key in self._outcomes and (not job.keeps or job.key in self._files)

    def put(self, job: Job, outcome: Outcome, files: Files) -> None:
        """Durable when this returns."""
        line: dict[str, Any] = {
            "key": job.key, "label": job.label, "seed": job.seed, "revision": self._own,
            "outcome": dataclasses.asdict(outcome),
        }  # fmt: skip
        if files:
            line["files"] = {name: base64.b64encode(content).decode() for name, content in files.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(json.dumps(line, separators=(",", ":"), allow_nan=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._outcomes[job.key], self._revisions[job.key] = outcome, self._own
        if files:
            self._files[job.key] = files

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            # A process was killed in the middle of its last line: that job is done again.
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                told = json.loads(line)
                self._outcomes[told["key"]] = Outcome(**told["outcome"])
                self._revisions[told["key"]] = str(told.get("revision", UNKNOWN))
                if "files" in told:
                    self._files[told["key"]] = {k: base64.b64decode(v) for k, v in told["files"].items()}
            except (ValueError, KeyError, TypeError) as err:
                raise ConfigError(
                    f"{self.path}, line {number}: expected a finished job, got what is none ({err}); "
                    "take the line out, or write another --name"
                ) from err


def _short(revision: str) -> str:
    """As people quote it."""
    digits = revision.rstrip("+")
    if len(digits) == 40 and all(c in "0123456789abcdef" for c in digits):
        return digits[:10] + revision[40:]
    return "an unknown one" if revision == UNKNOWN else revision
