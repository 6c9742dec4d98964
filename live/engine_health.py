"""Whether an engine is well: judged from what it says, by how long ago that changed.

Ages are taken on this process's monotonic clock, from the moment at which a value was last seen to
change. A jump of the wall clock, or a replay of old bars, makes no engine ill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from live.engine_status import EngineStatus
from live.processes import ProcessId

_STALE_BARS = 2.0
_STALE_MARGIN_SECS = 90.0

type Ailment = Literal["", "silent", "stale", "leaking"]
"""Well; without a sign of life; believes to trade without new bars; with too much memory."""


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """What is taken for healthy.

    Parameters
    ----------
    start_secs : float
        How long an engine may need to start and warm up, without a sign of life.
    heartbeat_secs : float
        How old its heartbeat may be after that.
    data_age_secs : float
        How long an engine that says it trades may be without a new bar; less where its bars are
        shorter than that allows for (`stale_after`).
    max_rss_bytes : int
        Resident memory.
    """

    start_secs: float = 120.0
    heartbeat_secs: float = 10.0
    data_age_secs: float = 2_000.0
    max_rss_bytes: int = 1_000_000_000


def stale_after(bar_secs: float) -> float:
    """Return how long an engine may be without a new bar, seconds: two bars and a margin.

    Parameters
    ----------
    bar_secs : float
        Length of its bars, seconds.
    """
    return _STALE_BARS * bar_secs + _STALE_MARGIN_SECS


def allowed_age(status: EngineStatus | None, most_secs: float) -> float:
    """Return how long an engine may be without a new bar: by its own bars, where it names them."""
    if status is None or status.bar_interval_s <= 0.0:
        return most_secs
    return min(most_secs, stale_after(status.bar_interval_s))


class Verdict(NamedTuple):
    """What ails an engine, and how that shows; both "" where nothing does."""

    ailment: Ailment = ""
    detail: str = ""


class HealthWatch:
    """Watch one process.

    Parameters
    ----------
    process : ProcessId
        Which; a status of another process says nothing about this one.
    limits : HealthLimits
        What is taken for healthy.
    now : float
        Seconds on a monotonic clock.
    """

    def __init__(self, process: ProcessId, limits: HealthLimits, now: float) -> None:
        self._process = process
        self._limits = limits
        self._heartbeat = self._bar = 0
        self._beat_at = self._bar_at = now
        self._state = ""
        self.status: EngineStatus | None = None

    @property
    def started(self) -> bool:
        """Whether the engine has said that it is past its start."""
        return self._state not in ("", "starting", "warming")

    def pause(self, now: float) -> None:
        """Count anew from `now`: whoever watches was stopped himself and has seen nothing."""
        self._beat_at = self._bar_at = now

    def look(self, status: EngineStatus | None, rss_bytes: int | None, now: float) -> Verdict:
        """Return what ails the engine.

        Parameters
        ----------
        status : EngineStatus or None
            What it last said.
        rss_bytes : int or None
            Its resident memory; None where it was not measured.
        now : float
            Seconds on the monotonic clock.
        """
        if status is not None and self._is_of(status):
            self._take(status, now)
        silent = now - self._beat_at
        allowed = self._limits.heartbeat_secs if self.started else self._limits.start_secs
        if silent > allowed:
            said = "since its start" if self._heartbeat == 0 else "from its thread"
            return Verdict("silent", f"no sign of life {said} for {silent:.1f} s")
        if rss_bytes is not None and rss_bytes > self._limits.max_rss_bytes:
            return Verdict(
                "leaking",
                f"memory must be at most {self._limits.max_rss_bytes / 1e6:.0f} MB, was "
                f"{rss_bytes / 1e6:.0f} MB",
            )
        without = now - self._bar_at
        if self._state == "trading" and without > allowed_age(
            self.status, self._limits.data_age_secs
        ):
            return Verdict("stale", f"it says that it trades, without a bar for {without:.0f} s")
        return Verdict()

    def data_age_secs(self, now: float) -> float:
        """Return for how long no bar has come, seconds, whatever the engine's state."""
        return now - self._bar_at

    def _take(self, status: EngineStatus, now: float) -> None:
        if status.heartbeat_ns != self._heartbeat:
            self._heartbeat, self._beat_at = status.heartbeat_ns, now
        # Waiting for bars counts from when it began to trade.
        if status.last_bar_ns != self._bar or status.state != self._state:
            self._bar, self._bar_at = status.last_bar_ns, now
        self._state = status.state
        self.status = status

    def _is_of(self, status: EngineStatus) -> bool:
        process = self._process
        return (status.pid, status.process_start_ns) == (process.pid, process.start_ns)
