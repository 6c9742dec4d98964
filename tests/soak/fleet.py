"""The processes of a soak: a test exchange, the real supervisor, and who watches both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from catalog.errors import DataError, RunFailedError
from live.engine_status import EngineStatus
from live.registry import Registry
from live.state_folder import StateFolder
from tests.exchange.runner import ExchangeProcess
from tests.exchange.truth import NAME as TRUTH
from tests.soak.market import ROOT, FleetMarket

LOOK_S = 0.1
STALE_S = 5.0
"""Age of a heartbeat after which an engine counts as down, seconds; it beats once a second."""
_UP = "trading"
_WAITING = "waiting"


@dataclass
class Fleet:
    """A test exchange and a supervisor with its engines; both end with the block.

    Parameters
    ----------
    market : FleetMarket
        Catalog, plan and bundles.
    folder : Path
        New: state of both.
    speed : float
        Seconds of the market in a second.
    healthy_secs : float
        The supervisor's ``--healthy-after``.
    """

    market: FleetMarket
    folder: Path
    speed: float = 900.0
    healthy_secs: float = 60.0
    exchange: ExchangeProcess = field(init=False)
    supervisor: subprocess.Popen[bytes] | None = None
    _console: IO[bytes] | None = None

    def __post_init__(self) -> None:
        self.exchange = ExchangeProcess(self.market.exchange(self.folder / "exchange", self.speed))

    @property
    def state(self) -> StateFolder:
        """State folder of the engines."""
        return StateFolder(self.folder / "state")

    @property
    def truth(self) -> Path:
        """The exchange's truth log."""
        return self.folder / "exchange" / TRUTH

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        self.exchange.start()
        try:
            self._supervise()
        except BaseException:
            self.exchange.kill()
            raise
        return self

    def _supervise(self) -> None:
        options = (
            *("--catalog", str(self.market.catalog), "--exchange", self.exchange.url),
            *("--speed", f"{self.speed:g}"),
        )
        command = [
            *(sys.executable, "-m", "live.cli", "live", "supervise"),
            *("--engines", str(self.market.plan), "--state", str(self.state.root)),
            *("--mode", "testnet", "--healthy-after", f"{self.healthy_secs:g}"),
            *(f"--option={one}" for one in options),
        ]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("BINANCE", "LEVIBOT"))}
        keys = {"BINANCE_TESTNET_API_KEY": "test-key", "BINANCE_TESTNET_API_SECRET": "test-secret"}
        self._console = (self.folder / "supervisor.log").open("wb")
        self.supervisor = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**clean, **keys, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
        )

    def stop(self) -> int:
        """End the supervisor in order, and with it the engines; return its exit code."""
        process, self.supervisor = self.supervisor, None
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout=90.0)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def __exit__(self, *error: object) -> None:
        self.stop()
        if self._console is not None:
            self._console.close()
        self.exchange.stop()

    def console(self) -> str:
        """Return what the supervisor printed."""
        return (self.folder / "supervisor.log").read_text(encoding="utf-8", errors="replace")


@dataclass(slots=True)
class Watched:
    """What is known of one engine while it is watched; times on the monotonic clock, seconds."""

    pid: int = 0
    state: str = ""
    heartbeat_ns: int = 0
    beat_at: float = 0.0
    up_s: float = 0.0
    excused_s: float = 0.0
    down_s: float = 0.0
    killed_at: float | None = None
    killed_pid: int = 0
    recoveries: list[tuple[float, float]] = field(default_factory=list)
    """From its kill to its next bar: begin and end, monotonic seconds."""
    status: EngineStatus = field(default_factory=EngineStatus)

    @property
    def held(self) -> str:
        """Why it opens nothing new, "" if it does: its guard, or its account or clock."""
        return " ".join((*self.status.guard.reasons, self.status.blocked)).strip()

    def take(self, status: EngineStatus, now: float) -> None:
        """Take the newest status in."""
        if (status.pid, status.heartbeat_ns) != (self.pid, self.heartbeat_ns):
            self.pid, self.heartbeat_ns, self.beat_at = status.pid, status.heartbeat_ns, now
        self.state, self.status = status.state, status
        since = self.killed_at
        if since is not None and status.pid != self.killed_pid and self.trades(now):
            self.recoveries.append((since, now))
            self.killed_at = None

    def trades(self, now: float) -> bool:
        """Whether it says that it trades, has had a bar, and is alive."""
        alive = self.killed_at is None or self.pid != self.killed_pid
        fed = self.status.counters.bars > 0
        return alive and fed and self.state == _UP and now - self.beat_at <= STALE_S

    def count(self, seconds: float, now: float, *, outage: bool) -> None:
        """Add a stretch of time; `outage`: the exchange is not well, or was a moment ago."""
        alive = self.killed_at is None and now - self.beat_at <= STALE_S
        if self.trades(now):
            self.up_s += seconds
        elif outage and alive and self.state in (_UP, _WAITING):
            self.excused_s += seconds
        else:
            self.down_s += seconds


