"""A run held against luck: cross-validation, variants, trials, rivals and null markets.

================  ==================================================================
validation.json   every number, and the hashes that reproduce them
validation.md     the same for people
validation-*.png  pictures
profile.yaml      the complete profile
================  ==================================================================

Splits, features, replays and null runs are kept beside the folder as soon as each is done, so
that a validation that is killed goes on, and one with more null runs makes only those.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.arrays import Float64Array
from catalog.progress import Progress, no_progress
from catalog.timestamps import format_time
from live.critique import horizon_ns
from live.kept_jobs import Bench, Result
from live.null_runs import judged, null_test
from live.pipeline import Market, load_market, read_run_predictions, run_walkforward
from live.profile import Profile, dump_profile, parse_profile
from live.replay_jobs import Replayed
from live.runs import (
    PREDICTIONS_FILE,
    PROFILE_FILE,
    Stopwatch,
    check_free,
    code_version,
    finite,
    peak_memory_mb,
    read_run,
    run_folder,
    write_json,
)
from live.trial_records import Judged, ledger_of, trial_of_results, verdict_line, verdict_of
from live.validation_options import ValidationOptions
from live.variants import OWN, family, family_in_words
from research.benchmarks import HoldingCosts, buy_and_hold
from research.cpcv import CpcvResult, cpcv_question, cross_validate
from research.fold_store import held_alone
from research.parallel import ALONE, Workers
from research.performance import DailyEquity, daily_equity
from research.predictions import write_predictions
from research.trials import Trial, TrialResults, hash_of
from research.validation_plots import (
    null_figure,
    overfitting_figure,
    paths_figure,
    validation_pictures,
)
from research.validation_report import picture_name, summary_lines, validation_markdown
from research.validation_tables import (
    forecast_tests,
    overfitting_points,
    path_table,
    track_record,
    variant_tables,
)
from research.walkforward import Keep

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from research.prediction_types import PredictorSpec

RECORD_FILE, PAGE_FILE = "validation.json", "validation.md"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a validation reads, writes, keeps and works.

    Parameters
    ----------
    catalog : Path
        Data.
    run : Path, optional
        The run that is validated; None: a walk-forward of the profile is made in ``<out>.run``.
    out : Path
        Folder to write.
    keep : Path, optional
        Folder of what is kept; ``<out>.kept`` if absent.
    workers : Workers
        Who fits and replays; no result depends on it.
    overwrite : bool
        Whether `out` may be there already.
    """

    catalog: Path
    run: Path | None
    out: Path
    keep: Path | None = None
    workers: Workers = ALONE
    overwrite: bool = False

    @property
    def judged(self) -> Path:
        """Where the run that is validated lies."""
        return self.run or self.out.with_name(f"{self.out.name}.run")

    @property
    def kept(self) -> Path:
        """Where finished pieces are kept."""
        return self.keep or self.out.with_name(f"{self.out.name}.kept")


