"""What an exchange does between two moments at which a client may act, and what it sends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from tests.exchange.account import Account
from tests.exchange.orders import Order

type Command = Literal["place", "amend", "cancel"]
type StepKind = Literal["records", "events", "arrival", "price"]


class Message(NamedTuple):
    """What is sent: to an account's user stream, or to whoever listens to a market stream."""

    channel: Literal["user", "market"]
    name: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the market.

    Parameters
    ----------
    number : int
        Counts from 1.
    ts : int
        Market time, UTC nanoseconds.
    kind : {"records", "events", "arrival", "price"}
        What happened: market records; events of accounts that a record caused, before the
        record is shown; an order's arrival between records; an order that met the last price.
    messages : tuple of Message
        What is sent, in order.
    closes : bool
        Whether no further record of this time follows.
    """

    number: int
    ts: int
    kind: StepKind
    messages: tuple[Message, ...]
    closes: bool


@dataclass(slots=True)
class Flight:
    """A command on its way: its answer waits for its arrival."""

    arrival: int
    account: Account
    name: str
    what: Command
    done: asyncio.Future[Order] | None
    refused: bool = False


@dataclass(slots=True)
class Shown:
    """Market messages of a record whose events are sent, and seen, before them."""

    messages: list[Message] = field(default_factory=list)
