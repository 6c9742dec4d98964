"""How a market feed waits, what it is connected to, and what it says about itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import Field

from catalog.config import Config
from live.bar_gate import BarSet, GateConfig
from live.feed_delivery import Receivers
from live.history import HistoryConfig, StoredHistory

type FeedState = Literal["starting", "warming", "trading", "waiting", "failed"]
"""As in `live.engine_status`. ``waiting``: a close is missing, nothing is entered."""


class FeedConfig(Config):
    """How market data are waited for.

    Parameters
    ----------
    gate : GateConfig
        Patience with bars.
    history : HistoryConfig
        Manners towards the exchange's history.
    funding_patience_secs : float
        How long bars wait for a settlement's rate before the expected one counts, seconds.
    look_interval_ms : int
        How often it is looked whether something is missing, milliseconds of the wall clock.
    """

    gate: GateConfig = Field(default_factory=GateConfig)
    history: HistoryConfig = Field(default_factory=HistoryConfig)
    funding_patience_secs: float = Field(default=5.0, ge=0.0)
    look_interval_ms: int = Field(default=100, ge=10, le=10_000)

    def at_speed(self, speed: float) -> Self:
        """Return the same patience by the wall clock for data that run `speed` times as fast."""
        patience = self.funding_patience_secs * speed
        return self.model_copy(
            update={"gate": self.gate.at_speed(speed), "funding_patience_secs": patience}
        )


def _no_close(found: BarSet, latency_ns: int | None) -> None:
    """Take a close that nobody waits for."""


def _no_error(error: BaseException) -> None:
    """Take an error that nobody waits for: it is in the feed's status."""


@dataclass(frozen=True, slots=True)
class FeedWiring:
    """What a feed is connected to.

    Parameters
    ----------
    receivers : Receivers
        Who gets what it hands on.
    client : str
        Name of the data client.
    instruments : sequence of Nautilus instruments
        Definitions of all that is predicted; those that the catalog's bars are made exact by.
    stored : StoredHistory
        What a catalog holds.
    slow_client : str, optional
        Name of the client that has the slow inputs; None: `client`.
    now : callable, optional
        The time of the data, UTC nanoseconds; None: the node's clock. Recorded data that run
        through an exchange of a test have a time of their own.
    on_handled : callable
        Told each close once predictor and strategy have handled it, whether fresh or history, and
        the nanoseconds since its last bar came; None for what the start has loaded.
    on_error : callable
        Told what an exception in a callback was. Nothing is handed on afterwards.
    """

    receivers: Receivers
    client: str
    instruments: Sequence[Any] = ()
    stored: StoredHistory = field(default_factory=StoredHistory)
    slow_client: str | None = None
    now: Callable[[], int] | None = None
    on_handled: Callable[[BarSet, int | None], None] = _no_close
    on_error: Callable[[BaseException], None] = _no_error


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """What a feed says about itself; plain data.

    Parameters
    ----------
    state : str
        See `FeedState`.
    reason : str
        Why it does not trade, or not everything; empty where all is well.
    last_bar_ns : int
        The last close handed on, UTC nanoseconds; 0 for none.
    next_bar_ns : int
        The close that comes next, UTC nanoseconds.
    counters : dict of str to int
        As `GateCounts`, with ``reconnects``, ``requests``, ``requests_failed``, ``settlements``,
        ``settlements_estimated``.
    input_ages_s : dict of str to float
        Seconds since the stamp of the last record, by input: ``bars`` (handed on), ``stream`` (bars
        that came without being asked for), ``funding``, and each slow series.
    """

    state: FeedState
    reason: str
    last_bar_ns: int
    next_bar_ns: int
    counters: dict[str, int]
    input_ages_s: dict[str, float]