@dataclass(frozen=True, slots=True)
class ValidationSummary:
    """Where the report lies, and what it says."""

    folder: Path
    record: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return everything for programs."""
        return {"folder": str(self.folder), **self.record}

    def __str__(self) -> str:
        made_up = self.record["synthetic"]
        head = ["SYNTHETIC DATA: these results say nothing about any market", ""]
        total, memory = self.record["seconds"]["total"], self.record["peak_memory_mb"]
        return "\n".join(
            [
                *(head if made_up else []),
                *summary_lines(self.record),
                "",
                f"seconds: {total:.1f}; peak memory: {memory['main']:.0f} MB, and "
                f"{memory['worker']:.0f} MB in the largest worker",
                f"report: {self.folder / PAGE_FILE}",
            ]
        )


def validate_run(
    profile: Profile,
    place: Place,
    options: ValidationOptions = ValidationOptions(),  # noqa: B008 (immutable)
    *,
    tell: Any = lambda _: None,
    progress: Progress = no_progress,
) -> ValidationSummary:
    """Validate a run and write the report, whole or not at all.

    Parameters
    ----------
    profile : Profile
        Its question must be the one that the run's predictions answer.
    place : Place
        Folders and workers.
    options : ValidationOptions
        Groups, null runs, draws.
    tell : callable
        Given a sentence for each kept piece that must be made anew.
    progress : Progress
        Told of all stages.

    Raises
    ------
    ConfigError, DataError, IntegrityError, RunFailedError
        As `run_backtest_command` and `cross_validate`.

    Notes
    -----
    The variants are trials and are recorded, and so is the reduced pipeline on the real market.
    The paths are none: nobody can choose one of them. Nor are null runs, which ask nothing of the
    real market.
    """
    check_free(place.out, overwrite=place.overwrite, marker=RECORD_FILE)
    ledger_of(place.catalog).check()
    with held_alone(place.kept):
        job = _Validation.open(profile, place, options, tell, progress)
        record = job.record(tell)
        with job.watch.stage("pictures"):
            pictures = validation_pictures(job.figures(record))
        trials = job.trials(record)
        record = job.closed(record, trials)
        with run_folder(place.out, overwrite=place.overwrite, marker=RECORD_FILE) as folder:
            (folder / PROFILE_FILE).write_text(dump_profile(profile), encoding="utf-8")
            page = validation_markdown(record, list(pictures))
            (folder / PAGE_FILE).write_text(page, encoding="utf-8")
            for kind, picture in pictures.items():
                (folder / picture_name(kind)).write_bytes(picture)
            write_json(folder / RECORD_FILE, record)
            # Before the folder is in its place: no result is seen that does not count.
            ledger_of(place.catalog).append(trials)
    return ValidationSummary(place.out, record)


@dataclass(frozen=True, slots=True)
class _Validation:
    """A validation that is made."""

    profile: Profile
    place: Place
    options: ValidationOptions
    market: Market
    frame: pd.DataFrame
    spec: PredictorSpec
    digest: str
    watch: Stopwatch
    bench: Bench

    @classmethod
    def open(
        cls,
        profile: Profile,
        place: Place,
        options: ValidationOptions,
        tell: Any,
        progress: Progress,
    ) -> _Validation:
        watch = Stopwatch()
        if place.run is None:
            with watch.stage("walk-forward"):
                # Its folds are kept, so that the next time they are only replayed: what lies
                # there may be of other code or another profile.
                keep = Keep(place.kept / "run", tell, place.workers)
                run_walkforward(
                    profile,
                    place.catalog,
                    place.judged,
                    overwrite=True,
                    keep=keep,
                    progress=progress,
                )
        with watch.stage("load"):
            digest = read_run(place.judged)["files"][PREDICTIONS_FILE]
            market = load_market(profile, place.catalog)
            frame, spec = read_run_predictions(profile, market, place.judged)
        bench = Bench(place.kept / "jobs", place.workers, progress)
        return cls(profile, place, options, market, frame, spec, digest, watch, bench)

    @property
    def span(self) -> tuple[int, int]:
        """The span that the run's predictions cover."""
        interval = self.market.panel.interval_ns
        return int(self.frame["ts_init"].min()) - interval, int(self.frame["ts_init"].max())

    def record(self, tell: Any) -> dict[str, Any]:
        """Return all tables; the arrays that pictures need are among them."""
        with self.watch.stage("cross-validation"):
            result = self._cross_validate(tell)
        with self.watch.stage("paths"):
            cpcv = self._paths(result)
        with self.watch.stage("variants"):
            variants = self._variants()
        with self.watch.stage("forecasts"):
            forecasts = forecast_tests(self.frame, horizon_ns(self.profile))
        null = None
        if self.options.null.runs:
            with self.watch.stage("null test"):
                place, own = self.place, self.options.null
                null = null_test(self.profile, place.catalog, own, self.bench)
        start, end = self.span
        panel = self.market.panel
        return {
            "schema": SCHEMA,
            "profile": self.profile.name,
            "run": self.place.judged.name,
            "from": format_time(start),
            "to": format_time(end),
            "instruments": list(panel.instruments()),
            "interval": self.profile.data.interval,
            "synthetic": panel.synthetic,
            "options": self.options.model_dump(mode="json"),
            "cpcv": cpcv,
            "variants": variants,
            "forecasts": forecasts,
            "null": null,
            "workers": self.place.workers.number(),
            "version": code_version(),
            "data_hash": panel.data_hash,
            "profile_hash": self.profile.content_hash(),
            "predictions": self.digest,
        }

    # -- cross-validation ------------------------------------------------------------------------

    def _cross_validate(self, tell: Any) -> CpcvResult:
        config = self.profile.walk_forward_config()
        keep = Keep(self.place.kept, tell, self.place.workers)
        progress = self.bench.progress
        return cross_validate(
            self.market.panel, config, self.options.cpcv, progress=progress, keep=keep
        )

    def _paths(self, result: CpcvResult) -> dict[str, Any]:
        """Replay every path with the profile's strategy."""
        config = self.profile.walk_forward_config()
        key = cpcv_question(self.market.panel, config, self.options.cpcv).key
        span = int(result.edges[0]), int(result.edges[-1])
        with self._files(result) as files:
            sources = [
                Replayed(
                    self.profile,
                    self.place.catalog,
                    file,
                    f"{key} path {number}",
                    result.spec,
                    result.data_hash,
                    *span,
                )
                for number, file in enumerate(files)
            ]
            jobs = [one.job(self.profile.strategy) for one in sources]
            for number, job in enumerate(jobs):
                if self.bench.kept(job) is None:
                    write_predictions(files[number], result.path(number))
            found = self.bench.run("paths", jobs)
        told = result.to_json()
        rows = [
            {**one, "metrics": metrics}
            for one, metrics in zip(found, _listed(told.pop("paths")), strict=True)
        ]
        return {
            **told,
            "from": format_time(span[0]),
            "to": format_time(span[1]),
            "paths": rows,
            "spread": path_table(rows),
            "start": span[0],
            "end": span[1],
        }

    @contextlib.contextmanager
    def _files(self, result: CpcvResult) -> Iterator[list[Path]]:
        """Give names of files for the paths' predictions, which are gone at the end."""
        folder = self.place.kept / "paths"
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"path-{number}.parquet" for number in range(result.n_paths)]
        try:
            yield files
        finally:
            for file in files:
                file.unlink(missing_ok=True)

    # -- variants --------------------------------------------------------------------------------

    def _variants(self) -> dict[str, Any]:
        """Replay the run's predictions with every variant, and ask what choosing is worth."""
        profile, policy = self.profile, self.profile.strategy
        source = Replayed(
            profile,
            self.place.catalog,
            self.place.judged / PREDICTIONS_FILE,
            self.digest,
            self.spec,
            self.market.panel.data_hash,
            *self.span,
        )
        policies = family(policy, profile.fusion.side_threshold)
        jobs = [source.job(one) for one in policies.values()]
        results = self.bench.run("variants", jobs)
        returns = {name: _returns(one) for name, one in zip(policies, results, strict=True)}
        holding = self._holding().returns
        return {
            "family": family_in_words(policy),
            "rows": [
                {"name": name, "policy": one.model_dump(mode="json"), **result}
                for (name, one), result in zip(policies.items(), results, strict=True)
            ],
            "tables": variant_tables(returns, holding, self.options.comparison),
            "track_record": track_record(returns[OWN]),
            "holding": {"returns": holding.tolist()},
        }

    def _holding(self) -> DailyEquity:
        start, end = self.span
        execution = self.profile.execution
        costs = HoldingCosts(
            execution.starting_balance, execution.taker_fee_bps, execution.base_slippage_bps
        )
        funding = self.market.funding if execution.funding == "recorded" else {}
        held = buy_and_hold(self.market.panel.bars, funding, costs, start=start, end=end)
        balance = execution.starting_balance
        return daily_equity(held, start=start, end=end, starting_balance=balance)

    # -- the end ---------------------------------------------------------------------------------

    def trials(self, record: Mapping[str, Any]) -> list[Trial]:
        """Return the trials of all variants, the profile's own first, and of the reduced run."""
        panel = self.market.panel
        command = {"name": "validate", "predictions": self.digest}
        parent = hash_of(command)
        on = Judged(panel.data_hash, panel.synthetic, *self.span)
        trials = []
        for row in record["variants"]["rows"]:
            changed = {**self.profile.model_dump(mode="json"), "strategy": row["policy"]}
            own = parse_profile(changed, f"variant {row['name']}")
            trial = trial_of_results(own, command, _results(row), on)
            trials.append(replace(trial, label=row["name"], parent=parent))
        null = record["null"]
        if null is not None:
            small = parse_profile(null["reduced_profile"], "reduced")
            seen = null["observed"]
            results = _results(seen, seen["log_loss_skill"])
            trial = trial_of_results(small, {"name": "validate"}, results, judged(seen))
            trials.append(replace(trial, label="reduced for the null test", parent=parent))
        return trials

    def closed(self, record: dict[str, Any], trials: Sequence[Trial]) -> dict[str, Any]:
        """Return the record with what it stands at after all trials, and what it took."""
        ledger = ledger_of(self.place.catalog)
        verdict = verdict_of(ledger, trials[0], *trials[1:])
        cpcv, null = record["cpcv"]["paths"], record["null"] or {}
        workers = [one["peak_memory_mb"] for one in (*cpcv, *record["variants"]["rows"])]
        worker = max([*workers, null.get("peak_memory_mb", 0.0)])
        found: dict[str, Any] = finite(
            {
                **record,
                "trials": verdict,
                "trials_before": verdict_of(ledger, trials[0]),
                "trials_line": verdict_line(verdict),
                "seconds": self.watch.total(),
                "peak_memory_mb": {"main": peak_memory_mb(), "worker": worker},
            }
        )
        return found

    def figures(self, record: Mapping[str, Any]) -> dict[str, Figure]:
        """Return the pictures by kind."""
        cpcv = record["cpcv"]
        days = _midnights(cpcv["start"], cpcv["end"], len(cpcv["paths"][0]["returns"]))
        figures = {"paths": paths_figure(days, [_returns(one) for one in cpcv["paths"]])}
        returns = {row["name"]: _returns(row) for row in record["variants"]["rows"]}
        points = overfitting_points(returns)
        if points is not None:
            figures["overfitting"] = overfitting_figure(points)
        null = record["null"]
        if null is not None:
            figures["null"] = null_figure(null["null"], null["observed"], null["p_values"])
        return figures


def _listed(paths: object) -> list[Any]:
    assert isinstance(paths, list)
    return paths


def _returns(result: Result) -> Float64Array:
    return np.array(result["returns"], dtype=np.float64)  # None, equity used up, becomes NaN


def _results(result: Mapping[str, Any], skill: float | None = None) -> TrialResults:
    lost = result["net_return"] is None
    net = float("nan") if lost else float(result["net_return"])
    return TrialResults.of_returns(_returns(dict(result)), net_return=net, log_loss_skill=skill)


def _midnights(start: int, end: int, n_days: int) -> Any:
    """Return evenly spaced days from start to end for a picture, (n_days + 1,)."""
    return np.linspace(start, end, n_days + 1).astype(np.int64)