class Watch:
    """Look at every engine's status again and again, in a thread.

    Parameters
    ----------
    fleet : Fleet
        Whose.
    outage : callable
        Whether the exchange is not well, or was a moment ago.
    """

    def __init__(self, fleet: Fleet, outage: Callable[[], bool]) -> None:
        self.engines = {name: Watched() for name in fleet.market.symbols}
        self.counting = False
        self.down: list[tuple[float, str, str]] = []
        """When an engine was first seen down: seconds, engine, state; for whoever looks why."""
        self._fleet = fleet
        self._outage = outage
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join(10.0)

    def all_trade(self) -> bool:
        """Whether every engine trades."""
        now = time.monotonic()
        return all(one.trades(now) for one in self.engines.values())

    def until_all_trade(self, seconds: float) -> float:
        """Wait until every engine trades; return how long that took.

        Raises
        ------
        RunFailedError
            If it does not come true in time, or the supervisor ends.
        """
        began = time.monotonic()
        while not self.all_trade():
            supervisor = self._fleet.supervisor
            ended = supervisor is None or supervisor.poll() is not None
            if ended or time.monotonic() - began > seconds:
                states = {name: one.state for name, one in self.engines.items()}
                raise RunFailedError(
                    f"within {seconds:g} s every engine must trade, were {states}; "
                    f"supervisor: {self._fleet.console()[-2_000:]}"
                )
            time.sleep(LOOK_S)
        return time.monotonic() - began

    def kill(self, name: str) -> int:
        """End an engine as a power cut does; return its process, 0 if it is down already."""
        with self._lock:
            one = self.engines[name]
            if one.killed_at is not None or not one.trades(time.monotonic()):
                return 0
            os.kill(one.pid, signal.SIGKILL)
            one.killed_at, one.killed_pid = time.monotonic(), one.pid
            return one.pid

    def _run(self) -> None:
        registry: Registry | None = None
        before = time.monotonic()
        was_up = dict.fromkeys(self.engines, True)
        while not self._end.wait(LOOK_S):
            try:
                if registry is None and self._fleet.state.registry.exists():
                    registry = Registry(self._fleet.state.registry, create=False)
                statuses = {} if registry is None else registry.statuses()
            except DataError:
                continue
            now, outage = time.monotonic(), self._outage()
            with self._lock:
                for name, one in self.engines.items():
                    if name in statuses:
                        one.take(statuses[name], now)
                    if self.counting:
                        lost = one.down_s
                        one.count(now - before, now, outage=outage)
                        up = one.down_s == lost
                        if was_up[name] and not up:
                            self.down.append((now, name, one.state))
                        was_up[name] = up
            before = now
        if registry is not None:
            registry.close()


@dataclass
class TruthTail:
    """Read the truth log while it is written, and note when each line came."""

    path: Path
    lines: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="truth", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Read to the end and stop."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(30.0)

    def _run(self) -> None:
        rest = ""
        while not self.path.exists() and not self._end.wait(LOOK_S):
            pass
        with self.path.open(encoding="utf-8") as file:
            while True:
                last = self._end.is_set()
                text = file.read()
                now = time.monotonic()
                rest, found = _whole(rest + text)
                self.lines += [(now, json.loads(line)) for line in found if _tells(line)]
                if last and not text:
                    return
                if not text:
                    self._end.wait(0.03)

    def events(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Yield what accounts were told, with the time at which it was seen."""
        for when, line in self.lines:
            for event in line.get("events", ()):
                yield when, event

    def last_trades(self) -> dict[str, float]:
        """Return when each symbol was traded last."""
        return {
            event["o"]["s"]: when
            for when, event in self.events()
            if event["e"] == "ORDER_TRADE_UPDATE" and event["o"]["x"] == "TRADE"
        }


def _tells(line: str) -> bool:
    """Whether a line says more than that time went on."""
    return '"events"' in line or '"do":"place"' in line or '"note"' in line


def _whole(text: str) -> tuple[str, list[str]]:
    *lines, rest = text.split("\n")
    return rest, lines
