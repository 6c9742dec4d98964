"""Fifteen engines at a bar a second: how long decisions take, what memory they hold, and how soon a
killed one trades again.

The engines run under the real supervisor on the test exchange, each with its own symbol and a model
of the profile's default size. What the exchange and this process take comes from the same cores.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from live.engine_status import LATENCY_BUCKETS_MS, LatencyHistogram
from tests.benchmarks.harness import BenchmarkResult, main
from tests.soak.fleet import Fleet, Watch
from tests.soak.market import FleetMarket

ENGINES, TREES = 15, 300
SECONDS, RESTARTS = 60.0, 3
MEGABYTE = 1e6
FOREIGN = ("torch", "scipy", "sklearn", "pandas")
"""The last three come with LightGBM's package, whose shared library alone serves a model."""


def benchmarks() -> Iterator[BenchmarkResult]:
    """Run a fleet for a minute, then kill some of its engines."""
    with tempfile.TemporaryDirectory() as folder:
        market = FleetMarket.make(Path(folder) / "market", ENGINES, trees=TREES)
        fleet = Fleet(market, Path(folder) / "run")
        with fleet, Watch(fleet, lambda: False) as watch:
            began = time.monotonic()
            watch.until_all_trade(300.0)
            started = time.monotonic() - began
            before = processor_seconds(watch)
            time.sleep(SECONDS)
            busy = (processor_seconds(watch) - before) / SECONDS
            yield from memory(watch)
            yield from latencies(watch, busy)
            yield BenchmarkResult(
                name=f"start of {ENGINES} engines",
                value=started,
                unit="s",
                better="lower",
                note="two at once, until the last one has had a bar",
            )
            yield from restarts(watch)


def processor_seconds(watch: Watch) -> float:
    """Return the processor time that the engines have used."""
    times = (psutil.Process(one.pid).cpu_times() for one in watch.engines.values())
    return sum(one.user + one.system for one in times)


def memory(watch: Watch) -> Iterator[BenchmarkResult]:
    """Measure what each engine holds, and that it has not loaded what trains models."""
    resident, proportional = [], []
    for name, one in watch.engines.items():
        process = psutil.Process(one.pid)
        found = process.memory_full_info()
        resident.append(found.rss / MEGABYTE)
        proportional.append(found.pss / MEGABYTE)
        maps = {Path(each.path).parts for each in process.memory_maps()}
        loaded = [package for package in FOREIGN if any(package in parts for parts in maps)]
        if loaded:
            raise RuntimeError(f"engine {name} must not load {', '.join(loaded)}, did")
    note = f"{ENGINES} engines, one symbol each, {TREES} trees; no torch, no lightgbm"
    rows = (
        ("memory of an engine, resident, most", max(resident), 380.0),
        ("memory of an engine, proportional, most", max(proportional), 220.0),
        ("memory of all engines, proportional", sum(proportional), 4_000.0),
    )
    for what, value, budget in rows:
        yield BenchmarkResult(
            name=what, value=value, unit="MB", budget=budget, better="lower", note=note
        )


def latencies(watch: Watch, busy: float) -> Iterator[BenchmarkResult]:
    """Add up what the engines measured, from a bar's receipt to the sending of its orders."""
    found = [one.status.decision_latency_ms for one in watch.engines.values()]
    counts = [sum(column) for column in zip(*(one.counts for one in found), strict=True)]
    total = LatencyHistogram(
        LATENCY_BUCKETS_MS, tuple(counts), sum(one.sum for one in found), sum(counts)
    )
    mean = total.sum / max(total.count, 1)
    note = f"{total.count} decisions with orders, mean {mean:.3g} ms, engines took {busy:.2f} cores"
    for share, budget in ((0.95, 50.0), (0.99, None)):
        yield BenchmarkResult(
            name=f"bar received to order sent, P{share:.0%}".removesuffix("%"),
            value=quantile(total, share),
            unit="ms",
            budget=budget,
            better="lower",
            note=note,
        )


def quantile(found: LatencyHistogram, share: float) -> float:
    """Return a quantile, within its bucket by proportion; above the last bound, twice that."""
    needed, seen, low = share * found.count, 0, 0.0
    for bound, number in zip((*found.buckets, 2.0 * found.buckets[-1]), found.counts, strict=True):
        if number and seen + number >= needed:
            return low + (bound - low) * (needed - seen) / number
        seen, low = seen + number, bound
    raise RuntimeError("engines must have sent orders, did not")


def restarts(watch: Watch) -> Iterator[BenchmarkResult]:
    """Kill engines, one after the other, and wait until each has handled a bar again."""
    found: list[float] = []
    for name in list(watch.engines)[:RESTARTS]:
        watch.until_all_trade(60.0)
        if not watch.kill(name):
            raise RuntimeError(f"engine {name} must trade before it is killed, did not")
        watch.until_all_trade(60.0)
        found += [end - begin for begin, end in watch.engines[name].recoveries[-1:]]
    yield BenchmarkResult(
        name="SIGKILL to trading again, slowest",
        value=max(found),
        unit="s",
        budget=10.0,
        better="lower",
        note="until its next bar is handled, beside 14 others; "
        + ", ".join(f"{one:.1f}" for one in found)
        + " s; aim 3 s",
    )


if __name__ == "__main__":
    raise SystemExit(main(benchmarks))
