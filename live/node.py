"""The wiring of a live node: nothing but assembly, so that a new engine release touches one file.

One node may be alive in a process at a time. It is built, run and dropped within one call, which
experiments have shown to be safe many times in a row.
"""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from nautilus_trader.common import Clock, Environment, LoggerConfig, LogLevel
from nautilus_trader.config import DataClientConfig, ExecutionClientConfig
from nautilus_trader.live import (
    ClientCache,
    LiveExecutionEngineConfig,
    LiveNode,
    LiveNodeBuilder,
    LiveNodeConfig,
    LiveRiskEngineConfig,
)
from nautilus_trader.live.clients import DataClient, DataClientFactory
from nautilus_trader.model import TraderId, Venue

from adapters.replay import FENCE_PARAMETER, FenceStrategy, ReplaySession, replay_data_factory
from catalog.errors import AwayError, RunFailedError
from live.paper import PaperExecutionClient, PaperWiring, paper_factory
from strategies.throttle import engine_rate

TRADER_ID = "LEVIBOT-001"


def run_node(
    session: ReplaySession, wiring: PaperWiring, actors: Sequence[Any], strategies: Sequence[Any]
) -> PaperExecutionClient:
    """Replay a session through a live node with a paper exchange; return when it has ended.

    Parameters
    ----------
    session : ReplaySession
        What is replayed. It ends with `session.finished` or `session.failure`.
    wiring : PaperWiring
        Connections of the paper exchange.
    actors, strategies : sequence
        Nautilus components, started in this order.

    Returns
    -------
    PaperExecutionClient
        With the book as it stands at the end.

    Raises
    ------
    RunFailedError
        If the node could not be built.
    """

    def ready(client: PaperExecutionClient, stop: Callable[[], None]) -> None:
        session.venue = client
        session.on_end = stop

    # Added last, started last: its subscription starts the replay.
    fence = FenceStrategy(session, wiring.account_id)
    try:
        return run_feed(replay_data_factory(session), wiring, ready, actors, (*strategies, fence))
    finally:
        session.on_end = None
        _release(session.failure)


def run_feed(
    data_factory: type[DataClientFactory],
    wiring: PaperWiring,
    ready: Callable[[PaperExecutionClient, Callable[[], None]], None],
    actors: Sequence[Any],
    strategies: Sequence[Any],
) -> PaperExecutionClient:
    """Run a live node with a paper exchange on any data client; return when somebody stops it.

    Parameters
    ----------
    data_factory : type
        Makes the client that market data come from, by the wall clock or in lock-step.
    wiring : PaperWiring
        Connections of the paper exchange.
    ready : callable
        Told the paper exchange, which must be shown each record before it is published, and what
        stops the node; from any thread.
    actors, strategies : sequence
        Nautilus components, started in this order.

    Raises
    ------
    RunFailedError
        If the node could not be built.
    """
    clients: list[PaperExecutionClient] = []
    node = _build(data_factory, paper_factory(wiring, clients.append), wiring)
    try:
        for actor in actors:
            node.add_actor(actor)
        for strategy in strategies:
            node.add_strategy(strategy)
        ready(clients[0], node.handle().stop)
        node.run()
    finally:
        node.dispose()
        del node
        _release(None)
    return clients[0]


def _build(
    data_factory: type[DataClientFactory], execution_factory: Any, wiring: PaperWiring
) -> LiveNode:
    try:
        return (
            LiveNodeBuilder.from_config("levibot", _node_config(wiring.store is not None))
            .add_data_client(wiring.venue, data_factory, DataClientConfig())
            .add_exec_client(wiring.venue, execution_factory, ExecutionClientConfig())
            .build()
        )
    except RuntimeError as error:
        raise RunFailedError(f"one live node may exist in a process at a time: {error}") from error


