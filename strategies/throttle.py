"""The engine's own limit on orders, and that it is never the one that binds.

The engine denies an order beyond its rate, whatever the order is for: also the one that flattens a
position. The limits that are meant are those of the risk policy, which count entries only.
"""

from __future__ import annotations

from catalog.errors import ConfigError
from strategies.risk_policy import RiskPolicy

ENGINE_ORDERS_PER_SECOND = 1_000_000
"""More than can be sent: a replayed day, too, may pass in a few hundredths of a second."""

_ORDERS_PER_ENTRY = 3
"""An entry, its stop and its target."""
_ORDERS_PER_POSITION = 4
"""What a position may need at once: an exit, a forced exit, and a new stop and target."""


def engine_rate(orders_per_second: int = ENGINE_ORDERS_PER_SECOND) -> str:
    """Return the rate as the engine's configuration wants it."""
    return f"{orders_per_second}/00:00:01"


def require_room(
    policy: RiskPolicy | None, instruments: int, orders_per_second: int = ENGINE_ORDERS_PER_SECOND
) -> None:
    """Refuse a policy under which the engine could deny an order that protects or flattens.

    Parameters
    ----------
    policy : RiskPolicy or None
        Its `max_orders_per_second`; None has no limit of its own, and nothing is checked.
    instruments : int
        Each of which may have a position.
    orders_per_second : int
        The engine's limit.

    Raises
    ------
    ConfigError
        If the engine allows fewer orders a second than the policy and a flattening may need.
    """
    if policy is None:
        return
    reserve = _ORDERS_PER_POSITION * instruments
    needed = _ORDERS_PER_ENTRY * policy.max_orders_per_second + reserve
    if needed > orders_per_second:
        most = max(0, orders_per_second - reserve) // _ORDERS_PER_ENTRY
        raise ConfigError(
            f"max_orders_per_second of the risk policy must be at most {most}, was "
            f"{policy.max_orders_per_second}: with stops, targets and a flattening of "
            f"{instruments} positions that is {needed} orders a second, and the engine would deny "
            f"what is beyond {orders_per_second}"
        )
