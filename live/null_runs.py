"""The whole pipeline on markets in which nothing can be foretold, again and again.

A hundred runs of the full pipeline would take a night. A stated reduced one stands in for it:
boosted trees only, fewer and smaller, on the last part of the span, two folds. It is run in the
same way on the real market and on every null market, and the real result is held against the
null results: what is judged is whether the pipeline finds more than luck would let it find.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from catalog.config import Config
from catalog.timestamps import NS_PER_DAY, format_time
from live.kept_jobs import Bench, Job, Result
from live.pipeline import Market, load_market
from live.profile import Profile, parse_profile
from live.replay_jobs import code_identity, earned
from live.runs import keep_large_blocks_apart, peak_memory_mb, release_memory
from live.trial_records import Judged
from research.fit_job import FitOptions
from research.metrics import prediction_metrics
from research.null_test import NullConfig, NullKind, null_panel, p_value
from research.predictions import PrecomputedPredictions
from research.settings import predictor_spec
from research.walkforward import predict_forward

if TYPE_CHECKING:
    import pandas as pd

STATISTICS = ("log_loss_skill", "net_sharpe", "gross_sharpe")
"""Keys of a run that get a p-value: skill of the probabilities, Sharpe ratio after all costs and
before fees and slippage (which tells of the signal where costs eat all)."""
TRAIN_DAYS, TEST_DAYS = 240, 120
_TREES = {"n_trees": 30, "num_leaves": 15, "learning_rate": 0.1, "binning_rows": 10_000}
FIRST_SEED = 1_000
"""Seed of the first null market; the others follow."""


class NullTestConfig(Config):
    """How the null test is made.

    Parameters
    ----------
    runs : int
        Null markets; 0 leaves the test out. No p-value is below ``1 / (runs + 1)``.
    kind : {"block_shuffle", "random_sign", "phase"}
        See `research.null_test`.
    block_bars : int
        Length of shuffled blocks, bars.
    """

    runs: int = Field(default=100, ge=0, le=100_000)
    kind: NullKind = "block_shuffle"
    block_bars: int = Field(default=1, ge=1)

    def markets(self) -> list[NullConfig]:
        """Return the null markets, each with its seed."""
        return [
            NullConfig(kind=self.kind, block_bars=self.block_bars, seed=FIRST_SEED + number)
            for number in range(self.runs)
        ]


@dataclass(frozen=True, slots=True)
class NullRequest:
    """One run of a reduced profile: on the real market, or on a null market."""

    profile: Profile
    catalog: Path
    null: NullConfig | None

    def job(self, data_hash: str) -> Job:
        """Return the run as a piece of work; the hash is that of the reduced span's panel."""
        question = {
            "work": "null run",
            "profile": self.profile.content_hash(),
            "data": data_hash,
            "null": None if self.null is None else self.null.model_dump(mode="json"),
            **code_identity(self.profile),
        }
        return Job(question, run_reduced, self)


