"""A state folder with engines that say everything an engine can say, for who observes them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from live.engine_status import (
    EngineCounters,
    EngineStatus,
    ExpertStatus,
    GuardLevel,
    LatencyHistogram,
    ModelStatus,
    Moments,
    PositionStatus,
    PredictionStatus,
)
from live.registry import EngineRecord, Registry

NS = 1_000_000_000
BTC, ETH = "BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE"


def trading(now: int, **changes: Any) -> EngineStatus:
    """An engine in good health, with every field filled."""
    status = EngineStatus(
        engine="BTCUSDT",
        profile="perps-swing",
        mode="paper",
        pid=1,
        state="trading",
        instruments=(BTC,),
        heartbeat_ns=now,
        started_ns=now - 7_500 * NS,
        last_bar_ns=now - 400 * NS,
        last_trade_ns=now - 5_000 * NS,
        equity=10_123.5,
        cash=10_100.0,
        day_start_equity=10_050.0,
        peak_equity=10_200.0,
        realized_pnl=100.0,
        positions={BTC: PositionStatus(0.05, 97_000.0, 97_400.0, 95_500.0)},
        predictions={BTC: PredictionStatus(now - 400 * NS, 0.561, 0.021, 0.4)},
        experts={"lightgbm": ExpertStatus(calls=120), "lstm": ExpertStatus("open", 2, 3, 90)},
        counters=EngineCounters(bars=300, late=2, predictions=280, orders=12, fills=9),
        input_ages_s={"funding": 120.5, "fear_greed": None},
        bar_interval_s=900.0,
        decision_latency_ms=LatencyHistogram(
            counts=(0, 0, 5, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1), sum=6_050.0, count=10
        ),
        slippage_bps=Moments(-13.5, 9),
        model=ModelStatus("bundles/swing", "abc123", now - 30 * 86_400 * NS, {"auc": 0.53}),
        allotted_equity=10_000.0,
        version="0.1.0",
    )
    return replace(status, **changes)


def halted(now: int) -> EngineStatus:
    """An engine whose guard has fired, and whose prediction is degraded."""
    return trading(
        now,
        engine="ETHUSDT",
        state="halted",
        instruments=(ETH,),
        equity=9_700.0,
        day_start_equity=10_000.0,
        positions={},
        predictions={ETH: PredictionStatus(now - 400 * NS, 0.441, 0.05, 0.1, True)},
        guard=GuardLevel("halted", ("daily_loss",)),
    )


def record(name: str, **changes: Any) -> EngineRecord:
    """What a supervisor knows of an engine that runs."""
    known = EngineRecord(
        name,
        stage="running",
        wanted=True,
        pid=1,
        restarts=4,
        cpu_frac=0.034,
        rss_bytes=330 * 2**20,
        pss_bytes=190 * 2**20,
    )
    return replace(known, **changes)


def supervise(registry: Registry, pid: int = 1) -> None:
    """Say that a supervisor is there."""
    registry.set_fact("supervisor", json.dumps({"pid": pid}))


def make_fleet(state: Path, *, healthy: bool = False) -> Registry:
    """Write two engines: one that trades, and one that does too or is halted."""
    state.mkdir(parents=True, exist_ok=True)
    registry, now = Registry(state / "registry.db"), time.time_ns()
    registry.publish(trading(now))
    other = trading(now, engine="ETHUSDT", instruments=(ETH,)) if healthy else halted(now)
    registry.publish(other)
    for name in ("BTCUSDT", "ETHUSDT"):
        registry.record(record(name))
    supervise(registry)
    return registry
