"""A soak from its settings to its verdict."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from live.registry import Registry
from tests.soak.chaos import KILL, LONGEST_OUTAGE_S, Chaos, ChaosPlan
from tests.soak.fleet import Fleet, TruthTail, Watch, Watched
from tests.soak.market import FleetMarket
from tests.soak.verdict import Audit, Naked, compare, log_kinds, naked_times

_START_S = 300.0
_SETTLE_S = 60.0
_UNANSWERED_S = 35.0
_CALM_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakConfig:
    """What a soak does, and what it demands.

    Parameters
    ----------
    minutes : float
        How long things go wrong.
    engines : int
        How many, at most fifteen.
    speed : float
        Market seconds in a second: 900 is a bar a second.
    seed : int
        Of the mishaps.
    fault_every_s, kill_every_s : float
        See `ChaosPlan`.
    healthy_secs : float
        After so long without a failure the supervisor forgets earlier ones: random kills are to
        stop no engine for good.
    uptime : float
        Least share of time in which engines trade, see `docs/live/soak.md`.
    recovery_s : float
        Longest time from SIGKILL to the first bar that is handled again, seconds.
    naked_s : float
        Longest time without a stop while the engine runs and the exchange is well, seconds: the
        alarm comes after 2 s, and its exit fills at the next bar's open.
    idle_s : float
        Half of the engines trade in the last so many seconds: those of some symbols are idle for
        longer, but a fleet that only says that it trades does not.
    """

    minutes: float = 30.0
    engines: int = 15
    speed: float = 900.0
    seed: int = 1
    fault_every_s: float = 20.0
    kill_every_s: float = 45.0
    healthy_secs: float = 60.0
    uptime: float = 0.99
    recovery_s: float = 10.0
    naked_s: float = 4.0
    idle_s: float = 120.0


@dataclass
class SoakReport:
    """What a soak found; `failures` is empty where all demands are met."""

    config: SoakConfig
    figures: dict[str, Any] = field(default_factory=dict)
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    mishaps: list[dict[str, Any]] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write all of it as JSON."""
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        partial.replace(path)


def soak(config: SoakConfig, folder: Path, say: Callable[[str], None] = print) -> SoakReport:
    """Run a soak in a new folder and judge it.

    Raises
    ------
    RunFailedError
        If engines do not even begin, or do not come back at the end.
    """
    report = SoakReport(config)
    say(f"{config.engines} engines, {config.minutes:g} minutes, seed {config.seed}")
    market = FleetMarket.make(folder / "market", config.engines, days=_days(config))
    fleet = Fleet(market, folder / "run", config.speed, config.healthy_secs)
    with fleet, TruthTail(fleet.truth) as tail:
        chaos = Chaos(fleet.exchange.remote, say)
        with Watch(fleet, chaos.outage) as watch:
            say(f"all engines trade after {watch.until_all_trade(_START_S):.1f} s")
            began = _go_wrong(config, fleet, chaos, watch)
            ended = time.monotonic()
            fleet.exchange.remote.clear_faults()
            report.figures["settled_s"] = watch.until_all_trade(_SETTLE_S)
            # An order that nobody answered is given up after 30 s, and books are compared
            # every 15 s.
            time.sleep(_UNANSWERED_S)
            report.figures["held"] = {n: w.held for n, w in watch.engines.items() if w.held}
            fleet.exchange.remote.pause()
            time.sleep(_CALM_S)
            stopped = time.monotonic()
            report.figures["supervisor_exit"] = fleet.stop()
        account = fleet.exchange.remote.accounts()["main"]
        state = fleet.exchange.remote.state()
        report.figures["too_many_requests"] = state["too_many"]
        report.figures["weight"] = state["weight"]
        tail.finish()
    audit = _audit(fleet, account, tail)
    report.differences = list(audit.differences)
    report.mishaps = [one._asdict() for one in chaos.done]
    report.engines = {name: _engine(one) for name, one in watch.engines.items()}
    traded = tail.last_trades()
    for name, told in report.engines.items():
        told["idle_s"] = max(0.0, ended - traded.get(name, began))
    naked = naked_times(tail, stopped)
    report.figures |= _figures(watch, audit, fleet, ended - began)
    report.figures |= _recovery_figures(chaos, watch)
    report.figures |= _naked_figures(naked, chaos, watch)
    report.failures = failures(report)
    return report


def _days(config: SoakConfig) -> int:
    """Return how long a market must be that does not end before the soak."""
    return 40 + int((config.minutes * 60.0 + _START_S + _SETTLE_S + 120.0) * config.speed / 86_400)


