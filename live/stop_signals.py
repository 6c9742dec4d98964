"""Whether somebody asked a process to end: without that, a node that stops has failed.

The engine's node may end by itself, and then looks as it does after Ctrl-C. Only the signals tell
the two apart. The node listens to them as well: to
SIGTERM beside whoever listened before, to SIGINT in the place of whoever did, so a handler of ours
would not hear of Ctrl-C. What Python's own part of every handler writes into a socket is seen all
the same.

A terminal that is closed asks for an end as well (`end_at_hangup`). Whoever wants a process to
outlive it says so where it is started: nohup has SIGHUP ignored, and ignored it stays.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from types import TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


_STANDARD = (0, 1, 2)


def end_at_hangup() -> None:
    """Take SIGHUP, which a terminal that is closed sends, for SIGTERM; on the main thread.

    Else the process would be gone at once, with orders on their way. A terminal and its shell may
    both send one: the second is no haste. What is printed from then on nobody reads, and it must
    raise no error.
    """
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
        return
    terminals = [one for one in _STANDARD if os.isatty(one)]
    heard: list[int] = []

    def end(number: int, frame: object) -> None:
        if heard:
            return
        heard.append(number)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for one in terminals:
            os.dup2(nowhere, one)
        os.close(nowhere)
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGHUP, end)


class StopSignals:
    """Take note of Ctrl-C and SIGTERM; a context, on the main thread."""

    def __init__(self) -> None:
        self._seen = False
        self._count = 0
        self._before: dict[int, Any] = {}
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._descriptor_before = -1

    def __enter__(self) -> Self:
        """Begin to listen; elsewhere than on the main thread nothing can be heard."""
        if threading.current_thread() is not threading.main_thread():
            return self
        self._pair = socket.socketpair()
        for one in self._pair:
            one.setblocking(False)
        self._descriptor_before = signal.set_wakeup_fd(
            self._pair[1].fileno(), warn_on_full_buffer=False
        )
        self._before = {one: signal.signal(one, self._note) for one in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let those who listened before do it again."""
        if self._pair is None:
            return
        self._look()
        signal.set_wakeup_fd(self._descriptor_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for one in self._pair:
            one.close()
        self._pair = None

    def take(self) -> None:
        """Take the signals from whoever listens by now; on the main thread, while it listens.

        The node puts its own handlers when it runs, and stops at once where they are called.
        """
        if self._pair is not None:
            for one in _SIGNALS:
                signal.signal(one, self._note)

    @property
    def count(self) -> int:
        """Return how many have come."""
        self._look()
        return self._count

    @property
    def seen(self) -> bool:
        """Return whether one of them has come."""
        self._look()
        return self._seen

    def _look(self) -> None:
        if self._pair is None:
            return
        try:
            numbers = self._pair[0].recv(4096)
        except BlockingIOError:
            return
        self._count += sum(one in _SIGNALS for one in numbers)
        self._seen = self._seen or self._count > 0

    def _note(self, number: int, frame: object) -> None:
        self._seen = True