def reduced_profile(profile: Profile) -> Profile:
    """Return the stated small stand-in for a profile's pipeline.

    Features, label, costs and strategy are the profile's. The rest: boosted trees alone (30 of 15
    leaves), Platt calibration, two expanding folds over the last 120 days, trained from 240 days
    before them; of a shorter span a third is tested. One thread.
    """
    content = profile.model_dump(mode="json")
    own = content["experts"]["lightgbm"] or {}
    trees = {"mirror": own.get("mirror", False), "seed": profile.seed, **_TREES}
    if own:
        trees["min_rows_in_leaf"] = own["min_rows_in_leaf"]
    end = profile.validation.test_end or profile.data.end
    days = min((end - profile.data.start) // NS_PER_DAY, TRAIN_DAYS + TEST_DAYS)
    tested = max(1, min(TEST_DAYS, days // 3))
    content |= {
        "name": f"{profile.name}.reduced"[:64],
        "description": "reduced for the null test",
        "experts": {"lightgbm": trees},
        "data": {**content["data"], "start": end - days * NS_PER_DAY, "end": end},
        "calibration": {**content["calibration"], "method": "platt", "inner_folds": 2},
        "fusion": {**content["fusion"], "method": "equal"},
        "validation": {
            **content["validation"],
            "scheme": "expanding",
            "train_bars": None,
            "n_folds": 2,
            "test_start": end - tested * NS_PER_DAY,
            "test_end": None,
        },
        "threads": 1,
    }
    return parse_profile(content, f"{profile.name}, reduced")


def run_reduced(request: NullRequest) -> Result:
    """Load, fit, predict, replay and measure; `STATISTICS` are among the result's keys."""
    from strategies.backtest import run_backtest

    keep_large_blocks_apart()
    started = time.perf_counter()
    profile = request.profile
    market = load_market(profile, request.catalog)
    if request.null is not None:
        market = null_market(market, request.null)
    config = profile.walk_forward_config()
    frame = predict_forward(market.panel, config, FitOptions())
    interval = market.panel.interval_ns
    start, end = int(frame["ts_init"].min()) - interval, int(frame["ts_init"].max())
    spec = predictor_spec(config, market.panel.instruments(), interval)
    outcome = run_backtest(
        market.replay_inputs(start, end, len(frame)),
        PrecomputedPredictions.from_frame(frame, spec),
        profile.strategy,
        profile.execution,
    )
    balance = profile.execution.starting_balance
    found = earned(outcome, start=start, end=end, starting_balance=balance)
    skill = _skill(frame)
    release_memory()
    return {
        **found,
        "log_loss_skill": skill,
        "start": start,
        "end": end,
        "data_hash": market.panel.data_hash,
        "synthetic": market.panel.synthetic,
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_mb": peak_memory_mb(),
    }


def null_market(market: Market, config: NullConfig) -> Market:
    """Return a market whose bars are null data; funding stays at its own times."""
    decimals = {str(one.id): int(one.price_precision) for one in market.instruments}
    return replace(market, panel=null_panel(market.panel, config, price_decimals=decimals))


def _skill(frame: pd.DataFrame) -> float:
    return float(prediction_metrics(frame, samples=0)["log_loss_skill"].value)


def judged(result: Mapping[str, Any]) -> Judged:
    """Return what a run's trades were judged on, for the ledger."""
    return Judged(result["data_hash"], result["synthetic"], result["start"], result["end"])


def null_test(
    profile: Profile, catalog: Path, config: NullTestConfig, bench: Bench
) -> dict[str, Any]:
    """Run the reduced pipeline on the real market and on all null markets.

    Parameters
    ----------
    profile : Profile
        The full one.
    catalog : Path
        Data.
    config : NullTestConfig
        At least one run.
    bench : Bench
        Where runs are done and kept: those that are there already are not made again.

    Returns
    -------
    dict
        ``config``, ``reduced`` (what the stand-in is), ``observed`` (its result on the real
        market), ``null`` (each statistic's values by run), ``p_values`` and how long runs took.
    """
    small = reduced_profile(profile)
    data_hash = load_market(small, catalog).panel.data_hash
    requests = [NullRequest(small, catalog, one) for one in (None, *config.markets())]
    results = bench.run("null runs", [request.job(data_hash) for request in requests])
    observed, null = results[0], results[1:]
    values = {name: [float(one[name]) for one in null] for name in STATISTICS}
    return {
        "config": config.model_dump(mode="json"),
        "reduced": reduced_facts(small),
        "reduced_profile": small.model_dump(mode="json"),
        "observed": observed,
        "null": values,
        "trades": [int(one["trades"]) for one in null],
        "p_values": {name: p_value(float(observed[name]), values[name]) for name in STATISTICS},
        "seconds_per_run": _median([one["seconds"] for one in results]),
        "peak_memory_mb": max(one["peak_memory_mb"] for one in results),
    }


def reduced_facts(small: Profile) -> dict[str, Any]:
    """Return what a reduced profile is, for a report."""
    trees = small.experts.lightgbm
    assert trees is not None
    return {
        "from": format_time(small.data.start),
        "test_from": format_time(small.validation.test_start),
        "to": format_time(small.data.end),
        "folds": small.validation.n_folds,
        "trees": trees.n_trees,
        "leaves": trees.num_leaves,
        "mirror": trees.mirror,
        "calibration": small.calibration.method,
    }


def _median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 3)
