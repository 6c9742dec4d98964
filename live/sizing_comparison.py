"""The same predictions traded with every way of sizing, with and without the risk guard."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from catalog.errors import ConfigError
from catalog.progress import Progress, no_progress
from catalog.timestamps import NS_PER_DAY, format_time
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
from strategies.policy_config import FusionPolicy
from strategies.risk_policy import RiskPolicy
from strategies.sizing_config import Method, SizingConfig

METHODS: tuple[Method, ...] = get_args(Method.__value__)
TABLE_FILE, PAGE_FILE = "sizing.json", "sizing.md"
_TITLES = {
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


@dataclass(frozen=True, slots=True)
class SizingRow:
    """One way of trading: its name, measures, holds of the guard, and what costs did to it."""

    name: str
    measures: Mapping[str, Estimate]
    holds: Mapping[str, int]
    stress: CostStress

    @property
    def free_sharpe(self) -> Estimate:
        """The Sharpe ratio of the same trades without fees and slippage: what the signal gave."""
        return self.stress.rows[0].net_sharpe

    @property
    def trades(self) -> int:
        """How many positions were taken."""
        return int(self.measures["trades"].value)

    def to_json(self) -> dict[str, Any]:
        """Return the row for programs."""
        return {
            "name": self.name,
            "measures": {name: one.as_dict() for name, one in self.measures.items()},
            "guard_holds": dict(self.holds),
            "cost_stress": self.stress.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class SizingComparison:
    """All rows, what they are of, and what the best of them is worth after so many trials."""

    folder: Path
    profile: str
    span: tuple[int, int]
    synthetic: bool
    rows: tuple[SizingRow, ...]
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
        header = ["sizing", *_TITLES.values(), "Sharpe without costs", "break-even costs", "guard"]
        lines = ["**SYNTHETIC DATA**", ""] if self.synthetic else []
        lines += [_line(header), _line(["---"] + ["---:"] * (len(header) - 1))]
        for row in self.rows:
            holds = ", ".join(f"{reason} {count}" for reason, count in row.holds.items()) or "-"
            measured = [*row.measures.values(), row.free_sharpe]
            numbers = ["" if math.isnan(one.value) else str(one) for one in measured]
            bearable = f"{row.stress.break_even:.2f} x" if row.trades else ""
            lines.append(_line([row.name, *numbers, bearable, holds]))
        lines += ["", f"The best row: {verdict_line(self.trials)}."]
        return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def policies(profile: Profile, interval_ns: int) -> dict[str, FusionPolicy]:
    """Return the profile's policy with each sizing method, without and with a risk guard.

    The method's settings and the guard's limits are the profile's own where it has any, the usual
    ones otherwise.

    Raises
    ------
    ConfigError
        If the policy has no stop, which sizing by risk needs.
    """
    own = profile.strategy
    if own.exit_rules is None:
        raise ConfigError(
            "sizing by risk needs a stop, the profile has none: set strategy.stop_loss_frac or "
            "strategy.stops"
        )
    settings = (own.sizing or SizingConfig()).model_dump()
    found: dict[str, FusionPolicy] = {}
    for method in METHODS:
        changes = {"method": method, "bars_per_day": NS_PER_DAY / interval_ns}
        sizing = SizingConfig.model_validate(settings | changes)
        for guard, risk in (("", None), (" + guard", own.risk or RiskPolicy())):
            found[f"{method}{guard}"] = own.model_copy(update={"sizing": sizing, "risk": risk})
    return found


def compare_sizing(
    profile: Profile,
    catalog: Path,
    predictions: Path,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> SizingComparison:
    """Replay a run's predictions with every way of sizing, and write the table.

    Parameters
    ----------
    profile : Profile
        Strategy and execution; its question must be the one that the predictions answer.
    catalog : Path
        Data.
    predictions : Path
        Run whose out-of-sample predictions are traded.
    out : Path
        Folder to write: ``sizing.json``, ``sizing.md``, ``profile.yaml``.
    overwrite : bool
        Whether `out` may exist.
    progress : Progress
        Told of the stages ``sizing`` and ``replay``.

    Raises
    ------
    ConfigError, DataError, IntegrityError, RunFailedError
        As `run_backtest_command`.
    """
    # Imported here: the engine takes 60 MB, which commands that only fit do not need.
    from strategies.backtest import run_backtest

    ledger = ledger_of(catalog)
    ledger.check()
    market = load_market(profile, catalog)
    command = {
        "name": "sizing",
        "predictions": read_run(predictions)["files"][PREDICTIONS_FILE],
    }
    frame, spec = read_run_predictions(profile, market, predictions)
    interval = market.panel.interval_ns
    start, end = int(frame["ts_init"].min()) - interval, int(frame["ts_init"].max())
    inputs = market.replay_inputs(start, end, len(frame))
    predictor = PrecomputedPredictions.from_frame(frame, spec)
    balance = profile.execution.starting_balance
    measured = {
        "start": start,
        "end": end,
        "starting_balance": balance,
        **profile.bootstrap.model_dump(),
    }
    judged = Judged(market.panel.data_hash, market.panel.synthetic, start, end)
    rows, trials = [], []
    wanted = policies(profile, interval)
    for number, (name, policy) in enumerate(wanted.items()):
        progress("sizing", number, len(wanted))
        outcome = run_backtest(inputs, predictor, policy, profile.execution, progress=progress)
        held = outcome.guard[outcome.guard["kind"] == "hold"]["reason"]
        rows.append(
            SizingRow(
                name,
                trading_measures(outcome, **measured),
                dict(Counter(held)),
                cost_stress(outcome, market.bars(start, end), **measured),
            )
        )
        own = profile.model_copy(update={"strategy": policy})
        trial = trial_of_replay(own, command, outcome, judged)
        trials.append(replace(trial, label=name, parent=hash_of(command)))
    progress("sizing", len(wanted), len(wanted))
    with run_folder(out, overwrite=overwrite, marker=TABLE_FILE) as folder:
        found = SizingComparison(
            out,
            profile.name,
            (start, end),
            market.panel.synthetic,
            tuple(rows),
            verdict_of(ledger, _best(trials), *trials),
        )
        write_json(folder / TABLE_FILE, finite(found.to_json()))
        (folder / PAGE_FILE).write_text(_page(found), encoding="utf-8")
        (folder / PROFILE_FILE).write_text(dump_profile(profile), encoding="utf-8")
        # Before the folder is in its place: no result is seen that does not count.
        ledger.append(trials)
    return found


def _best(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the highest Sharpe ratio; one without a ratio if none has any."""
    return max(trials, key=lambda one: -math.inf if (r := one.results.sharpe) is None else r)


def _page(found: SizingComparison) -> str:
    start, end = found.span
    return (
        f"# Ways of sizing\n\nProfile `{found.profile}`, {format_time(start)} to "
        f"{format_time(end)}, the same out-of-sample predictions in every row. Brackets hold the "
        "central 95 % of a stationary bootstrap over days. Without costs is the Sharpe ratio of "
        "the same trades had fees and slippage been nothing; break-even is how many times them "
        "they would have paid for.\n\n"
        f"{found}\n"
    )


assert tuple(_TITLES) == MEASURES
