"""Request weights and order counts, as the venue counts them: by minute and by ten seconds."""

from __future__ import annotations

import time
from collections import Counter

from tests.exchange.errors import ExchangeError

_MINUTE, _TEN_SECONDS = 60.0, 10.0


class _Window:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._number = -1
        self.used = 0

    def add(self, weight: int) -> int:
        number = int(time.monotonic() // self._seconds)
        if number != self._number:
            self._number, self.used = number, 0
        self.used += weight
        return self.used

    def left_s(self) -> int:
        return int(self._seconds - time.monotonic() % self._seconds) + 1


class Limits:
    """What an address may ask for.

    Parameters
    ----------
    weight : int
        Request weight a minute.
    orders : int
        Orders in ten seconds.
    """

    def __init__(self, weight: int, orders: int) -> None:
        self._weight_limit = weight
        self._order_limit = orders
        self._weight = _Window(_MINUTE)
        self._orders = _Window(_TEN_SECONDS)
        self.spent: Counter[str] = Counter()
        """Weight since the start, by what was asked."""
        self.refused = 0
        """Requests that were too many."""

    @property
    def headers(self) -> dict[str, str]:
        """What each answer says of the limits."""
        return {
            "X-MBX-USED-WEIGHT-1M": str(self._weight.used),
            "X-MBX-ORDER-COUNT-10S": str(self._orders.used),
        }

    def rows(self) -> list[dict[str, object]]:
        """Return what the WebSocket API says of the limits."""
        counted = (
            ("REQUEST_WEIGHT", "MINUTE", 1, self._weight_limit, self._weight.used),
            ("ORDERS", "SECOND", 10, self._order_limit, self._orders.used),
        )
        return [
            {
                "rateLimitType": kind,
                "interval": unit,
                "intervalNum": length,
                "limit": limit,
                "count": used,
            }
            for kind, unit, length, limit, used in counted
        ]

    def use(self, weight: int, what: str = "") -> None:
        """Count a request; `what` says which, for `spent`.

        Raises
        ------
        ExchangeError
            429 with the seconds to wait, where the minute's weight is used up.
        """
        self.spent[what] += weight
        if self._weight.add(weight) > self._weight_limit:
            self.refused += 1
            raise ExchangeError(
                -1003,
                f"Too many requests; current limit is {self._weight_limit} requests per minute.",
                status=429,
                retry_after=self._weight.left_s(),
            )

    def use_order(self) -> None:
        """Count an order; `ExchangeError` -1015 where there were too many."""
        if self._orders.add(1) > self._order_limit:
            raise ExchangeError(
                -1015,
                f"Too many new orders; current limit is {self._order_limit} orders per 10 seconds.",
                status=429,
                retry_after=self._orders.left_s(),
            )


def kline_weight(limit: int) -> int:
    """Return the weight of a request for so many klines."""
    for most, weight in ((99, 1), (499, 2), (1_000, 5)):
        if limit <= most:
            return weight
    return 10