def _release(error: BaseException | None) -> None:
    """Drop what keeps a finished node alive: the engine refuses a second one as long.

    That is cycles, and the frames behind an exception, which reach back into the node's run. The
    traceback becomes a note of the exception: its text is kept, its frames are not.
    """
    while error is not None:
        if error.__traceback__ is not None:
            lines = traceback.format_tb(error.__traceback__)
            error.add_note("In the live node:\n" + "".join(lines))
            error.__traceback__ = None
        error = error.__cause__ or error.__context__
    gc.collect()


def _node_config(keeps: bool) -> LiveNodeConfig:
    """Return the settings of a paper node; one that keeps its account asks at its start for it."""
    return LiveNodeConfig(
        environment=Environment.SANDBOX,
        trader_id=TraderId(TRADER_ID),
        # Without it a dead task leaves one line in the log and a node that runs without data.
        shutdown_on_error=True,
        logging=LoggerConfig(stdout_level=LogLevel.ERROR),
        delay_post_stop_secs=0.0,
        timeout_shutdown_secs=1.0,
        exec_engine=LiveExecutionEngineConfig(
            reconciliation=keeps,
            reconciliation_startup_delay_secs=0.0,
            inflight_check_interval_ms=0,
        ),
        # The limit counts wall-clock seconds, of which a replayed day takes a few hundredths.
        risk_engine=LiveRiskEngineConfig(max_order_submit_rate=engine_rate()),
    )


_UNCONNECTED = "waiting for engine connections"
"""What the engine says when its clients could not connect in time."""


