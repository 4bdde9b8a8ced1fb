"""Commands look at the folders of `hostile_folders`: `python hostile.py FOLDER [SHARE]` tells what came of it.

Every command (or, with a SHARE, some) looks at each of them (or every so-manieth), in a fork of its own.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from hostile_contents import MARKUP
from hostile_folders import CRAFTED

SECONDS = 40
LARGEST_RISE = 900 << 10
"""KB of memory that a command may take beyond what the process held before."""

COMMANDS: dict[str, list[str]] = {
    "show": ["show", "RUN", "--network", "all"],
    "show --json": ["show", "RUN", "--json"],
    "runs": ["runs", "--out", "OUT"],
    "export": ["export", "RUN"],
    "report": ["report", "RUN"],
    "predict": ["predict", "RUN", "--data", "DATA"],
    "ensemble": ["ensemble", "RUN"],
    "status": ["status", "RUN"],
    "drain": ["drain", "OUT"],
    "resume": ["resume", "RUN"],
}


def look(command: list[str], run: Path, data: Path, told: Path) -> dict[str, Any]:
    """What a command says of a run: exit code (None where it hung), its output, and how much memory it took more."""
    names = {"RUN": str(run), "OUT": str(run.parent), "DATA": str(data)}
    words = [names.get(word, word) for word in command]
    pid = os.fork()
    if pid == 0:
        _command(words, told)
    until, status, usage = time.monotonic() + SECONDS, 0, None
    while time.monotonic() < until:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.005)
    else:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return {"code": None, "out": "", "err": "", "rise": 0}
    out, err = (told.with_suffix(end).read_text(errors="replace") for end in (".out", ".err"))
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    assert usage is not None
    rise = usage.ru_maxrss - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"code": code, "out": out, "err": err, "rise": rise}


def _command(words: list[str], told: Path) -> None:
    """Never returns."""
    from evo import cli, mlflow_ui

    code = 70
    try:
        for number, end in ((1, ".out"), (2, ".err")):
            file = os.open(told.with_suffix(end), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(file, number)
        sys.argv = ["evo", *words]
        sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(n, "wb"), encoding="utf-8") for n in (1, 2))
        if words[0] == "drain":  # what `evo ui` does before it serves
            mlflow_ui.drain_all(Path(words[1]))
            code = 0
        else:
            cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def state_of(folder: Path) -> dict[str, str]:
    """Everything in a folder, to see whether it is as it was."""
    return {str(path.relative_to(folder)): path.read_bytes().hex() if path.is_file() else "folder"
            for path in sorted(folder.rglob("*"))}  # fmt: skip


def chosen(share: int) -> dict[str, list[str]]:
    """The crafted folders with the commands that look at them. share: 1, all by all; n, of each kind of craft every
    n-th, by `show`, `resume` and one of the others in turn.
    """
    if share == 1:
        return {name: list(COMMANDS) for name in CRAFTED}
    found, seen = dict[str, list[str]](), Counter[str]()
    others = [name for name in COMMANDS if name not in ("show", "resume", "export")]
    for name, craft in CRAFTED.items():
        if seen[craft.__name__] % share == 0:
            found[name] = ["show", others[len(found) % len(others)], "resume"]
        seen[craft.__name__] += 1
    return found


def examine(good: Path, home: Path, wanted: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """What every command makes of every crafted folder."""
    found: dict[str, dict[str, Any]] = {}
    for i, (name, commands) in enumerate(wanted.items()):
        craft = CRAFTED[name]
        place, outside = home / f"{i:03d}" / "runs", home / f"{i:03d}" / "outside"
        (outside / "home").mkdir(parents=True)
        for file in ("precious.txt", "precious.db", "home/mine.txt"):
            (outside / file).write_text("mine\n")
        secret = ("x,y\n" + "\n".join(f"{k},{k % 2}" for k in range(300))).encode()
        (outside / "secret.csv").write_bytes(secret)
        run = Path(shutil.copytree(good, place / "a"))
        shutil.copy(good.parent / "mlflow.db", place)
        os.chdir(place.parent)
        craft(run, outside)
        before = state_of(outside)
        told = {}
        for command in commands:
            told[command] = look(COMMANDS[command], run, good.parent / "data.npy", home / "told")
            told[command]["touched"] = state_of(outside) != before
            told[command]["copied"] = any(
                path.is_file() and path.read_bytes() == secret for path in (place / "mlartifacts").rglob("*")
            )
            told[command]["html"] = (run / "report" / "report.html").is_file() and MARKUP in (
                run / "report" / "report.html").read_text()  # fmt: skip
        found[name] = told
        os.chdir(home)
        shutil.rmtree(home / f"{i:03d}")
    return found


def wrong(name: str, command: str, told: dict[str, Any]) -> str:
    """What is wrong with a command's behaviour; "" if it was refused in one line, or harmless."""
    lines = told["err"].strip().splitlines()
    complaints = [line for line in lines if line.startswith("evo: ")]
    faults = {
        "hung": told["code"] is None,
        f"exit {told['code']}": told["code"] not in (0, 2, None),
        "no line": told["code"] == 2 and not complaints,
        "several lines": told["code"] == 2 and len(complaints) > 1,
        "Traceback": "Traceback" in told["err"],
        "touched what lies outside": told["touched"],
        "copied what lies outside": told["copied"],
        "asks a server": command == "resume" and name.startswith("events to ") and told["code"] != 2,
        "told in several lines": command == "drain" and len(lines) > 1,
        "markup": told["html"],
        "escape codes": "\x1b" in told["out"] + told["err"] or "\x07" in told["out"] + told["err"],
        f"{told['rise'] >> 10} MB": told["rise"] > LARGEST_RISE,
    }
    return ", ".join(name for name, so in faults.items() if so)


