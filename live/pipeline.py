"""The commands' work: load, research, replay, report. The only place that joins the packages."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.synthetic import SyntheticConfig
from catalog.arrays import BarArrays, SeriesArrays
from catalog.errors import AuditFailedError, ConfigError
from catalog.progress import Progress, no_progress
from catalog.store import Catalog
from catalog.timestamps import format_time, interval_ns, parse_time
from live.profile import Profile, load_profile, parse_profile
from live.question import require_same_question
from live.report import Predictions, RunResult, RunSummary, write_run
from live.runs import (
    METRICS_FILE,
    PREDICTIONS_FILE,
    PROFILE_FILE,
    Stopwatch,
    check_free,
    code_version,
    read_run,
    release_memory,
    run_folder,
)
from live.served import Served, tolerance_of
from live.synthesis import make_market
from live.trial_records import Judged, ledger_of, trial_of_replay, verdict_of
from live.warm_start import feed_history, slow_inputs
from research.bundle import load_bundle, save_bundle
from research.features import panel_needs
from research.panel import Panel, load_panel
from research.predictor import (
    BundlePredictor,
    PrecomputedPredictions,
    Predictor,
    PredictorSpec,
    read_predictions,
)
from research.settings import predictor_spec
from research.training import train_until
from research.walkforward import Keep, check_unseen, walk_forward
from research.walkforward import evaluate as evaluate_model

if TYPE_CHECKING:
    import pandas as pd

    from strategies.backtest import BacktestOutcome
    from strategies.replay_data import ReplayInputs

DEMO_PROFILE = "synthetic"


@dataclass(frozen=True, slots=True)
class Market:
    """What a run reads: the panel for research and what the replay needs beside it."""

    panel: Panel
    funding: dict[str, SeriesArrays]
    store: Catalog

    @property
    def instruments(self) -> tuple[Any, ...]:
        """The engine's definitions, read when asked for: the engine need not be there to fit."""
        return tuple(self.store.instrument(name) for name in self.panel.instruments())

    def replay_inputs(self, start: int, end: int, predictions: int | None) -> ReplayInputs:
        """Return the part in ``(start, end]`` for the replay.

        A predictor is given the slow inputs before it by its warm start.
        """
        from strategies.replay_data import ReplayInputs

        return ReplayInputs(
            instruments=self.instruments,
            bars=self.bars(start, end),
            funding=self.funding,
            predictions_expected=predictions,
            slow=slow_inputs(self.panel, start),
        )

    def warm_up(
        self, predictor: Predictor, until: int, *, progress: Progress = no_progress
    ) -> None:
        """Feed a fresh predictor all that was known at `until`, where a replay then begins."""
        slow = slow_inputs(self.panel, until)
        bars, funding = self.panel.bars, self.funding
        feed_history(predictor, bars, funding, until, slow=slow, progress=progress)

    def bars(self, start: int, end: int) -> tuple[BarArrays, ...]:
        """Return the bars in ``(start, end]``, one entry for each instrument."""
        return tuple(bars.between(start, end) for bars in self.panel.bars)


def load_market(
    profile: Profile, catalog: Path, *, span: tuple[int, int] | None = None, warmup: bool = False
) -> Market:
    """Read a profile's data, or another span of it, refusing what is missing or unsound.

    Parameters
    ----------
    profile : Profile
        Its instruments and interval; its span where `span` is None.
    catalog : Path
        Folder.
    span : (start, end), optional
        UTC nanoseconds, ``(start, end]``.
    warmup : bool
        Whether to read as many bars in front of the span as the features remember.
    """
    store = Catalog.open(catalog)
    start, end = span or (profile.data.start, profile.data.end)
    length = interval_ns(profile.data.interval)
    spec = predictor_spec(profile.walk_forward_config(), profile.data.instruments, length)
    panel = load_panel(
        store,
        profile.data.instruments,
        profile.data.interval,
        start,
        end,
        needs=panel_needs(profile.features),
        funding=profile.execution.funding == "recorded",
        warmup_bars=spec.warmup_bars if warmup else 0,
    )
    return Market(panel, dict(panel.funding), store)


