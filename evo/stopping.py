"""Stopping cleanly: the first Ctrl-C (or SIGTERM) waits for a point where nothing is lost, the second does not wait."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and did, with everything kept. signum: which signal asked."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class Stop:
    """While entered, turns a first signal into a wish that `check` grants; a second raises KeyboardInterrupt at once.

    Outside the main thread, where Python delivers no signals, it does nothing. heard: called once, when the wish comes.
    """

    def __init__(self, heard: Callable[[], None] | None = None) -> None:
        self.asked: int | None = None
        self._heard = heard
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def check(self) -> None:
        """Call at points where stopping loses nothing. Raises Interrupted where a stop was asked for."""
        # Ray puts its own handlers in place when it starts.
        for number in self._before:
            if signal.getsignal(number) != self._on_signal:
                signal.signal(number, self._on_signal)
        if self.asked is not None:
            raise Interrupted("stopped", self.asked)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = number
        # The signal may have come in the middle of a print, and Python's streams cannot be entered twice.
        with contextlib.suppress(RuntimeError):
            if self._heard is not None:
                self._heard()
