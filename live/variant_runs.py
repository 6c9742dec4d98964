"""The same predictions replayed in several ways, each of which counts as a trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from catalog.progress import Progress
from catalog.timestamps import format_time
from live.pipeline import load_market, read_run_predictions
from live.profile import Profile, dump_profile
from live.runs import (
    PREDICTIONS_FILE,
    PROFILE_FILE,
    code_version,
    finite,
    read_run,
    run_folder,
    write_json,
)
from live.trial_records import Judged, ledger_of, trial_of_replay, verdict_line, verdict_of
from research.cost_stress import CostStress, cost_stress
from research.estimates import Estimate
from research.predictions import PrecomputedPredictions
from research.trading_measures import MEASURES, trading_measures
from research.trials import Trial, hash_of

if TYPE_CHECKING:
    from catalog.arrays import BarArrays
    from strategies.outcome import BacktestOutcome

MEASURE_TITLES = {
    "net_return": "net return",
    "net_sharpe": "Sharpe",
    "sortino": "Sortino",
    "max_drawdown": "max drawdown",
    "turnover": "turnover a year",
    "cost_share": "costs / gross",
    "time_in_market": "time in market",
    "largest_position": "largest position",
    "trades": "trades",
}
"""How the measures of `research.trading_measures` are called in a table."""


@dataclass(frozen=True, slots=True)
class VariantRequest:
    """What to replay.

    Parameters
    ----------
    command : str
        Name of the command, under which the trials are kept.
    profile : Profile
        Its question must be the one that the predictions answer.
    catalog : Path
        Data.
    predictions : Path
        Run whose out-of-sample predictions are traded.
    variants : callable
        Told the length of a bar (nanoseconds), returns the profiles to replay by name; they may
        differ in strategy and execution.
    """

    command: str
    profile: Profile
    catalog: Path
    predictions: Path
    variants: Callable[[int], Mapping[str, Profile]]


@dataclass(frozen=True, slots=True)
class VariantRun:
    """One replay: its name and outcome, what was traded, its measures, and what costs did to it."""

    name: str
    outcome: BacktestOutcome
    bars: Sequence[BarArrays]
    measures: Mapping[str, Estimate]
    stress: CostStress


class Row(Protocol):
    """What a comparison keeps of one replay."""

    @property
    def name(self) -> str:
        """Of the variant."""

    def to_json(self) -> dict[str, Any]:
        """Return the row for programs."""

    def cells(self) -> list[str]:
        """Return the row for people, its name first."""


@dataclass(frozen=True, slots=True)
class Page:
    """How a comparison is written.

    Parameters
    ----------
    stem : str
        Of its two files, the table for programs and the page for people.
    title, text : str
        Heading of the page, and what a reader must know of the numbers.
    columns : tuple of str
        Titles of the cells of a row.
    """

    stem: str
    title: str
    text: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison[R: Row]:
    """The rows of a table, what they are of, and what the best is worth after so many trials."""

    page: Page
    folder: Path
    profile: str
    span: tuple[int, int]
    synthetic: bool
    rows: tuple[R, ...]
    trials: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return everything for programs."""
        start, end = self.span
        return {
            "folder": str(self.folder),
            "profile": self.profile,
            "from": format_time(start),
            "to": format_time(end),
            "synthetic": self.synthetic,
            "version": code_version(),
            "rows": [row.to_json() for row in self.rows],
            "trials": dict(self.trials),
        }

    def __str__(self) -> str:
        """Return the table as Markdown."""
        columns = self.page.columns
        lines = ["**SYNTHETIC DATA**", ""] if self.synthetic else []
        lines += [_line(columns), _line(["---"] + ["---:"] * (len(columns) - 1))]
        lines += [_line(row.cells()) for row in self.rows]
        return "\n".join([*lines, "", f"The best row: {verdict_line(self.trials)}."])

    def text(self) -> str:
        """Return the page."""
        start, end = self.span
        return (
            f"# {self.page.title}\n\nProfile `{self.profile}`, {format_time(start)} to "
            f"{format_time(end)}, the same out-of-sample predictions in every row. Brackets hold "
            f"the central 95 % of a stationary bootstrap over days. {self.page.text}\n\n{self}\n"
        )


def compare_variants[R: Row](
    request: VariantRequest,
    row_of: Callable[[VariantRun], R],
    page: Page,
    out: tuple[Path, bool],
    progress: Progress,
) -> Comparison[R]:
    """Replay all variants, write the table, and record the trials before it is seen.

    Parameters
    ----------
    request : VariantRequest
        What to replay.
    row_of : callable
        What is kept of a replay.
    page : Page
        How it is written.
    out : (Path, bool)
        Folder to write (the two files and ``profile.yaml``), and whether it may exist.
    progress : Progress
        Told of the stages ``request.command`` and ``replay``.

    Raises
    ------
    ConfigError, DataError, IntegrityError, RunFailedError
        As `run_backtest_command`.
    """
    # Imported here: the engine takes 60 MB, which commands that only fit do not need.
    from strategies.backtest import run_backtest

    profile = request.profile
    ledger = ledger_of(request.catalog)
    ledger.check()
    market = load_market(profile, request.catalog)
    hashed = read_run(request.predictions)["files"][PREDICTIONS_FILE]
    command = {"name": request.command, "predictions": hashed}
    frame, spec = read_run_predictions(profile, market, request.predictions)
    interval = market.panel.interval_ns
    start, end = int(frame["ts_init"].min()) - interval, int(frame["ts_init"].max())
    inputs = market.replay_inputs(start, end, len(frame))
    predictor = PrecomputedPredictions.from_frame(frame, spec)
    judged = Judged(market.panel.data_hash, market.panel.synthetic, start, end)
    bars = market.bars(start, end)
    rows: list[R] = []
    trials: list[Trial] = []
    wanted = request.variants(interval)
    for number, (name, own) in enumerate(wanted.items()):
        progress(request.command, number, len(wanted))
        outcome = run_backtest(inputs, predictor, own.strategy, own.execution, progress=progress)
        measured = {
            "start": start,
            "end": end,
            "starting_balance": own.execution.starting_balance,
            **profile.bootstrap.model_dump(),
        }
        measures = trading_measures(outcome, **measured)
        stress = cost_stress(outcome, bars, **measured)
        rows.append(row_of(VariantRun(name, outcome, bars, measures, stress)))
        trial = trial_of_replay(own, command, outcome, judged)
        trials.append(replace(trial, label=name, parent=hash_of(command)))
    progress(request.command, len(wanted), len(wanted))
    table = f"{page.stem}.json"
    with run_folder(out[0], overwrite=out[1], marker=table) as folder:
        found = Comparison(
            page,
            out[0],
            profile.name,
            (start, end),
            market.panel.synthetic,
            tuple(rows),
            verdict_of(ledger, _best(trials), *trials),
        )
        write_json(folder / table, finite(found.to_json()))
        (folder / f"{page.stem}.md").write_text(found.text(), encoding="utf-8")
        (folder / PROFILE_FILE).write_text(dump_profile(profile), encoding="utf-8")
        # Before the folder is in its place: no result is seen that does not count.
        ledger.append(trials)
    return found


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _best(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the highest Sharpe ratio; one without a ratio if none has any."""
    return max(trials, key=lambda one: -math.inf if (r := one.results.sharpe) is None else r)


assert tuple(MEASURE_TITLES) == MEASURES
