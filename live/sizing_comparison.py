"""The same predictions traded with every way of sizing, with and without the risk guard."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from catalog.errors import ConfigError
from catalog.progress import Progress, no_progress
from catalog.timestamps import NS_PER_DAY
from live.profile import Profile
from live.variant_runs import (
    MEASURE_TITLES,
    Comparison,
    Page,
    VariantRequest,
    VariantRun,
    compare_variants,
)
from research.cost_stress import CostStress
from research.estimates import Estimate
from strategies.policy_config import FusionPolicy
from strategies.risk_policy import RiskPolicy
from strategies.sizing_config import Method, SizingConfig

METHODS: tuple[Method, ...] = get_args(Method.__value__)
PAGE = Page(
    "sizing",
    "Ways of sizing",
    "Without costs is the Sharpe ratio of the same trades had fees and slippage been nothing; "
    "break-even is how many times them they would have paid for.",
    ("sizing", *MEASURE_TITLES.values(), "Sharpe without costs", "break-even costs", "guard"),
)


@dataclass(frozen=True, slots=True)
class SizingRow:
    """One way of trading: its name, measures, holds of the guard, and what costs did to it."""

    name: str
    measures: Mapping[str, Estimate]
    holds: Mapping[str, int]
    stress: CostStress

    @classmethod
    def of(cls, run: VariantRun) -> SizingRow:
        """Return what is kept of a replay."""
        guard = run.outcome.guard
        held = guard[guard["kind"] == "hold"]["reason"]
        return cls(run.name, run.measures, dict(Counter(held)), run.stress)

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

    def cells(self) -> list[str]:
        """Return the row for people."""
        holds = ", ".join(f"{reason} {count}" for reason, count in self.holds.items()) or "-"
        measured = [*self.measures.values(), self.free_sharpe]
        numbers = ["" if math.isnan(one.value) else str(one) for one in measured]
        bearable = f"{self.stress.break_even:.2f} x" if self.trades else ""
        return [self.name, *numbers, bearable, holds]


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
) -> Comparison[SizingRow]:
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

    def variants(interval_ns: int) -> dict[str, Profile]:
        found = policies(profile, interval_ns)
        return {
            name: profile.model_copy(update={"strategy": policy}) for name, policy in found.items()
        }

    request = VariantRequest("sizing", profile, catalog, predictions, variants)
    return compare_variants(request, SizingRow.of, PAGE, (out, overwrite), progress)
