"""Slow inputs as a data client of a live node: what a `PollService` reads reaches subscribers.

The service's threads touch nothing of the engine: they hand plain records to the node's event
loop, which makes the engine's objects and publishes them. Actors subscribe by the client's name::

    self.subscribe_data(DataType("IndexLevel", None, "dvol.btc"), client_id=ClientId(POLLING))
    self.subscribe_funding_rates(instrument_id, client_id=ClientId(POLLING))

`NewsSentiment` with a series' name subscribes to its headlines as the catalog stores them,
`NewsArrival` to what a predictor takes of them. A record that came before anybody subscribed to
its series waits for the first who does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

from nautilus_trader.common import Clock
from nautilus_trader.config import DataClientConfig
from nautilus_trader.live import ClientCache
from nautilus_trader.live.clients import DataClientFactory, MarketDataClient
from nautilus_trader.model import Venue

from adapters.polling import PollService
from adapters.polling_records import Polled
from catalog.types import register_types

logger = logging.getLogger(__name__)

POLLING = "POLLING"
"""Name of the client, and of the venue that it stands for."""
_MOST_WAITING = 10_000

type _Topic = tuple[str, str]
"""Name of the type and the series."""


class PollingDataClient(MarketDataClient):
    """Publish what a poll service reads; it is started on connecting and stopped with the node.

    Attributes
    ----------
    published : int
        Records handed to the node.
    errors : int
        Records that the node did not take.
    """

    def __init__(self, service: PollService, **arguments: Any) -> None:
        super().__init__(**arguments)
        register_types()
        self._service = service
        self._wanted: set[_Topic] = set()
        self._waiting: dict[_Topic, deque[Polled]] = {}
        self.published = 0
        self.errors = 0

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()

        def arrived(rows: Sequence[Polled]) -> None:
            try:
                loop.call_soon_threadsafe(self._take, rows)
            except RuntimeError:  # the loop is closed: the node has ended before the reading
                logger.info("%d records of slow inputs came after the node's end", len(rows))

        self._service.start(arrived)

    async def _disconnect(self) -> None:
        # Not waited for: a read under way ends with its time-out, and its thread with the process.
        self._service.stop(wait_secs=0.0)

    def _take(self, rows: Sequence[Polled]) -> None:
        for row in rows:
            for topic in _topics(row):
                if topic in self._wanted:
                    self._hand_on(topic, row)
                else:
                    self._waiting.setdefault(topic, deque(maxlen=_MOST_WAITING)).append(row)

    def _hand_on(self, topic: _Topic, row: Polled) -> None:
        try:
            self._handle_data(row.sentiment() if topic[0] == "NewsSentiment" else row.data())
            self.published += 1
        except Exception:  # a record must not end the reading of all others
            self.errors += 1
            logger.exception("record of %s was not taken by the node", row.name)

    def _open(self, topic: _Topic) -> None:
        self._wanted.add(topic)
        for row in self._waiting.pop(topic, ()):
            self._hand_on(topic, row)

    async def _subscribe(self, command: Any) -> None:
        self._open((command.data_type.type_name, str(command.data_type.identifier)))

    async def _subscribe_funding_rates(self, command: Any) -> None:
        self._open(("FundingRateUpdate", str(command.instrument_id)))

    async def _unsubscribe(self, command: Any) -> None:
        data_type = command.data_type
        self._wanted.discard((data_type.type_name, str(data_type.identifier)))

    async def _unsubscribe_funding_rates(self, command: Any) -> None:
        self._wanted.discard(("FundingRateUpdate", str(command.instrument_id)))


def _topics(row: Polled) -> tuple[_Topic, ...]:
    if row.kind == "news":
        return (("NewsArrival", row.series), ("NewsSentiment", row.series))
    names = {"funding": "FundingRateUpdate", "index": "IndexLevel", "onchain": "OnchainMetrics"}
    return ((names[row.kind], row.series),)


def polling_data_factory(service: PollService) -> type[DataClientFactory]:
    """Return a factory class that hands the service to the client which the node builds.

    Examples
    --------
    >>> builder.add_data_client(POLLING, polling_data_factory(service), DataClientConfig())
    """

    class _Factory(DataClientFactory):
        @staticmethod
        def create(
            *, name: str, config: DataClientConfig, cache: ClientCache, clock: Clock
        ) -> PollingDataClient:
            return PollingDataClient(
                service, name=name, config=config, cache=cache, clock=clock, venue=Venue(name)
            )

    return _Factory
