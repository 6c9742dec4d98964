"""Which process is which: a number alone says nothing once it was given to another process."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

import psutil

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

    @classmethod
    def parsed(cls, text: str) -> ProcessId | None:
        """Return the process that `text` has named; None if it names none."""
        pid, _, rest = text.partition(":")
        start_ns, _, boot = rest.partition(":")
        known = pid.isdecimal() and start_ns.isdecimal()
        return cls(int(pid), int(start_ns), boot) if known else None

    def text(self) -> str:
        """Return what `parsed` reads."""
        return f"{self.pid}:{self.start_ns}:{self.boot}"

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


class Usage(NamedTuple):
    """What a process takes; None where it is not known.

    Parameters
    ----------
    cpu_frac : float or None
        Share of one core since the measurement before.
    rss_bytes : int or None
        Resident memory.
    pss_bytes : int or None
        Resident memory, what is shared divided among those who share it.
    """

    cpu_frac: float | None = None
    rss_bytes: int | None = None
    pss_bytes: int | None = None


class UsageMeter:
    """Measures one process again and again.

    Parameters
    ----------
    pid : int
        Its number.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._process: psutil.Process | None = None
        with contextlib.suppress(psutil.Error):
            self._process = psutil.Process(pid)
            self._process.cpu_percent(None)

    def measure(self) -> Usage:
        """Return what it takes now."""
        if self._process is None:
            return Usage()
        try:
            cpu = self._process.cpu_percent(None) / 100.0
            rss = self._process.memory_info().rss
        except psutil.Error:
            return Usage()
        return Usage(cpu, rss, _pss_bytes(self._pid))


def processes_marked(variable: str, prefix: str) -> dict[ProcessId, str]:
    """Return the processes of this user whose environment gives a variable, by what it says.

    Parameters
    ----------
    variable : str
        Its name.
    prefix : str
        With what its value must begin.
    """
    found: dict[ProcessId, str] = {}
    for one in psutil.process_iter():
        try:
            value = one.environ().get(variable, "")
        except (psutil.Error, OSError):
            continue
        process = ProcessId.of(one.pid) if value.startswith(prefix) else None
        if process is not None:
            found[process] = value
    return found


def _pss_bytes(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None


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
