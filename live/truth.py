"""The checker checked: an edge that is there is found, and none where none is.

Small synthetic markets are made whose edge is known (`adapters.synthetic`), half of them without
any. Each goes through the whole pipeline: features, boosted trees, calibration, two folds,
replays in the engine with five entry thresholds, of which the best is kept, and its Sharpe ratio
is deflated by the five trials. Above 0.95 the pipeline claims to have found something.

Trading costs nothing here. With costs a market without edge loses money, and no statistic is
needed to see it; without them only luck stands between the two cases.

================  ==================================================================
truth.json        every row, and whether the checker passed
truth.md          the same for people
truth.png         the claims
profile.yaml      the profile, of the first market
================  ==================================================================
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from adapters.synthetic import SyntheticConfig
from catalog.config import Config
from catalog.errors import AuditFailedError, ConfigError
from catalog.progress import Progress, no_progress
from catalog.strict_yaml import explain
from catalog.timestamps import format_time
from live.kept_jobs import Bench, Job, Result
from live.pipeline import load_market
from live.profile import Profile, dump_profile, load_profile, parse_profile
from live.replay_jobs import code_identity, earned
from live.runs import (
    PROFILE_FILE,
    Stopwatch,
    check_free,
    code_version,
    finite,
    keep_large_blocks_apart,
    peak_memory_mb,
    run_folder,
    write_json,
)
from live.synthesis import make_market
from live.trial_records import Judged, trial_of_results
from research.fit_job import FitOptions
from research.fold_store import held_alone
from research.metrics import prediction_metrics
from research.parallel import ALONE, Workers
from research.predictions import PrecomputedPredictions
from research.settings import predictor_spec
from research.trials import TrialCount, TrialResults
from research.validation_plots import claims_figure, validation_pictures
from research.walkforward import predict_forward
from strategies.policy_config import FusionPolicy

RECORD_FILE, PAGE_FILE, PICTURE_FILE = "truth.json", "truth.md", "truth.png"
SIGNIFICANT = 0.95
"""A deflated Sharpe ratio above this is a claim."""
MOST_FALSE, LEAST_FOUND = 0.1, 0.9
"""Shares of markets: at most so many false claims without an edge, at least so many with one."""
ENTRIES = (0.501, 0.505, 0.51, 0.53, 0.55)
"""Entry thresholds that are tried: low ones, so that the slightest opinion is traded."""
_BASE = "synthetic"


class TruthConfig(Config):
    """Which markets are made.

    Parameters
    ----------
    seeds : int
        Markets with and without the edge, each.
    first_seed : int
        Seed of the first market; the others follow.
    edge : float
        The planted one; see `SyntheticConfig`.
    days : int
        Length of a market; the second half is tested.
    """

    seeds: int = Field(default=20, ge=1, le=10_000)
    first_seed: int = Field(default=1, ge=0)
    edge: float = Field(default=1.0, gt=0.0, le=5.0)
    days: int = Field(default=90, ge=45, le=3_650)

    def requests(self) -> list[TruthRequest]:
        """Return every market, those without an edge first."""
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        return [TruthRequest(edge, seed, self.days) for edge in (0.0, self.edge) for seed in seeds]


def truth_config(*, seeds: int, edge: float, days: int) -> TruthConfig:
    """Return settings from what the command line gave.

    Raises
    ------
    ConfigError
        Naming what is out of range.
    """
    try:
        return TruthConfig(seeds=seeds, edge=edge, days=days)
    except ValidationError as error:
        faults = "; ".join(explain(one, TruthConfig, "option") for one in error.errors())
        raise ConfigError(f"a truth table's markets are out of range: {faults}") from None


@dataclass(frozen=True, slots=True)
class TruthRequest:
    """One market: its edge, its seed and its length in days."""

    edge: float
    seed: int
    days: int

    @property
    def market(self) -> SyntheticConfig:
        """What the market is made from."""
        instruments = ("BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE")
        return SyntheticConfig(
            seed=self.seed,
            instruments=instruments,
            days=self.days,
            edge=self.edge,
            news_per_day=0.0,
        )

    @property
    def profile(self) -> Profile:
        """The pipeline that the market goes through."""
        content = load_profile(_BASE).model_dump(mode="json")
        market = self.market
        clock = market.clock()
        end = clock.start + clock.n_bars * clock.interval_ns
        free = dict.fromkeys(("maker_fee_bps", "taker_fee_bps", "slippage_bps"), 0.0)
        content |= {
            "name": "truth",
            "description": "a small synthetic market, traded for free",
            "seed": self.seed,
            "data": {**content["data"], "instruments": market.instruments, "end": end},
            "features": {**content["features"], "ratios": [market.instruments]},
            "validation": {
                **content["validation"],
                "n_folds": 2,
                "test_start": end
                - (end - clock.start) // 2 // clock.interval_ns * clock.interval_ns,
            },
            "strategy": {**content["strategy"], "entry_threshold": ENTRIES[0]},
            "execution": {**content["execution"], **free, "fee_tier": "explicit"},
            "threads": 1,
        }
        return parse_profile(content, "truth")

    def job(self) -> Job:
        """Return it as a piece of work."""
        profile = self.profile
        question = {
            "work": "truth",
            "market": self.market.model_dump(mode="json"),
            "profile": profile.content_hash(),
            "entries": list(ENTRIES),
            **code_identity(profile),
        }
        return Job(question, judge_market, self)


def judge_market(request: TruthRequest) -> Result:
    """Make a market, run the pipeline over it and deflate the best of its trials.

    Returns
    -------
    dict
        edge, seed, ``dsr`` (None where nothing was traded), ``sharpe`` and ``threshold`` (annual),
        ``trades`` and ``entry`` of the best, ``log_loss_skill``, and what it took.
    """
    from strategies.backtest import run_backtest

    keep_large_blocks_apart()
    started = time.perf_counter()
    profile = request.profile
    with tempfile.TemporaryDirectory(prefix="levibot-truth-") as folder:
        make_market(Path(folder) / "catalog", request.market)
        market = load_market(profile, Path(folder) / "catalog")
        config = profile.walk_forward_config()
        frame = predict_forward(market.panel, config, FitOptions())
        interval = market.panel.interval_ns
        start, end = int(frame["ts_init"].min()) - interval, int(frame["ts_init"].max())
        inputs = market.replay_inputs(start, end, len(frame))
    spec = predictor_spec(config, market.panel.instruments(), interval)
    served = PrecomputedPredictions.from_frame(frame, spec)
    balance = profile.execution.starting_balance
    on = Judged(market.panel.data_hash, True, start, end)
    tried = []
    for entry in ENTRIES:
        policy = _with_entry(profile.strategy, entry)
        outcome = run_backtest(inputs, served, policy, profile.execution)
        found = earned(outcome, start=start, end=end, starting_balance=balance)
        returns = np.array(found["returns"], dtype=np.float64)
        results = TrialResults.of_returns(returns, net_return=float(str(found["net_return"])))
        own = profile.model_copy(update={"strategy": policy})
        tried.append((entry, found, trial_of_results(own, {"name": "truth"}, results, on)))
    entry, found, best = max(tried, key=lambda one: _ratio(one[2].results))
    verdict = TrialCount.of(one[2] for one in tried).deflated(best.results).as_dict()
    return {
        "edge": request.edge,
        "seed": request.seed,
        "dsr": verdict["dsr"],
        "sharpe": best.results.sharpe_annual,
        "threshold": verdict["threshold_annual"],
        "trials": verdict["count"],
        "entry": entry,
        "trades": found["trades"],
        "log_loss_skill": float(prediction_metrics(frame, samples=0)["log_loss_skill"].value),
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_mb": peak_memory_mb(),
    }


def _with_entry(policy: FusionPolicy, entry: float) -> FusionPolicy:
    return FusionPolicy.model_validate({**policy.model_dump(mode="json"), "entry_threshold": entry})


def _ratio(results: TrialResults) -> float:
    return -np.inf if results.sharpe is None else results.sharpe


@dataclass(frozen=True, slots=True)
class TruthSummary:
    """The table, and whether the checker passed."""

    folder: Path
    record: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return everything for programs."""
        return {"folder": str(self.folder), **self.record}

    def require(self) -> None:
        """Raise if the checker did not pass.

        Raises
        ------
        AuditFailedError
            Saying what it got wrong.
        """
        if not self.record["passed"]:
            raise AuditFailedError(
                f"the pipeline must claim an edge in at most {MOST_FALSE:.0%} of the markets "
                f"without one and in at least {LEAST_FOUND:.0%} of those with one, but: "
                f"{_counts(self.record)}"
            )

    def __str__(self) -> str:
        seconds = self.record["seconds"]["total"]
        word = "passed" if self.record["passed"] else "FAILED"
        return (
            f"{_counts(self.record)}: {word}\nseconds: {seconds:.1f}; peak memory: "
            f"{self.record['peak_memory_mb']:.0f} MB in the largest process\n"
            f"table: {self.folder / PAGE_FILE}"
        )


