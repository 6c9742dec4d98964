"""Locks of the operating system on files: they end with the process that holds them."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO

_POLL_SECS = 0.02


class HeldError(Exception):
    """Another process holds a lock.

    Parameters
    ----------
    holder : str
        Its number; ``unknown`` where it has not said.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by process {holder}")
        self.holder = holder


def hold(path: Path, wait_secs: float = 0.0) -> IO[str]:
    """Take a file's lock and write our process's number into it.

    Parameters
    ----------
    path : Path
        A file of its own; made where there is none.
    wait_secs : float
        How long to wait for another process, seconds.

    Returns
    -------
    file
        Closing it, or the end of the process, gives the lock back.

    Raises
    ------
    HeldError
        If another process still has it then.
    OSError
        If the file cannot be opened or written.
    """
    handle = path.open("a+", encoding="utf-8")
    try:
        deadline = time.monotonic() + wait_secs
        while not _taken(handle):
            if time.monotonic() >= deadline:
                handle.seek(0)
                raise HeldError(handle.read().strip() or "unknown")
            time.sleep(_POLL_SECS)
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
    except BaseException:
        handle.close()
        raise
    return handle


def _taken(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
