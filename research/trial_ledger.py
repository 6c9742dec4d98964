"""The file that remembers every trial: append-only JSON lines, safe under parallel writers.

A line is ``{"sha256": …, "id": …, "trial": {…}}``; the checksum is of all that follows it, so each
line proves itself and two ledgers are joined by ``cat``. Writers take the file's lock (flock),
look whether the trial's id is there already, append what is not in one write and sync it: when
`TrialLedger.append` returns, the trial is on the disk, once.

A process that is killed in the middle of a write leaves a line without its end. The next writer
sets it aside in ``<ledger>.torn``; readers leave it out. It was never reported as written, so
nothing is lost: the command that was killed has no result, and records its trial when it is run
again. A line that is wrong anywhere else was changed by somebody, and is an error: a ledger from
which trials vanish in silence would be worse than none.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from catalog.errors import DataError, IntegrityError
from catalog.transactions import sync_folder
from research.trials import Trial, TrialCount, canonical, trials_for

LOCK_TIMEOUT_SECS = 30.0
_POLL_SECS = 0.002
_HEAD, _ID, _BODY, _END = b'{"sha256":"', b'","id":"', b'","trial":', b"}\n"
_DIGITS = 64
_AFTER_SUM = len(_HEAD) + _DIGITS
_AFTER_ID = _AFTER_SUM + len(_ID) + _DIGITS


@dataclass(frozen=True, slots=True)
class LedgerContent:
    """What a ledger holds.

    Parameters
    ----------
    trials : tuple of Trial
        In the order in which they were recorded, each id once.
    torn_bytes : int
        Length of what a killed writer left at the end; the next writer sets it aside.
    """

    trials: tuple[Trial, ...]
    torn_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TrialLedger:
    """A ledger of trials in a file, which need not exist yet.

    Parameters
    ----------
    path : Path
        The file, such as ``<catalog>/trials.jsonl``. On a file system whose locks hold between
        all writers (a local one, NFS 4).
    lock_timeout_secs : float
        How long to wait for another process.
    """

    path: Path
    lock_timeout_secs: float = LOCK_TIMEOUT_SECS

    @property
    def torn_path(self) -> Path:
        """Where the unfinished lines of killed writers are set aside."""
        return self.path.with_name(f"{self.path.name}.torn")

    def check(self) -> None:
        """Make sure, before hours of work, that a trial can be recorded at their end.

        Raises
        ------
        DataError
            If the file or its folder cannot be written.
        IntegrityError
            If a line is damaged.
        """
        is_there = self.path.exists()
        target = self.path if is_there else _nearest(self.path.parent)
        if target.is_dir() == is_there:
            raise self._unwritable(f"{target} is {'a folder' if is_there else 'no folder'}")
        if not os.access(target, os.W_OK):
            raise self._unwritable(f"{target} may not be written to")
        self.read()

    def append(self, trials: Iterable[Trial]) -> int:
        """Record trials, all or none of them, and return how many were not there yet.

        The first result of an id stands: a trial that is repeated changes nothing.

        Parameters
        ----------
        trials : iterable of Trial
            Those without a time get that of now.

        Raises
        ------
        DataError
            If the file cannot be written; then nothing was recorded.
        IntegrityError
            If its last line was changed.
        """
        now = time.time_ns()
        lines = {one.id: encode_line(one if one.time else replace(one, time=now)) for one in trials}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self.path.exists()
            with self._held(os.O_RDWR | os.O_APPEND | os.O_CREAT, fcntl.LOCK_EX) as descriptor:
                content = self._without_torn(descriptor)
                new = [line for name, line in lines.items() if _id_mark(name) not in content]
                _append_whole(descriptor, b"".join(new), len(content))
            if is_new:
                sync_folder(self.path.parent)
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from error
        return len(new)

    def read(self) -> LedgerContent:
        """Return all trials; a file that does not exist holds none.

        Raises
        ------
        DataError
            If the file cannot be read.
        IntegrityError
            Naming the line that was changed since it was written.
        """
        try:
            with self._held(os.O_RDONLY, fcntl.LOCK_SH) as descriptor:
                content = _content(descriptor)
        except FileNotFoundError:
            return LedgerContent(())
        except OSError as error:
            raise DataError(
                f"the ledger of trials {self.path} must be a readable file, was not: "
                f"{error.strerror}"
            ) from error
        whole = self._whole(content)
        found: dict[str, Trial] = {}
        for number, line in enumerate(content[:whole].splitlines(keepends=True), start=1):
            trial = self._decoded(line, partial(int, number))
            found.setdefault(trial.id, trial)
        return LedgerContent(tuple(found.values()), len(content) - whole)

    def trials_for(
        self, span: tuple[int, int], instruments: Iterable[str], *own: Trial
    ) -> TrialCount:
        """Count the trials on data that overlap, those about to be recorded among them.

        Parameters
        ----------
        span : (start, end)
            ``(start, end]``, UTC nanoseconds.
        instruments : iterable of str
            Instrument ids.
        *own : Trial
            Trials that are not recorded yet, or are already: each counts once.
        """
        return trials_for((*self.read().trials, *own), span, instruments)

    @contextlib.contextmanager
    def _held(self, flags: int, lock: int) -> Iterator[int]:
        """Open the file and hold its lock; it is released with the file, however that closes."""
        descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o644)
        try:
            deadline = time.monotonic() + self.lock_timeout_secs
            while True:
                try:
                    fcntl.flock(descriptor, lock | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise DataError(
                            f"the ledger of trials {self.path} must be free within "
                            f"{self.lock_timeout_secs:g} s, another process held it for longer; "
                            "wait for its end, then try again"
                        ) from None
                time.sleep(_POLL_SECS)
            yield descriptor
        finally:
            os.close(descriptor)

    def _without_torn(self, descriptor: int) -> bytes:
        """Set aside what a killed writer left at the end, and return the rest; needs the lock.

        A kill between the two steps leaves the fragment in both places, and the next writer
        begins anew: it never becomes a trial.
        """
        content = _content(descriptor)
        whole = self._whole(content)
        if whole < len(content):
            with self.torn_path.open("ab") as aside:
                aside.write(content[whole:].rstrip(b"\n") + b"\n")
                aside.flush()
                os.fsync(aside.fileno())
            os.ftruncate(descriptor, whole)
        return content[:whole]

    def _whole(self, content: bytes) -> int:
        """Return up to where lines have their end; the last one must be right.

        A power cut may leave blocks of zeros in place of what was not yet on the disk.
        """
        whole = content.rfind(b"\n") + 1
        first = content.rfind(b"\n", 0, max(whole - 1, 0)) + 1
        last = content[first:whole]
        if b"\0" in last:
            return first
        if last:
            self._decoded(last, lambda: content.count(b"\n", 0, whole))
        return whole

    def _decoded(self, line: bytes, number: Callable[[], int]) -> Trial:
        try:
            return decode_line(line)
        except (IntegrityError, ValueError) as error:
            raise IntegrityError(
                f"line {number()} of the ledger of trials {self.path} must be as it was written, "
                f"was changed ({error}); restore the file from a copy, or move that line to "
                f"{self.torn_path.name} and accept that its trial is no longer counted"
            ) from error

    def _unwritable(self, why: str) -> DataError:
        return DataError(
            f"the ledger of trials {self.path} must be writable, was not: {why}; every result is "
            "recorded in it. Make room, or name another file in the environment variable "
            "LEVIBOT_TRIALS"
        )


def encode_line(trial: Trial) -> bytes:
    """Return a trial's line, its end included."""
    rest = _ID + trial.id.encode() + _BODY + canonical(trial.as_dict()).encode()
    return _HEAD + hashlib.sha256(rest).hexdigest().encode() + rest + _END


def decode_line(line: bytes) -> Trial:
    """Return the trial of a line.

    Raises
    ------
    IntegrityError
        If the line is not one that `encode_line` wrote.
    """
    rest = line[_AFTER_SUM : -len(_END)]
    written = line.startswith(_HEAD) and line.endswith(_END) and rest.startswith(_ID)
    if not written or hashlib.sha256(rest).hexdigest().encode() != line[len(_HEAD) : _AFTER_SUM]:
        raise IntegrityError("its checksum does not fit")
    return Trial.from_dict(json.loads(line[_AFTER_ID + len(_BODY) : -len(_END)]))


def _id_mark(name: str) -> bytes:
    """Return the bytes by which a trial is found; within a trial quotes would be escaped."""
    return _ID + name.encode() + _BODY


def _content(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def _append_whole(descriptor: int, data: bytes, before: int) -> None:
    """Append bytes and sync them; where that fails, the file is as long as it was."""
    if not data:
        return
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, before)
        raise


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists."""
    return next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
