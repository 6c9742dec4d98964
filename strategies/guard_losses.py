"""The limits on losses of the risk guard: the day's and that since the peak."""

from __future__ import annotations

from strategies.guard_holds import Holds
from strategies.risk_policy import RiskPolicy


def mark(policy: RiskPolicy, holds: Holds, equity: float, highest: float) -> None:
    """Take note of the account's worth, and hold where it has lost too much.

    Parameters
    ----------
    policy : RiskPolicy
        Its `max_daily_loss` and `max_drawdown`.
    holds : Holds
        What is remembered; its time is that of the mark.
    equity, highest : float
        USDT, finite and positive: now, and the most since the last mark.
    """
    state = holds.state
    state.equity = equity
    if state.peak_equity is None or highest > state.peak_equity:
        state.peak_equity = highest
    if state.start_day != state.day:
        # The mark that opens a day closes the one before, unless that one has ended trading
        # already: it would end the new day for a loss of the old one.
        if state.daily_loss_day is None or state.daily_loss_day != state.start_day:
            _check_day(policy, holds, equity)
        state.start_day, state.day_start_equity = state.day, equity
    _check_day(policy, holds, equity)
    if state.peak_equity - equity >= policy.max_drawdown * state.peak_equity:
        holds.hold("drawdown", _fell(policy.max_drawdown, "its peak", state.peak_equity, equity))


def _check_day(policy: RiskPolicy, holds: Holds, equity: float) -> None:
    state = holds.state
    start = state.day_start_equity
    if start is None or start - equity < policy.max_daily_loss * start:
        return
    state.daily_loss_day = state.start_day
    holds.hold("daily_loss", _fell(policy.max_daily_loss, "the day's start", start, equity))


def _fell(limit: float, what: str, highest: float, equity: float) -> str:
    return (
        f"equity must stay above {1.0 - limit:.2%} of {what} {highest:.2f} USDT, was {equity:.2f}"
    )