def run_walkforward(
    profile: Profile,
    catalog: Path,
    out: Path,
    *,
    overwrite: bool = False,
    keep: Keep | None = None,
    progress: Progress = no_progress,
) -> RunSummary:
    """Walk forward, replay the out-of-sample predictions and write the run.

    Where `keep` says where, finished folds are kept and an interrupted run goes on from them.
    """
    check_free(out, overwrite=overwrite)
    ledger_of(catalog).check()
    watch = Stopwatch()
    with watch.stage("load"):
        market = load_market(profile, catalog)
    config = profile.walk_forward_config()
    result = walk_forward(market.panel, config, progress=progress, keep=keep)
    release_memory()
    watch.seconds.update(result.seconds)
    job = _Job(profile, market, (result.folds[0].test_start, result.folds[-1].test_end), watch)
    predictions = Predictions.of_result(result)
    outcome = job.replay(_precomputed(predictions, result.spec), len(predictions.frame), progress)
    return job.write(out, {"name": "walkforward"}, predictions, outcome, overwrite=overwrite)


def run_backtest_command(
    profile: Profile,
    catalog: Path,
    out: Path,
    source: BacktestSource,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> RunSummary:
    """Replay predictions that exist, or a bundle bar by bar, and write the run."""
    if (source.predictions is None) == (source.bundle is None):
        raise ConfigError(
            "backtest needs predictions to trade on: give either --predictions RUN (a run of "
            "`levibot walkforward`) or --bundle BUNDLE (of `levibot train`)"
        )
    check_free(out, overwrite=overwrite)
    ledger_of(catalog).check()
    if source.bundle is not None:
        return _backtest_bundle(profile, catalog, out, source, overwrite, progress)
    return _backtest_predictions(profile, catalog, out, source, overwrite, progress)


def train_bundle(
    profile: Profile, catalog: Path, until: str, out: Path, *, progress: Progress = no_progress
) -> dict[str, Any]:
    """Fit one model on what was known at `until`, write it and return its manifest."""
    if out.exists():
        raise ConfigError(f"--out must be a new folder, {out} exists; choose another name")
    last = parse_time(until)
    if not profile.data.start < last <= profile.data.end:
        raise ConfigError(
            f"--until must be after data.start ({format_time(profile.data.start)}) and no later "
            f"than data.end ({format_time(profile.data.end)}), was {format_time(last)}"
        )
    market = load_market(profile, catalog, span=(profile.data.start, last))
    settings = profile.walk_forward_config()
    model = train_until(market.panel, settings, last, progress=progress, measured=True)
    kept = profile.model_dump(mode="json")
    return save_bundle(out, model, model.reports.metrics, profile=kept)


def evaluate_bundle(
    bundle: Path,
    catalog: Path,
    out: Path,
    span: tuple[int, int],
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> RunSummary:
    """Score and replay a bundle on a span that it has not seen, and write the run."""
    check_free(out, overwrite=overwrite)
    ledger_of(catalog).check()
    loaded = load_bundle(bundle)
    profile = parse_profile(loaded.profile, f"of bundle {bundle.name}")
    start, end = span
    check_unseen(loaded.model, start, end)
    watch = Stopwatch()
    with watch.stage("load"):
        market = load_market(profile, catalog, span=(start, end), warmup=True)
    result = evaluate_model(market.panel, loaded.model, start, end, progress=progress)
    watch.seconds.update(result.seconds)
    job = _Job(profile, market, (start, end), watch)
    predictions = Predictions.of_result(result, loaded.reports)
    outcome = job.replay(_precomputed(predictions, result.spec), len(predictions.frame), progress)
    command = {"name": "evaluate", "bundle": loaded.version, "from": start, "to": end}
    return job.write(out, command, predictions, outcome, overwrite=overwrite)


def repeat_run(
    run: Path, catalog: Path, *, source: Path | None, progress: Progress = no_progress
) -> list[str]:
    """Run a run's folder again and compare every table bit for bit; return their names.

    Raises
    ------
    ConfigError
        If the run used predictions or a bundle, and `source` does not say where they lie.
    AuditFailedError
        Naming the tables that came out differently.
    """
    record = read_run(run)
    profile = load_profile(str(run / PROFILE_FILE))
    with tempfile.TemporaryDirectory(prefix="levibot-repeat-") as folder:
        again = Path(folder) / "run"
        _run_again(record["command"], profile, catalog, again, source, progress)
        found = read_run(again)
    compared = [name for name in record["files"] if name.endswith(".parquet")]
    differing = [name for name in compared if found["files"].get(name) != record["files"][name]]
    if found["numbers"] != record["numbers"]:
        differing.append(METRICS_FILE)
    if differing:
        then, now = record["provenance"]["version"], code_version()
        raise AuditFailedError(
            f"run {run} must repeat bit for bit, but {', '.join(differing)} came out differently "
            f"(written by version {then}, repeated by {now})"
        )
    return [*compared, METRICS_FILE]


def make_demo(catalog: Path, out: Path, *, progress: Progress = no_progress) -> RunSummary:
    """Make the synthetic market if it is not there yet, and walk forward over it."""
    profile = load_profile(DEMO_PROFILE)
    data = profile.data
    market = SyntheticConfig(
        seed=profile.seed,
        instruments=data.instruments,
        interval=data.interval,
        start=format_time(data.start),
        end=format_time(data.end),
    )
    make_market(catalog, market, progress=progress)
    return run_walkforward(profile, catalog, out, overwrite=True, progress=progress)


@dataclass(frozen=True, slots=True)
class BacktestSource:
    """What a backtest trades on, and when: one of the two paths, and a span ``(start, end]``."""

    predictions: Path | None = None
    bundle: Path | None = None
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class _Job:
    """The part that all commands share: replay a span and write the run."""

    profile: Profile
    market: Market
    span: tuple[int, int]
    watch: Stopwatch

    def replay(
        self, predictor: Predictor, expected: int | None, progress: Progress
    ) -> BacktestOutcome:
        """Replay the span."""
        # Imported here: the engine takes 60 MB, which nothing needs while models are fitted.
        from strategies.backtest import run_backtest

        with self.watch.stage("replay"):
            return run_backtest(
                self.market.replay_inputs(*self.span, expected),
                predictor,
                self.profile.strategy,
                self.profile.execution,
                progress=progress,
            )

    def write(
        self,
        out: Path,
        command: dict[str, Any],
        predictions: Predictions,
        outcome: BacktestOutcome,
        *,
        overwrite: bool,
    ) -> RunSummary:
        """Write the run's folder, whole or not at all, and record its trial."""
        start, end = self.span
        ledger = ledger_of(self.market.store.path)
        judged = Judged(predictions.data_hash, predictions.synthetic, start, end)
        skill = predictions.metrics["log_loss_skill"].value
        trial = trial_of_replay(self.profile, command, outcome, judged, skill)
        run = RunResult(
            profile=self.profile,
            command=command,
            predictions=predictions,
            outcome=outcome,
            bars=self.market.bars(start, end),
            funding=self.market.funding,
            start=start,
            end=end,
            trials=verdict_of(ledger, trial),
        )
        with run_folder(out, overwrite=overwrite) as folder:
            metrics = write_run(folder, run, self.watch)
            # Before the folder is in its place: no result is seen that does not count.
            ledger.append([trial])
        return RunSummary(out, metrics)


def read_run_predictions(
    profile: Profile, market: Market, run: Path
) -> tuple[pd.DataFrame, PredictorSpec]:
    """Return a run's predictions, and the question that they answer.

    Raises
    ------
    IntegrityError
        If it is another question than the profile asks, or the data are others.
    """
    config, panel = profile.walk_forward_config(), market.panel
    spec = predictor_spec(config, panel.instruments(), panel.interval_ns)
    return read_predictions(run / PREDICTIONS_FILE, spec, panel.data_hash), spec


def _precomputed(predictions: Predictions, spec: PredictorSpec) -> PrecomputedPredictions:
    return PrecomputedPredictions.from_frame(predictions.frame, spec)


def _backtest_predictions(
    profile: Profile,
    catalog: Path,
    out: Path,
    source: BacktestSource,
    overwrite: bool,
    progress: Progress,
) -> RunSummary:
    assert source.predictions is not None
    watch = Stopwatch()
    with watch.stage("load"):
        market = load_market(profile, catalog)
        record = read_run(source.predictions)
        interval = market.panel.interval_ns
        frame, spec = read_run_predictions(profile, market, source.predictions)
    start, end = _inside(
        source, (int(frame["ts_init"].min()) - interval, int(frame["ts_init"].max()))
    )
    attributes = frame.attrs
    frame = frame[(frame["ts_init"] > start) & (frame["ts_init"] <= end)]
    frame.attrs = attributes
    with watch.stage("metrics"):
        predictions = Predictions.of_frame(frame, market.panel, profile.bootstrap)
        # The models may have been trained on what was made up, whatever they are replayed on.
        made_up = predictions.synthetic or bool(record["provenance"]["synthetic"])
        predictions = replace(predictions, synthetic=made_up)
    job = _Job(profile, market, (start, end), watch)
    outcome = job.replay(_precomputed(predictions, spec), len(frame), progress)
    command = {
        "name": "backtest",
        "predictions": record["files"][PREDICTIONS_FILE],
        "from": start,
        "to": end,
    }
    return job.write(out, command, predictions, outcome, overwrite=overwrite)


def _backtest_bundle(
    profile: Profile,
    catalog: Path,
    out: Path,
    source: BacktestSource,
    overwrite: bool,
    progress: Progress,
) -> RunSummary:
    """Replay with the bundle predicting bar by bar, as it would live; score it in batch.

    Raises
    ------
    RunFailedError
        If the two say different things: the scores would be of other predictions than the trades.
    """
    assert source.bundle is not None
    loaded = load_bundle(source.bundle)
    require_same_question(profile, loaded)
    start, end = _inside(source, (profile.data.start, profile.data.end), complete=True)
    check_unseen(loaded.model, start, end)
    watch = Stopwatch()
    with watch.stage("load"):
        market = load_market(profile, catalog, span=(start, end), warmup=True)
    result = evaluate_model(market.panel, loaded.model, start, end, progress=progress)
    watch.seconds.update(result.seconds)
    predictor = BundlePredictor(loaded.model, breaker=profile.breaker)
    with watch.stage("warm start"):
        market.warm_up(predictor, start, progress=progress)
    job = _Job(profile, market, (start, end), watch)
    outcome = job.replay(predictor, len(result.predictions), progress)
    served = Served.of(outcome.predictions, predictor.breakers)
    served.require_equal(outcome.predictions, result.predictions, tolerance_of(loaded.model))
    predictions = replace(Predictions.of_result(result, loaded.reports), served=served)
    command = {"name": "backtest", "bundle": loaded.version, "from": start, "to": end}
    return job.write(out, command, predictions, outcome, overwrite=overwrite)


def _run_again(
    command: dict[str, Any],
    profile: Profile,
    catalog: Path,
    out: Path,
    source: Path | None,
    progress: Progress,
) -> None:
    """Run the command of a run's record."""
    if command["name"] == "walkforward":
        run_walkforward(profile, catalog, out, progress=progress)
        return
    if source is None:
        kind = "the bundle" if "bundle" in command else "the run with its predictions"
        raise ConfigError(f"--source must name the folder of {kind} that this run used")
    if command["name"] == "evaluate":
        evaluate_bundle(source, catalog, out, (command["from"], command["to"]), progress=progress)
        return
    part = "bundle" if "bundle" in command else "predictions"
    replayed = BacktestSource(**{part: source}, start=command["from"], end=command["to"])
    run_backtest_command(profile, catalog, out, replayed, progress=progress)


def _inside(
    source: BacktestSource, limits: tuple[int, int], *, complete: bool = False
) -> tuple[int, int]:
    """Return the span asked for, the limits where none is; refuse one that is not inside."""
    if complete and (source.start is None or source.end is None):
        raise ConfigError("a bundle is replayed over a stated span: give --from and --to")
    start = limits[0] if source.start is None else source.start
    end = limits[1] if source.end is None else source.end
    if not limits[0] <= start < end <= limits[1]:
        raise ConfigError(
            f"the span must lie within {format_time(limits[0])} to {format_time(limits[1])}, "
            f"was {format_time(start)} to {format_time(end)}"
        )
    return start, end
