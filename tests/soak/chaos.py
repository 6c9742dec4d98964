"""What goes wrong in a soak, and when: drawn from a seed before it begins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from catalog.errors import RunFailedError
from tests.exchange.runner import Remote
from tests.soak.fleet import Watch

KILL = "SIGKILL"
GRACE_S = 10.0
"""After an outage of the exchange its engines have so long to trade again, seconds."""
LONGEST_OUTAGE_S = 5.0
"""No outage is longer, seconds."""
_OUTAGES = frozenset(
    {"drop", "silence", "rate_limit", "ban", "server_error", "slow", "listen_key_expired"}
    | {"maintenance", "clock_skew", "lost_answer"}
)


class Mishap(NamedTuple):
    """One thing that goes wrong: seconds after the start, its name, and its details."""

    at: float
    name: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChaosPlan:
    """How much goes wrong.

    Parameters
    ----------
    seconds : float
        How long.
    engines : tuple of str
        Who may be killed.
    seed : int
        Same seed, same mishaps.
    fault_every_s, kill_every_s : float
        Mean time between two faults of the exchange, and between two kills; 0 for none.
    """

    seconds: float
    engines: tuple[str, ...]
    seed: int = 1
    fault_every_s: float = 20.0
    kill_every_s: float = 45.0

    def mishaps(self) -> list[Mishap]:
        """Return what goes wrong, in order."""
        random = Random(self.seed)
        found = [
            Mishap(at, KILL, {"engine": random.choice(self.engines)})
            for at in _times(random, self.kill_every_s, self.seconds)
        ]
        names = list(_DRAWS)
        for number, at in enumerate(_times(random, self.fault_every_s, self.seconds)):
            if number % len(names) == 0:
                # Each comes once before one comes again.
                random.shuffle(names)
            name = names[number % len(names)]
            found.append(Mishap(at, name, _DRAWS[name](random)))
        return sorted(found, key=lambda one: one.at)


def _times(random: Random, every: float, seconds: float) -> list[float]:
    found: list[float] = []
    at = 0.0
    while every > 0.0:
        # Neither a clock's tick nor two at once: half the mean, and up to as much again.
        at += every * random.uniform(0.5, 1.5)
        if at >= seconds:
            break
        found.append(at)
    return found


def _channel(random: Random) -> str:
    return random.choice(("market", "user", "trading", "all"))


_DRAWS: dict[str, Callable[[Random], dict[str, Any]]] = {
    "drop": lambda r: {"channel": _channel(r)},
    "silence": lambda r: {"channel": _channel(r), "seconds": r.uniform(1.0, 4.0)},
    "rate_limit": lambda r: {"seconds": r.uniform(1.0, 4.0), "retry_after": r.randint(1, 2)},
    "ban": lambda r: {"seconds": r.uniform(1.0, 3.0), "retry_after": r.randint(1, 3)},
    "server_error": lambda r: {
        "seconds": r.uniform(1.0, 4.0),
        "status": r.choice((500, 502, 503, 504)),
    },
    "slow": lambda r: {"seconds": r.uniform(2.0, LONGEST_OUTAGE_S), "delay_s": r.uniform(0.2, 1.5)},
    "lost_answer": lambda r: {"times": r.randint(1, 3), "path": "rder"},
    "duplicate": lambda r: {"channel": _channel(r), "seconds": r.uniform(3.0, 8.0)},
    "reorder": lambda r: {"channel": _channel(r), "seconds": r.uniform(3.0, 8.0)},
    "listen_key_expired": lambda r: {},
    "reject_stop": lambda r: {"times": r.randint(1, 2), "code": -2021},
    "reject_order": lambda r: {"times": r.randint(1, 2), "code": -2019},
    "clock_skew": lambda r: {
        "seconds": r.uniform(2.0, 4.0),
        "skew_ms": r.choice((-8_000, -2_000, 2_000, 8_000)),
    },
    "maintenance": lambda r: {"seconds": r.uniform(1.0, LONGEST_OUTAGE_S)},
}


@dataclass
class Chaos:
    """Lets things go wrong.

    Parameters
    ----------
    remote : Remote
        The exchange.
    say : callable
        Told each mishap in words.
    """

    remote: Remote
    say: Callable[[str], None]
    done: list[Mishap] = field(default_factory=list)
    spans: list[tuple[float, float, str, str]] = field(default_factory=list)
    """When something was wrong: begin, end (monotonic seconds), name, and with which engine."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def outage(self) -> bool:
        """Whether the exchange is not well, or was within the grace."""
        now = time.monotonic()
        with self._lock:
            return any(a <= now <= b + GRACE_S for a, b, name, _ in self.spans if name in _OUTAGES)

    def out_in(self, begin: float, end: float) -> bool:
        """Whether the exchange was not well at some time of a stretch."""
        with self._lock:
            spans = [(a, b) for a, b, name, _ in self.spans if name in _OUTAGES]
        return any(a <= end and begin <= b for a, b in spans)

    def touched(self, engine: str, begin: float, end: float) -> bool:
        """Whether something was wrong with the exchange or an engine in a stretch of time."""
        return any(
            a <= end and begin <= b + GRACE_S and whose in ("", engine)
            for a, b, _, whose in self.spans
        )

    def run(self, mishaps: Sequence[Mishap], watch: Watch, began: float) -> None:
        """Let each happen at its time."""
        for one in mishaps:
            time.sleep(max(0.0, began + one.at - time.monotonic()))
            self._happen(one, watch, began)

    def _happen(self, one: Mishap, watch: Watch, began: float) -> None:
        now = time.monotonic()
        details = ", ".join(
            f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in one.details.items()
        )
        if one.name == KILL and not watch.kill(one.details["engine"]):
            self.say(f"{now - began:7.1f} s  {one.details['engine']} is down already")
            return
        with self._lock:
            end = now + one.details.get("seconds", 0.0)
            self.spans.append((now, end, one.name, one.details.get("engine", "")))
        if one.name != KILL:
            try:
                self.remote.fault(one.name, **one.details)
            except RunFailedError as error:
                self.say(f"{now - began:7.1f} s  {one.name} could not be asked for: {error}")
                return
        self.done.append(one)
        self.say(f"{now - began:7.1f} s  {one.name} {details}")