def main(folder: Path, share: int) -> None:
    import numpy as np
    import torch
    import torch.export  # as everything that the commands import: here, once, and not in every fork
    from small_life import SHORT, SMALL

    from evo import (  # noqa: F401
        api,
        cli,
        ensembles,
        export,
        mlflow_log,
        mlflow_queue,
        mlflow_ui,
        mlflow_view,
        predictions,
        recorder,
        report,
        run_folder,
        scale_table,
        show,
    )  # fmt: skip

    torch.set_num_threads(1)
    # An empty store for each folder to be drained into: to make one takes seconds.
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_LOGGING_LEVEL="WARNING")
    (folder / "good").mkdir(parents=True)
    mlflow_log.experiment(mlflow_queue.default_uri(folder / "good"))
    report.PICTURES = {"front": lambda run: None}  # type: ignore[assignment]
    report.png = lambda figure: b"a picture"  # type: ignore[assignment]
    api.grow(config={**SMALL, **SHORT, "device": "cpu", "name": "a", "out": str(folder / "good")})
    good = folder / "good" / "a"
    # Unfinished: the last commits' events are gone, so that to resume means to read snapshots and to grow.
    table = recorder.read_table(good, "n000")
    rows = table.to_pylist()
    for path in (good / "events").glob("*.parquet"):
        path.unlink()
    writer = recorder.Recorder(good, "n000")
    for cycle in (0, 1):
        writer.commit([row for row in rows if row["cycle"] == cycle])
    (good / "report" / "front.json").unlink()
    np.save(folder / "good" / "data.npy", np.zeros((3, 64)))
    run_folder.git_revision = lambda: None  # type: ignore[assignment]
    found = examine(good, folder, chosen(share))
    bad = {name: {c: f"{w}: {t['err'].strip()[-600:]}" for c, t in told.items() if (w := wrong(name, c, t))}
           for name, told in found.items()}  # fmt: skip
    codes = {name: {c: t["code"] for c, t in told.items()} for name, told in found.items()}
    print(json.dumps({"bad": {k: v for k, v in bad.items() if v}, "codes": codes}))


if __name__ == "__main__":
    real = os.dup(1)
    with contextlib.redirect_stdout(sys.stderr):
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream):
            main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    os.write(real, stream.getvalue().strip().splitlines()[-1].encode() + b"\n")