class _FirstToEnd(DataClient):
    """A client without data. A node disconnects it before its execution clients."""

    def __init__(self, ends: Callable[[], None], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._ends = ends

    async def _connect(self) -> None:
        """Do nothing."""

    async def _disconnect(self) -> None:
        self._ends()


def first_to_end(ends: Callable[[], None]) -> tuple[str, Any, Any]:
    """Return a client (for `NodeClients.others`) that calls `ends` on the node's thread.

    It does so before the node disconnects from its exchange, also where it does because it could
    not start: no component of it is stopped then, for none has started.
    """

    class _Factory(DataClientFactory):
        @staticmethod
        def create(
            *, name: str, config: DataClientConfig, cache: ClientCache, clock: Clock
        ) -> _FirstToEnd:
            return _FirstToEnd(
                ends, name=name, config=config, cache=cache, clock=clock, venue=Venue(name)
            )

    return ("FIRST-TO-END", _Factory, DataClientConfig())


class NodeClients(NamedTuple):
    """The clients of a node on an exchange.

    `data` and `execution` are factories of the engine with their configurations, `venue` their
    name; `others` are further data clients by name, such as that of the slow inputs.
    """

    venue: str
    data: tuple[Any, Any]
    execution: tuple[Any, Any]
    others: tuple[tuple[str, Any, Any], ...] = ()


def run_clients(
    clients: NodeClients,
    config: LiveNodeConfig,
    ready: Callable[[Callable[[], None]], None],
    actors: Sequence[Any],
    strategies: Sequence[Any],
) -> None:
    """Run a live node on an exchange's clients; return when somebody stops it.

    Parameters
    ----------
    clients : NodeClients
        Where data come from and orders go.
    config : LiveNodeConfig
        Of `exchange_node_config`.
    ready : callable
        Told, once the clients are built, what stops the node from any thread.
    actors, strategies : sequence
        Nautilus components, started in this order.

    Raises
    ------
    RunFailedError
        If the node could not be built or run.
    AwayError
        If the exchange is away when it connects: sockets may be, while questions are answered.
    """
    builder = LiveNodeBuilder.from_config("levibot", config)
    try:
        builder = builder.add_data_client(clients.venue, *clients.data)
        builder = builder.add_exec_client(clients.venue, *clients.execution)
        for name, factory, settings in clients.others:
            builder = builder.add_data_client(name, factory, settings)
        with _left_out("pandas"):
            node = builder.build()
    except RuntimeError as error:
        raise RunFailedError(f"the node could not be built: {error}") from error
    try:
        for actor in actors:
            node.add_actor(actor)
        for strategy in strategies:
            node.add_strategy(strategy)
        ready(node.handle().stop)
        node.run()
    except RuntimeError as error:
        if _UNCONNECTED in str(error):
            raise AwayError(
                f"{clients.venue} must answer a node that connects, did not: {error}"
            ) from error
        raise RunFailedError(f"the node could not run: {error}") from error
    finally:
        node.dispose()
        del node
        _release(None)


@contextmanager
def _left_out(module: str) -> Iterator[None]:
    """Let nobody import a module that is not imported yet.

    A node that is built imports Pandas to write its version in a log that is not shown. That is a
    tenth of the time until an engine that was killed trades again, which has no use for it.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


def exchange_node_config(instruments: Sequence[str], *, asks: bool) -> LiveNodeConfig:
    """Return the settings of a node on an exchange.

    Parameters
    ----------
    instruments : sequence of str
        What is traded: positions in others are nobody's affair here.
    asks : bool
        Whether the exchange is asked again and again what became of orders; a paper exchange,
        which is our own, is asked at the start only.
    """
    return LiveNodeConfig(
        environment=Environment.LIVE if asks else Environment.SANDBOX,
        trader_id=TraderId(TRADER_ID),
        # Every error in the engine's log would end the node. It logs one for each question that an
        # exchange which is away leaves open, and for each event of other people's orders that it
        # cannot apply: neither is a reason. What is one, is seen where it happens:
        # - a callback of ours that raised: `RunRecorder.errors`, `FeedWiring.on_error`, which end
        #   the engine; in the risk guard it ends trading;
        # - a node that ends by itself: `run` returns though nobody has asked (`Engine.ended`);
        # - a node's thread that stands still: its heartbeat stops, of which the supervisor knows;
        # - a data client that is dead: bars stay away, the feed says that it waits and opens
        #   nothing, alerts tell it, and the supervisor starts an engine that does not notice anew;
        # - orders that nobody answers, fills that nobody tells: `SilentOrders`, `StreamWatch`;
        # - slow inputs that stay away: their ages, by which the predictor calls itself degraded.
        shutdown_on_error=False,
        logging=LoggerConfig(stdout_level=LogLevel.ERROR),
        timeout_connection_secs=30.0,
        timeout_reconciliation_secs=20.0,
        timeout_portfolio_secs=5.0,
        timeout_disconnection_secs=3.0,
        delay_post_stop_secs=0.5,
        timeout_shutdown_secs=1.0,
        exec_engine=LiveExecutionEngineConfig(
            reconciliation=True,
            reconciliation_instrument_ids=list(instruments),
            # The engine must know of every position, or it would deny what reduces one. The orders
            # that it makes up to explain them are none of ours, and not in our books.
            generate_missing_orders=True,
            # The user stream tells of all orders of the account. Those in instruments of other
            # engines are not even looked at: an event that does not fit one of them would be an
            # error, and end every engine of the account at once.
            filter_unclaimed_external_orders=True,
            inflight_check_interval_ms=None if asks else 0,
            # Never asked of all symbols at once, which weighs 80 of the 2,400 a minute that all
            # engines of an address share: `AccountWatch` asks of those that are traded.
            open_check_interval_secs=None,
            purge_closed_orders_interval_mins=10,
            purge_closed_orders_buffer_mins=60,
            purge_closed_positions_interval_mins=10,
            purge_closed_positions_buffer_mins=60,
            purge_account_events_interval_mins=10,
            purge_account_events_lookback_mins=60,
        ),
        risk_engine=LiveRiskEngineConfig(max_order_submit_rate=engine_rate()),
    )


def fence_answer(session: ReplaySession, parameters: dict[str, Any]) -> None:
    """Hand the number of an answered fence to the session; other account queries carry none."""
    if FENCE_PARAMETER in parameters:
        session.fence_arrived(int(parameters[FENCE_PARAMETER]))
