"""What an engine says about itself once a second: plain data, JSON both ways.

Every field has a default. A reader takes what it knows: keys that are missing or null are the
default, unknown ones are left out, so that processes of two releases may stand side by side while
`SCHEMA` is the same. `SCHEMA` changes only where a field changes its meaning.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from catalog.errors import ConfigError, DataError

SCHEMA = 1

type Mode = Literal["paper", "testnet", "live"]
type State = Literal[
    "starting",
    "warming",
    "trading",
    "waiting",
    "halted",
    "stopping",
    "stopped",
    "failed",
    "unknown",
]
"""``waiting``: for a gap to be filled or a connection; ``halted``: by the risk guard; ``unknown``:
only of a status that cannot be read."""

RUNNING = frozenset({"starting", "warming", "trading", "waiting", "halted", "stopping"})
"""States of an engine whose process should be there."""

LATENCY_BUCKETS_MS = (
    1.0, 2.0, 5.0, 10.0, 20.0, 35.0, 50.0, 75.0, 100.0, 200.0, 500.0, 1_000.0, 5_000.0,
)  # fmt: skip
"""Upper bounds of the histogram of decision latencies, milliseconds; one more bucket is open."""

_NAME = re.compile(r"^[A-Za-z0-9_-]{1,32}$")


@dataclass(frozen=True, slots=True)
class PositionStatus:
    """An open position.

    Parameters
    ----------
    quantity : float
        Signed base units.
    entry_price, mark : float or None
        Quote units.
    stop : float or None
        Trigger of the stop that rests at the exchange, quote units; None if there is none.
    """

    quantity: float = 0.0
    entry_price: float | None = None
    mark: float | None = None
    stop: float | None = None


@dataclass(frozen=True, slots=True)
class PredictionStatus:
    """The last prediction for an instrument: probability of up, and what is unknown about it."""

    ts_ns: int = 0
    prob_up: float | None = None
    epistemic: float | None = None
    confidence: float | None = None
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class ExpertStatus:
    """The circuit breaker of an expert: ``closed``, ``open`` or ``half_open``, and its counts."""

    state: str = "closed"
    trips: int = 0
    failures: int = 0
    calls: int = 0


@dataclass(frozen=True, slots=True)
class GuardLevel:
    """What the risk guard lets be done, and the holds in force."""

    level: Literal["normal", "reducing", "halted"] = "normal"
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """Counts since the process started."""

    bars: int = 0
    late: int = 0
    duplicate: int = 0
    unfinished: int = 0
    out_of_order: int = 0
    gaps: int = 0
    backfilled: int = 0
    reconnects: int = 0
    predictions: int = 0
    decisions: int = 0
    orders: int = 0
    fills: int = 0
    rejects: int = 0
    naked_alarms: int = 0
    errors: int = 0
    alerts_failed: int = 0


@dataclass(frozen=True, slots=True)
class LatencyHistogram:
    """Decision latencies, milliseconds: from the receipt of a bar to the sending of its orders.

    Parameters
    ----------
    buckets : tuple of float
        Upper bounds, inclusive.
    counts : tuple of int
        In each bucket (not cumulative); one more than `buckets`, the last for what lies above.
    sum : float
        Of all latencies, milliseconds.
    count : int
        Their number.
    """

    buckets: tuple[float, ...] = LATENCY_BUCKETS_MS
    counts: tuple[int, ...] = (0,) * (len(LATENCY_BUCKETS_MS) + 1)
    sum: float = 0.0
    count: int = 0

    def quantile(self, share: float) -> float | None:
        """Return the upper bound of the bucket that holds a quantile, milliseconds.

        None where there are no latencies, infinity where it lies above the last bound.
        """
        if self.count == 0:
            return None
        needed, seen = share * self.count, 0
        for bound, number in zip(self.buckets, self.counts, strict=False):
            seen += number
            if seen >= needed:
                return bound
        return math.inf


@dataclass(frozen=True, slots=True)
class Moments:
    """A sum and the number of what was added."""

    sum: float = 0.0
    count: int = 0


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """The bundle that predicts: folder, digest, end of its training span (UTC ns), metrics."""

    bundle: str = ""
    digest: str = ""
    trained_until: int = 0
    metrics: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """One engine at one moment. Times are UTC nanoseconds, money USDT; 0 or None is unknown.

    Parameters
    ----------
    engine, profile : str
        Names.
    mode : {"paper", "testnet", "live"}
        What it trades on.
    pid, process_start_ns, boot : int, int, str
        Which process: its number, its start in nanoseconds since boot, and which boot; see
        `live.processes`. A recycled number has another start.
    state : str
        See `State`.
    instruments : tuple of str
        What it trades.
    heartbeat_ns : int
        When the engine's own thread last did something, not when this was written.
    started_ns, last_bar_ns, last_trade_ns : int
        Start of the process, close of the newest bar, newest fill.
    equity, cash, day_start_equity, peak_equity, realized_pnl : float or None
        The account as this engine counts it.
    positions, predictions : dict
        By instrument.
    experts : dict
        Circuit breakers by expert.
    guard : GuardLevel
        The engine's risk guard.
    counters : EngineCounters
        Since the process started.
    input_ages_s : dict of str to float
        Seconds since each input's newest record.
    bar_interval_s : float
        Length of its bars, seconds; 0 is unknown.
    decision_latency_ms : LatencyHistogram
        From bar to order.
    slippage_bps : Moments
        Fill against the decision's price; positive is worse.
    blocked : str
        Why nothing new is opened although its guard would let it: an account that is short, a clock
        that is wrong; "" if nothing is in the way.
    last_error : str
        The newest; "" if there was none.
    model : ModelStatus
        What predicts.
    transferred : float
        USDT paid into its books since they began, less what was taken out: no gain and no loss.
    transfer_scale : float
        By how much that has multiplied its equity: equities of two times compare once each is
        divided by the scale of its time.
    allotted_equity : float or None
        The share of the account's balance that this engine may trade with.
    version : str
        Of LeviBot.
    """

    engine: str = ""
    profile: str = ""
    mode: Mode = "paper"
    pid: int = 0
    process_start_ns: int = 0
    boot: str = ""
    state: State = "starting"
    instruments: tuple[str, ...] = ()
    heartbeat_ns: int = 0
    started_ns: int = 0
    last_bar_ns: int = 0
    last_trade_ns: int = 0
    equity: float | None = None
    cash: float | None = None
    day_start_equity: float | None = None
    peak_equity: float | None = None
    realized_pnl: float | None = None
    positions: dict[str, PositionStatus] = field(default_factory=dict)
    predictions: dict[str, PredictionStatus] = field(default_factory=dict)
    experts: dict[str, ExpertStatus] = field(default_factory=dict)
    guard: GuardLevel = field(default_factory=GuardLevel)
    counters: EngineCounters = field(default_factory=EngineCounters)
    input_ages_s: dict[str, float | None] = field(default_factory=dict)
    bar_interval_s: float = 0.0
    decision_latency_ms: LatencyHistogram = field(default_factory=LatencyHistogram)
    slippage_bps: Moments = field(default_factory=Moments)
    blocked: str = ""
    last_error: str = ""
    model: ModelStatus = field(default_factory=ModelStatus)
    allotted_equity: float | None = None
    transferred: float = 0.0
    transfer_scale: float = 1.0
    version: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able content with its schema; numbers that are not finite are null."""
        return {"schema": SCHEMA, **_finite(dataclasses.asdict(self))}

    def to_json(self) -> str:
        """Return the status as one line of JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_dict(cls, content: Any) -> EngineStatus:
        """Return the status of `to_dict`.

        Raises
        ------
        DataError
            If it is of another schema or does not fit.
        """
        if not isinstance(content, Mapping):
            raise DataError(f"an engine's status must be a JSON object, was {content!r:.80}")
        if content.get("schema") != SCHEMA:
            raise DataError(
                f"an engine's status must be of schema {SCHEMA}, was {content.get('schema')!r}: "
                "use one release of LeviBot for all processes of a state folder"
            )
        try:
            return _ADAPTER.validate_python(_without_nulls(content))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"an engine's status must fit: {where} {first['msg']}, was {first['input']!r:.80}"
            ) from None

    @classmethod
    def from_json(cls, text: str) -> EngineStatus:
        """Return the status of `to_json`.

        Raises
        ------
        DataError
            If it is no JSON, of another schema or does not fit.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise DataError(f"an engine's status must be JSON: {error}") from None
        return cls.from_dict(content)


_ADAPTER = TypeAdapter(EngineStatus)


def check_engine_name(name: str) -> str:
    """Return a name that may be part of a file's name.

    Raises
    ------
    ConfigError
        If it is not.
    """
    if _NAME.match(name) is None:
        raise ConfigError(
            "an engine's name must be 1 to 32 letters, digits, '_' or '-', such as BTCUSDT, "
            f"was {name!r}"
        )
    return name


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return value
