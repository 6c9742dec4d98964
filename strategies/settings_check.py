"""Whether policy and execution can work with one another, whatever the data may be.

Asked when a profile is read, before hours are spent on its predictions, and before each replay.
"""

from __future__ import annotations

from collections.abc import Sequence

from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_SECOND
from strategies.execution import ExecutionConfig
from strategies.policy_config import FusionPolicy


def check_settings(
    policy: FusionPolicy, execution: ExecutionConfig, names: Sequence[str], interval_ns: int
) -> None:
    """Refuse settings that cannot work with one another, whatever the data may be.

    Parameters
    ----------
    policy : FusionPolicy
        What is traded, and how it is protected.
    execution : ExecutionConfig
        What trading costs.
    names : sequence of str
        Instruments.
    interval_ns : int
        Length of a bar, nanoseconds.

    Raises
    ------
    ConfigError
        Saying what is needed.
    """
    # An order, and the stop of the position that it opens, must arrive within the next bar.
    if 2 * execution.latency_ns >= interval_ns:
        raise ConfigError(
            f"latency_ms must be less than half a bar, was {execution.latency_ms}: "
            f"lower it or take longer bars"
        )
    stop = policy.stop_loss_frac if policy.stops is None else policy.stops.min_frac
    if stop is not None and stop * 10_000 <= execution.worst_slippage_bps:
        key = "stop_loss_frac" if policy.stops is None else "stops.min_frac"
        raise ConfigError(
            f"{key} must be more than the slippage of the entry "
            f"({execution.worst_slippage_bps:g} bp), was {stop:g}: its stop would be on the wrong "
            f"side of the market as soon as it was sent; widen it"
        )
    check_leverage(policy, execution, names)
    check_data_age(policy, interval_ns)


def check_data_age(policy: FusionPolicy, interval_ns: int) -> None:
    """Refuse a risk policy by which every bar would be too late.

    Parameters
    ----------
    policy : FusionPolicy
        With its risk policy, if any.
    interval_ns : int
        Length of a bar, nanoseconds.

    Raises
    ------
    ConfigError
        Saying what is needed.
    """
    risk = policy.risk
    if risk is not None and risk.max_data_age_secs * NS_PER_SECOND < interval_ns:
        raise ConfigError(
            f"max_data_age_secs of the risk policy must be at least a bar "
            f"({interval_ns / NS_PER_SECOND:g} s), was {risk.max_data_age_secs:g}: trading would "
            f"end at the close of the next one; raise it or take shorter bars"
        )


def check_leverage(policy: FusionPolicy, execution: ExecutionConfig, names: Sequence[str]) -> None:
    """Refuse settings that may hold more than the account's leverage carries.

    Parameters
    ----------
    policy : FusionPolicy
        How much may be held.
    execution : ExecutionConfig
        Its leverage.
    names : sequence of str
        Instruments.

    Raises
    ------
    ConfigError
        Saying what is needed.
    """
    # A reversal is sent before the margin of the old position is free.
    sizing = policy.position_sizing
    name, largest = ("position_frac", policy.position_frac)
    gross = largest * len(names)
    if sizing is not None:
        name, largest = ("sizing.max_position", sizing.max_position)
        gross = min(largest * len(names), sizing.max_gross)
    needed = gross * (2 if policy.allow_short else 1)
    rebalancing = policy.rebalancing
    if rebalancing is not None and rebalancing.max_gross > execution.leverage:
        raise ConfigError(
            f"leverage must be at least rebalance.max_gross ({rebalancing.max_gross:g}), was "
            f"{execution.leverage:g}: raise it or lower rebalance.max_gross"
        )
    if needed > execution.leverage:
        raise ConfigError(
            f"leverage must be at least {needed:g} ({name} {largest:g} x "
            f"{len(names)} instruments{', twice for reversals' if policy.allow_short else ''}), "
            f"was {execution.leverage:g}: raise it or lower {name}"
        )
