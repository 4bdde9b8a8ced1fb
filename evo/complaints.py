"""What goes wrong, said in one line on standard error, with an exit code that scripts can rely on.

2: a mistake in what was asked for, or more than memory holds. 75: what may succeed later as it was asked for
(`evo.transient`): a full disk, a store or cluster that is away, a run that another process is at work on. 130 (143):
stopped by Ctrl-C (by SIGTERM). 1: a fault of ours. MERISTEM_TRACEBACK=1 also shows where an error came from.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

from evo.transient import transient

P = ParamSpec("P")
INTERRUPTED = 128
LATER = os.EX_TEMPFAIL
OURS = {"evo", "tournaments", "search_spaces"}


def plainly(command: Callable[P, None]) -> Callable[P, None]:
    """A command whose errors are one line and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except BrokenPipeError:
            # Whoever read our output has had enough (`evo show RUN | head`); the interpreter must not try to flush.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
        except (OSError, ValueError) as err:
            message = os_error(err) if isinstance(err, OSError) else str(err)
            if ours(err):
                code = complain("; ".join([message, *_notes(err)]))
                raise SystemExit(LATER if transient(err) else code) from err
            message = f"a fault of evo's own, {type(err).__name__}: {message}"
            complain("; ".join([message, "MERISTEM_TRACEBACK=1 shows where", *_notes(err)]))
            raise SystemExit(1) from err
        except MemoryError as err:
            told = f"memory does not suffice ({err})" if str(err) else "memory does not suffice"
            cure = "ask for less: a shorter life, smaller batches or networks, fewer samples"
            raise SystemExit(complain("; ".join([told, cure, *_notes(err)]))) from err
        except KeyboardInterrupt as stopped:
            print(f"evo: {'; '.join([str(stopped) or 'stopped at once', *_notes(stopped)])}", file=sys.stderr)
            raise SystemExit(INTERRUPTED + getattr(stopped, "signum", 2)) from None

    return run


def ours(err: BaseException) -> bool:
    """Whether this was raised by us, of somebody's mistake, and not by a library, of a mistake in us."""
    trace = err.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = str(trace.tb_frame.f_globals.get("__name__", "")) if trace is not None else ""
    homes = {name.partition(".")[0] for name in (raised_in, type(err).__module__)}
    return isinstance(err, OSError) or bool(homes & OURS)


def _notes(err: BaseException) -> list[str]:
    """What was learned about it on its way here: how to go on."""
    return list(getattr(err, "__notes__", []))


def complain(message: str) -> int:
    if os.environ.get("MERISTEM_TRACEBACK") == "1":
        import traceback

        traceback.print_exc()
    line = " ".join(message.split())
    # Bytes of a broken file, quoted in a message, could be commands to the terminal.
    print(f"evo: {''.join(c if c.isprintable() else '?' for c in line)}", file=sys.stderr)
    return 2


def os_error(err: OSError) -> str:
    if err.errno is None:
        return str(err)
    cure = {
        errno.ENOSPC: "free some space or write another --out",
        errno.EDQUOT: "free some space or write another --out",
        errno.EROFS: "write --out with a folder that can be written to",
        errno.EACCES: "write --out with a folder that you may write to",
        errno.EPERM: "write --out with a folder that you may write to",
        errno.ENOENT: "check the path",
        errno.ENOTDIR: "write a path whose parents are folders",
        errno.EEXIST: "write another path",
    }.get(err.errno)
    # A write to a full disk does not say which file it was for.
    return f"{err.filename or 'disk'}: {(err.strerror or 'failed').lower()}{f'; {cure}' if cure else ''}"