def _counts(record: Mapping[str, Any]) -> str:
    count = record["config"]["seeds"]
    return (
        f"edge 0: {record['false_claims']} of {count} markets claimed; edge "
        f"{record['config']['edge']:g}: {record['found']} of {count} found"
    )


def truth_table(
    out: Path,
    config: TruthConfig = TruthConfig(),  # noqa: B008 (immutable)
    *,
    keep: Path | None = None,
    workers: Workers = ALONE,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> TruthSummary:
    """Judge every market and write the table, whole or not at all.

    Parameters
    ----------
    out : Path
        Folder to write.
    config : TruthConfig
        Markets.
    keep : Path, optional
        Where finished markets are kept, to go on from; ``<out>.kept`` if absent.
    workers : Workers
        Who makes the markets; no result depends on it.
    overwrite : bool
        Whether `out` may be there already.
    progress : Progress
        Told of the stage ``markets``.

    Raises
    ------
    ConfigError, DataError, RunFailedError
        As a walk-forward.
    """
    check_free(out, overwrite=overwrite, marker=RECORD_FILE)
    kept = keep or out.with_name(f"{out.name}.kept")
    watch = Stopwatch()
    requests = config.requests()
    with held_alone(kept):
        bench = Bench(kept / "jobs", workers, progress)
        rows = bench.run("markets", [one.job() for one in requests])
    record = _record(config, rows)
    record |= {"workers": workers.number(), "seconds": watch.total()}
    with run_folder(out, overwrite=overwrite, marker=RECORD_FILE) as folder:
        (folder / PROFILE_FILE).write_text(dump_profile(requests[0].profile), encoding="utf-8")
        (folder / PAGE_FILE).write_text(_page(record), encoding="utf-8")
        drawn = validation_pictures({"claims": claims_figure(rows, SIGNIFICANT)})
        (folder / PICTURE_FILE).write_bytes(drawn["claims"])
        write_json(folder / RECORD_FILE, record)
    return TruthSummary(out, record)


def _record(config: TruthConfig, rows: Sequence[Result]) -> dict[str, Any]:
    claims = [{**row, "claimed": (row["dsr"] or 0.0) > SIGNIFICANT} for row in rows]
    false = sum(row["claimed"] for row in claims if row["edge"] == 0.0)
    found = sum(row["claimed"] for row in claims if row["edge"] != 0.0)
    record: dict[str, Any] = finite(
        {
            "schema": 1,
            "synthetic": True,
            "config": config.model_dump(mode="json"),
            "entries": list(ENTRIES),
            "false_claims": false,
            "found": found,
            "passed": false <= MOST_FALSE * config.seeds and found >= LEAST_FOUND * config.seeds,
            "rows": claims,
            "version": code_version(),
            "peak_memory_mb": max(row["peak_memory_mb"] for row in rows),
        }
    )
    return record


def _page(record: Mapping[str, Any]) -> str:
    config = record["config"]
    first = TruthRequest(0.0, config["first_seed"], config["days"]).profile
    lines = [
        "# Truth table",
        "",
        f"{_counts(record)}: **{'passed' if record['passed'] else 'failed'}**.",
        "",
        f"Synthetic markets of {config['days']} days of 15 minutes, "
        f"{', '.join(first.data.instruments)}, tested from "
        f"{format_time(first.validation.test_start)}; trading is free. A claim is a deflated "
        f"Sharpe ratio above {SIGNIFICANT} of the best of {len(record['entries'])} entry "
        f"thresholds ({', '.join(f'{one:g}' for one in record['entries'])}).",
        "",
        "![Claims by edge](truth.png)",
        "",
        "| edge | seed | claim | DSR | Sharpe a year | of luck | entry | trades | skill |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in record["rows"]:
        dsr, ratio = row["dsr"], row["sharpe"]
        lines.append(
            f"| {row['edge']:g} | {row['seed']} | {'yes' if row['claimed'] else 'no'} | "
            f"{'no trades' if dsr is None else f'{dsr:.3f}'} | "
            f"{'' if ratio is None else f'{ratio:.2f}'} | {row['threshold']:.2f} | "
            f"{row['entry']:g} | {row['trades']} | {row['log_loss_skill']:.5f} |"
        )
    seconds = record["seconds"]["total"]
    lines += [
        "",
        f"{seconds:.1f} seconds with {record['workers']} workers (kept markets are not made "
        f"again); peak memory {record['peak_memory_mb']:.0f} MB in the largest process; version "
        f"{record['version']}.",
        "",
    ]
    return "\n".join(lines)
