"""Which process is which: a number alone says nothing once it was given to another process."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

from catalog.timestamps import NS_PER_SECOND

_DEAD = frozenset("ZXx")


class ProcessId(NamedTuple):
    """A process that no later one can be mistaken for.

    Parameters
    ----------
    pid : int
        Its number.
    start_ns : int
        When it started, nanoseconds since boot, in steps of the kernel's clock (10 ms).
    boot : str
        Which boot.
    """

    pid: int
    start_ns: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Return the process that has a number now; None if none has, or it has ended."""
        found = _stat(pid)
        if found is None or found[0] in _DEAD:
            return None
        return cls(pid, found[1], boot_id())

    @classmethod
    def own(cls) -> ProcessId:
        """Return this process."""
        found = cls.of(os.getpid())
        assert found is not None, "this process runs"
        return found

    def alive(self) -> bool:
        """Return whether this very process still runs."""
        return self.pid > 0 and ProcessId.of(self.pid) == self

    def send(self, number: signal.Signals) -> bool:
        """Send a signal if it is still this process; return whether it was sent.

        A process handle of the kernel (pidfd) is taken before its start is looked at, so that
        the number cannot pass to another process in between.
        """
        if self.pid <= 0:
            return False
        try:
            handle = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            if not self.alive():
                return False
            signal.pidfd_send_signal(handle, number)
        except OSError:
            return False
        finally:
            os.close(handle)
        return True

    def wait(self, timeout_secs: float, poll_secs: float = 0.02) -> bool:
        """Return whether it has ended, at the latest after `timeout_secs`."""
        deadline = time.monotonic() + timeout_secs
        while self.alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(poll_secs)
        return True


def boot_id() -> str:
    """Return which boot of the machine this is; "" where the kernel does not say."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _stat(pid: int) -> tuple[str, int] | None:
    """Return state and start of a process in nanoseconds since boot; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name stands in parentheses and may hold anything, blanks and parentheses included.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19]) * NS_PER_SECOND // os.sysconf("SC_CLK_TCK")