def _go_wrong(config: SoakConfig, fleet: Fleet, chaos: Chaos, watch: Watch) -> float:
    """Let things go wrong for as long as was asked; return when that began."""
    seconds = config.minutes * 60.0
    plan = ChaosPlan(
        seconds=seconds,
        engines=fleet.market.symbols,
        seed=config.seed,
        fault_every_s=config.fault_every_s,
        kill_every_s=config.kill_every_s,
    )
    began = time.monotonic()
    watch.counting = True
    chaos.run(plan.mishaps(), watch, began)
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    watch.counting = False
    return began


def _audit(fleet: Fleet, account: Mapping[str, Any], tail: TruthTail) -> Audit:
    registry = Registry(fleet.state.registry, create=False)
    try:
        return compare(fleet, tail, registry.statuses(), account)
    finally:
        registry.close()


def _engine(one: Watched) -> dict[str, Any]:
    counters = one.status.counters
    return {
        "up_s": one.up_s,
        "excused_s": one.excused_s,
        "down_s": one.down_s,
        "recoveries_s": [end - begin for begin, end in one.recoveries],
        "reconnects": counters.reconnects,
        "naked_alarms": counters.naked_alarms,
        "latency_p95_ms": one.status.decision_latency_ms.quantile(0.95),
        "last_error": one.status.last_error,
    }


def _figures(watch: Watch, audit: Audit, fleet: Fleet, seconds: float) -> dict[str, Any]:
    engines = watch.engines.values()
    up = sum(one.up_s for one in engines)
    excused = sum(one.excused_s for one in engines)
    down = sum(one.down_s for one in engines)
    registry = Registry(fleet.state.registry, create=False)
    records = registry.records()
    registry.close()
    return {
        "seconds": seconds,
        "uptime": (up + excused) / (up + excused + down),
        "uptime_outages_counted": up / (up + excused + down),
        "orders": audit.orders,
        "trades": audit.fills,
        "refused": audit.refused,
        "restarts": sum(one.restarts for one in records.values()),
        "given_up": [name for name, one in records.items() if one.stage == "given_up"],
        "log_lines": dict(log_kinds(fleet.state.logs)),
    }


def _recovery_figures(chaos: Chaos, watch: Watch) -> dict[str, Any]:
    """Say how long engines took to come back: in good times, and with the exchange out."""
    engines = watch.engines.values()
    spans = [one for engine in engines for one in engine.recoveries]
    out = {one for one in spans if chaos.out_in(*one)}
    return {
        "kills": len(spans) + sum(one.killed_at is not None for one in engines),
        "slowest_recovery_s": max((b - a for a, b in spans if (a, b) not in out), default=0.0),
        "slowest_recovery_mishap_s": max((b - a for a, b in out), default=0.0),
        "median_recovery_s": median(b - a for a, b in spans) if spans else 0.0,
    }


def _naked_figures(naked: list[Naked], chaos: Chaos, watch: Watch) -> dict[str, Any]:
    """Say for how long positions were without a stop: in good times, and around mishaps."""
    well, ill = [0.0], [0.0]
    for one in naked:
        (ill if chaos.touched(one.symbol, one.begin, one.end) else well).append(one.seconds)
    return {
        "positions_without_stop": len(naked),
        "longest_without_stop_s": max(well),
        "longest_without_stop_mishap_s": max(ill),
        "naked_alarms": sum(one.status.counters.naked_alarms for one in watch.engines.values()),
    }


def failures(report: SoakReport) -> list[str]:
    """Return the demands that a soak did not meet, in words."""
    found: list[str] = []
    config, figures = report.config, report.figures
    for name, most in (
        ("slowest_recovery_s", config.recovery_s),
        ("slowest_recovery_mishap_s", config.recovery_s + LONGEST_OUTAGE_S),
        ("longest_without_stop_s", config.naked_s),
        ("longest_without_stop_mishap_s", config.naked_s + config.recovery_s),
    ):
        if figures[name] > most:
            found.append(f"{name} must be at most {most:g}, was {figures[name]:.2f}")
    if figures["uptime"] < config.uptime:
        found.append(f"uptime must be at least {config.uptime:.1%}, was {figures['uptime']:.2%}")
    if report.differences:
        found.append(f"journals and exchange must agree, did not {len(report.differences)} times")
    idle = sorted(one["idle_s"] for one in report.engines.values())
    if idle[(len(idle) - 1) // 2] > config.idle_s:
        found.append(
            f"half of the engines must trade in the last {config.idle_s:g} s, last did "
            f"{', '.join(f'{one:.0f}' for one in idle)} s before the end"
        )
    for name, wanted in (("given_up", []), ("held", {}), ("supervisor_exit", 0)):
        if figures[name] != wanted:
            found.append(f"{name} must be {wanted}, was {figures[name]}")
    kills = Counter(one["name"] for one in report.mishaps)[KILL]
    recovered = sum(len(one["recoveries_s"]) for one in report.engines.values())
    if recovered != kills:
        found.append(f"every killed engine must trade again, {recovered} of {kills} did")
    return found
