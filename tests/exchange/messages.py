"""What the exchange tells of its own accord: user and market streams, in the venue's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tests.exchange.feed import Kind, Listing, Market, Record
from tests.exchange.orders import NO_EXECUTION, NS_PER_MS, Execution, Order

if TYPE_CHECKING:
    from tests.exchange.account import Account


def order_update(
    order: Order, listing: Listing, what: str, ts_ms: int, trade: Execution = NO_EXECUTION
) -> dict[str, Any]:
    """Return ``ORDER_TRADE_UPDATE``: `what` is ``NEW``, ``TRADE``, ``CANCELED``, ``EXPIRED`` ..."""
    message = {
        "s": order.symbol,
        "c": order.client_id,
        "S": order.side_name,
        "o": order.working_kind,
        "f": order.time_in_force,
        "q": listing.size(order.quantity),
        "p": listing.price(order.price or 0.0),
        "ap": f"{order.average:.8f}",
        "sp": listing.price(0.0),
        "x": what,
        "X": order.status,
        "i": order.order_id,
        "l": listing.size(trade.quantity),
        "z": listing.size(order.executed),
        "L": listing.price(trade.price),
        "N": trade.fee_asset,
        "n": f"{trade.commission:.8f}",
        "T": ts_ms,
        "t": trade.trade_id,
        "b": "0",
        "a": "0",
        "m": trade.maker,
        "R": order.reduce_only,
        "wt": order.working_type,
        "ot": order.kind if order.is_algo else order.working_kind,
        "ps": "BOTH",
        "cp": order.close_position,
        "AP": "0",
        "cr": "0",
        "pP": False,
        "si": order.algo_id,
        "ss": 0,
        "rp": f"{trade.realized:.8f}",
        "V": "EXPIRE_MAKER",
        "pm": "NONE",
        "gtd": order.good_till_ms,
        "er": "0",
    }
    return {"e": "ORDER_TRADE_UPDATE", "T": ts_ms, "E": ts_ms, "o": message}


def algo_update(order: Order, listing: Listing, status: str, ts_ms: int) -> dict[str, Any]:
    """Return ``ALGO_UPDATE`` in a state."""
    message = {
        "caid": order.client_id,
        "aid": order.algo_id,
        "at": "CONDITIONAL",
        "o": order.kind,
        "s": order.symbol,
        "S": order.side_name,
        "ps": "BOTH",
        "f": order.time_in_force,
        "q": listing.size(order.quantity),
        "X": status,
        "ai": str(order.order_id) if order.order_id else "",
        "ap": f"{order.average:.8f}",
        "aq": listing.size(order.executed),
        "act": "MARKET" if order.order_id else "0",
        "tp": listing.price(order.trigger or 0.0),
        "p": listing.price(0.0),
        "V": "EXPIRE_MAKER",
        "wt": order.working_type,
        "pm": "NONE",
        "cp": order.close_position,
        "pP": False,
        "R": order.reduce_only,
        "tt": order.trigger_ms,
        "gtd": order.good_till_ms,
        "rm": order.reason,
    }
    return {"e": "ALGO_UPDATE", "T": ts_ms, "E": ts_ms, "o": message}


def account_update(
    account: Account, why: str, symbols: Iterable[str], ts_ms: int
) -> dict[str, Any]:
    """Return ``ACCOUNT_UPDATE``: `why` is ``ORDER``, ``FUNDING_FEE``, ``DEPOSIT``, ``WITHDRAW``."""
    cash = f"{account.ledger.cash:.8f}"
    return {
        "e": "ACCOUNT_UPDATE",
        "T": ts_ms,
        "E": ts_ms,
        "a": {
            "m": why,
            "B": [{"a": "USDT", "wb": cash, "cw": cash, "bc": "0"}],
            "P": [_position(account, symbol) for symbol in symbols],
        },
    }


def _position(account: Account, symbol: str) -> dict[str, Any]:
    held = account.ledger.positions.get(symbol)
    quantity = 0.0 if held is None else held.quantity
    entry = 0.0 if held is None else held.average_open
    mark = account.ledger.marks.get(symbol, entry)
    return {
        "s": symbol,
        "pa": repr(quantity),
        "ep": repr(entry),
        "bep": repr(entry),
        "cr": "0" if held is None else f"{held.realized_pnl:.8f}",
        "up": f"{quantity * (mark - entry):.8f}",
        "mt": "isolated" if symbol in account.isolated else "cross",
        "iw": "0",
        "ps": "BOTH",
    }


def kline(listing: Listing, row: int, interval: str, ts: int) -> dict[str, Any]:
    """Return the kline of a complete bar."""
    close_ns, volume = int(listing.bars.ts_init[row]), float(listing.bars.volume[row])
    quote, trades, bought, bought_quote = listing.volumes(row)
    amounts = {
        "v": listing.size(volume),
        "q": f"{quote:.8f}",
        "n": trades,
        "V": listing.size(bought),
        "Q": f"{bought_quote:.8f}",
        "x": True,
    }
    return _kline(listing, ts) | {
        "k": _prices(listing, row) | _span(listing, close_ns, interval) | amounts
    }


def unfinished(listing: Listing, row: int, interval: str, ts: int) -> dict[str, Any]:
    """Return the kline of a bar that is being traded: so far, it has been at its open."""
    bars = listing.bars
    price = listing.price(float(bars.open[row]))
    return _kline(listing, ts) | {
        "k": {"o": price, "c": price, "h": price, "l": price}
        | _span(listing, int(bars.ts_init[row]), interval)
        | {"v": listing.size(0.0), "q": "0", "x": False}
    }


def _kline(listing: Listing, ts: int) -> dict[str, Any]:
    return {"e": "kline", "E": ts // NS_PER_MS, "s": listing.symbol}


def _prices(listing: Listing, row: int) -> dict[str, str]:
    bars = listing.bars
    columns = {"o": bars.open, "c": bars.close, "h": bars.high, "l": bars.low}
    return {key: listing.price(float(values[row])) for key, values in columns.items()}


def _span(listing: Listing, close_ns: int, interval: str) -> dict[str, Any]:
    close = close_ns // NS_PER_MS
    return {
        "t": close - listing.bars.interval_ns // NS_PER_MS,
        # The venue's stamp of a close is its last millisecond.
        "T": close - 1,
        "s": listing.symbol,
        "i": interval,
        "f": close,
        "L": close,
        "n": 1,
        "V": "0",
        "Q": "0",
        "B": "0",
    }


def mark_price(market: Market, symbol: str, price: float, ts: int) -> dict[str, Any]:
    """Return ``markPriceUpdate``; its rate is the last settled one, as an estimate of the next."""
    listing = market.listings[symbol]
    rate, due = market.rate(symbol, ts)
    text = listing.price(price)
    return {
        "e": "markPriceUpdate",
        "E": ts // NS_PER_MS,
        "s": symbol,
        "p": text,
        "ap": text,
        "i": text,
        "P": text,
        "r": f"{rate:.8f}",
        "T": due // NS_PER_MS,
    }


def book_ticker(listing: Listing, price: float, ts: int) -> dict[str, Any]:
    """Return ``bookTicker``: bid and ask are the price, as in a replay."""
    text, size = listing.price(price), listing.size(1_000.0)
    ts_ms = ts // NS_PER_MS
    return {
        "e": "bookTicker",
        "u": ts_ms,
        "s": listing.symbol,
        "b": text,
        "B": size,
        "a": text,
        "A": size,
        "T": ts_ms,
        "E": ts_ms,
    }


def agg_trade(listing: Listing, price: float, number: int, ts: int) -> dict[str, Any]:
    """Return ``aggTrade`` of the smallest size at a price."""
    ts_ms = ts // NS_PER_MS
    return {
        "e": "aggTrade",
        "E": ts_ms,
        "a": number,
        "s": listing.symbol,
        "p": listing.price(price),
        "q": listing.size(float(listing.terms.step)),
        "f": number,
        "l": number,
        "T": ts_ms,
        "m": False,
    }


def market_messages(
    market: Market, record: Record, interval: str
) -> list[tuple[str, dict[str, Any]]]:
    """Return what the market streams say of a record: pairs of stream and message."""
    listing = market.listings[record.symbol]
    name, ts, row = record.symbol.lower(), record.ts, record.row
    bars = listing.bars
    if record.kind is Kind.BAR:
        close = float(bars.close[row])
        return [
            (f"{name}@markPrice", mark_price(market, record.symbol, close, ts)),
            (f"{name}@kline_{interval}", kline(listing, row, interval, ts)),
        ]
    if record.kind is Kind.QUOTE:
        price = float(bars.open[row])
        return [
            (f"{name}@bookTicker", book_ticker(listing, price, ts)),
            (f"{name}@aggTrade", agg_trade(listing, price, ts // NS_PER_MS, ts)),
        ]
    known = market.known_bars(record.symbol, ts)
    if record.kind is Kind.FUNDING and known:
        close = float(bars.close[known - 1])
        return [(f"{name}@markPrice", mark_price(market, record.symbol, close, ts))]
    return []


def latest_price(
    market: Market, prices: Mapping[str, float], clock: int, stream: str
) -> dict[str, Any] | None:
    """Return what a stream said last, as a venue repeats it within a second or three.

    Only prices are repeated; a bar is told once.
    """
    name, _, kind = stream.partition("@")
    symbol = name.upper()
    if symbol in prices and kind == "bookTicker":
        return book_ticker(market.listings[symbol], prices[symbol], clock)
    if symbol in prices and kind == "markPrice":
        return mark_price(market, symbol, prices[symbol], clock)
    return None
