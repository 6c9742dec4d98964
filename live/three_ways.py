"""Parity three ways: backtest, paper node on the replay, and an engine on the test exchange."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.errors import AuditFailedError
from catalog.progress import Progress, no_progress
from catalog.timestamps import format_time
from live.audit import two_ways
from live.exchange_way import (
    UNKNOWN,
    ExchangeRun,
    ExchangeWay,
    Interruptions,
    interruptions,
    require_checkout,
)
from live.parity import ParityReport, compare
from live.profile import Profile
from live.served import tolerance_of


@dataclass(frozen=True, slots=True)
class ThreeWayReport:
    """Two comparisons with one backtest.

    Parameters
    ----------
    paper, exchange : ParityReport
        Of the paper node on the replay, and of the engine on the test exchange.
    run : ExchangeRun
        The latter's.
    interrupted : Interruptions
        What broke in it.
    """

    paper: ParityReport
    exchange: ParityReport
    run: ExchangeRun
    interrupted: Interruptions

    @property
    def cash_apart(self) -> float:
        """By how much exchange, engine and the journal's bookings differ on the cash, USDT."""
        said = self.run.cash.values()
        return max(said) - min(said)

    @property
    def identical(self) -> bool:
        """Whether nothing differs by more than is allowed."""
        return self.paper.identical and self.exchange.identical and self.cash_apart == 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the report for programs."""
        broken = {"drop_at": self.interrupted.drop_at, "kill_at": self.interrupted.kill_at}
        return {
            "identical": self.identical,
            "paper": self.paper.to_json(),
            "exchange": self.exchange.to_json()
            | {"facts": dict(self.run.facts), "cash": dict(self.run.cash), "interrupted": broken},
        }

    def __str__(self) -> str:
        broken = self.interrupted
        lines = ["paper node on the replay", str(self.paper), ""]
        lines += ["engine on the test exchange, through the compiled adapter", str(self.exchange)]
        facts = ", ".join(f"{name} {count:,}" for name, count in self.run.facts.items())
        lines.append(facts)
        if broken.kill_at:
            lines.append(
                f"process killed with the orders of {format_time(broken.kill_at)} on their way"
            )
        if broken.drop_at:
            lines.append(f"sockets cut before {format_time(broken.drop_at)}, its bars fetched")
        cash = ", ".join(f"{name} {value:,.8f}" for name, value in self.run.cash.items())
        lines.append(f"cash (USDT): {cash}")
        return "\n".join(lines)

    def require_identical(self) -> None:
        """Raise if anything differs.

        Raises
        ------
        AuditFailedError
            With the first difference in words.
        """
        self.paper.require_identical()
        self.exchange.require_identical()
        if self.cash_apart:
            raise AuditFailedError(
                f"cash at the exchange, in the engine and of the journal's bookings must be equal, "
                f"was {dict(self.run.cash)}"
            )


def audit_three_ways(
    profile: Profile,
    catalog: Path,
    *,
    span: tuple[int | None, int | None] = (None, None),
    interrupted: bool = False,
    progress: Progress = no_progress,
) -> ThreeWayReport:
    """Do what `live.audit.audit_parity` does, and go a third way through the test exchange.

    Parameters
    ----------
    profile, catalog, span, progress
        As there.
    interrupted : bool
        Whether the engine on the exchange is killed at one close and loses its connections at
        another, both of them closes at which it orders something.

    Raises
    ------
    ConfigError
        As there; or if there is no test exchange beside the packages, or the profile has no risk
        policy.
    RunFailedError
        If exchange or engine fail.
    """
    require_checkout()
    found = two_ways(profile, catalog, span=span, progress=progress)
    breaks = Interruptions()
    if interrupted:
        breaks = interruptions(found.backtest, found.span)
    way = ExchangeWay(profile, catalog, found.model, found.inputs, found.span)
    run = way.run(breaks, progress)
    exchange = compare(
        found.backtest, run.frames, tolerance=tolerance_of(found.model), unknown=UNKNOWN
    )
    return ThreeWayReport(found.report, exchange, run, breaks)
