"""Answers about accounts and instruments, in the venue's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.exchange.account import Account
from tests.exchange.feed import Listing

if TYPE_CHECKING:
    from tests.exchange.core import Exchange

_FAR_MS = 4_133_404_800_000


def _money(value: float) -> str:
    return f"{value:.8f}"


def _unrealised(account: Account, exchange: Exchange, symbol: str) -> float:
    held = account.ledger.positions.get(symbol)
    if held is None:
        return 0.0
    return held.quantity * (exchange.prices[symbol] - held.average_open)


def _totals(account: Account, exchange: Exchange) -> tuple[float, float, float]:
    """Return cash, unrealised result and initial margin, USDT."""
    names = account.ledger.positions
    profit = sum(_unrealised(account, exchange, name) for name in names)
    margin = sum(_margin(account, exchange, name) for name in names)
    return account.ledger.cash, profit, margin


def _margin(account: Account, exchange: Exchange, symbol: str) -> float:
    return (
        abs(account.quantity(symbol)) * exchange.prices[symbol] / account.leverage.get(symbol, 20)
    )


def balance_answer(account: Account, exchange: Exchange) -> list[dict[str, Any]]:
    """Return ``/fapi/v2/balance``."""
    cash, profit, margin = _totals(account, exchange)
    free = max(0.0, cash + profit - margin)
    return [
        {
            "accountAlias": account.keys.name,
            "asset": "USDT",
            "balance": _money(cash),
            "crossWalletBalance": _money(cash),
            "crossUnPnl": _money(profit),
            "availableBalance": _money(free),
            "maxWithdrawAmount": _money(free),
            "marginAvailable": True,
            "updateTime": exchange.clock_ms,
        }
    ]


def account_answer(account: Account, exchange: Exchange) -> dict[str, Any]:
    """Return ``/fapi/v2/account``."""
    cash, profit, margin = _totals(account, exchange)
    needed = sum(
        abs(one.quantity)
        * exchange.prices[name]
        * float(exchange.market.listings[name].terms.maintenance_frac)
        for name, one in account.ledger.positions.items()
    )
    free = max(0.0, cash + profit - margin)
    asset = {
        "walletBalance": _money(cash),
        "unrealizedProfit": _money(profit),
        "marginBalance": _money(cash + profit),
        "maintMargin": _money(needed),
        "initialMargin": _money(margin),
        "positionInitialMargin": _money(margin),
        "openOrderInitialMargin": _money(0.0),
        "crossWalletBalance": _money(cash),
        "crossUnPnl": _money(profit),
        "availableBalance": _money(free),
        "maxWithdrawAmount": _money(free),
    }
    totals = {
        "totalInitialMargin": asset["initialMargin"],
        "totalMaintMargin": asset["maintMargin"],
        "totalWalletBalance": asset["walletBalance"],
        "totalUnrealizedProfit": asset["unrealizedProfit"],
        "totalMarginBalance": asset["marginBalance"],
        "totalPositionInitialMargin": asset["initialMargin"],
        "totalOpenOrderInitialMargin": asset["openOrderInitialMargin"],
        "totalCrossWalletBalance": asset["crossWalletBalance"],
        "totalCrossUnPnl": asset["crossUnPnl"],
    }
    return {
        "feeTier": 0,
        "canTrade": True,
        "canDeposit": True,
        "canWithdraw": True,
        "updateTime": exchange.clock_ms,
        "multiAssetsMargin": False,
        "tradeGroupId": -1,
        **totals,
        "availableBalance": asset["availableBalance"],
        "maxWithdrawAmount": asset["maxWithdrawAmount"],
        "assets": [
            {"asset": "USDT", **asset, "marginAvailable": True, "updateTime": exchange.clock_ms}
        ],
        "positions": [
            _account_position(account, exchange, one) for one in exchange.market.listings.values()
        ],
    }


def _account_position(account: Account, exchange: Exchange, listing: Listing) -> dict[str, Any]:
    symbol = listing.symbol
    held = account.ledger.positions.get(symbol)
    margin = _money(_margin(account, exchange, symbol))
    return {
        "symbol": symbol,
        "initialMargin": margin,
        "maintMargin": "0",
        "unrealizedProfit": _money(_unrealised(account, exchange, symbol)),
        "positionInitialMargin": margin,
        "openOrderInitialMargin": "0",
        "leverage": str(account.leverage.get(symbol, 20)),
        "isolated": symbol in account.isolated,
        "entryPrice": repr(0.0 if held is None else held.average_open),
        "maxNotional": "1000000",
        "bidNotional": "0",
        "askNotional": "0",
        "positionSide": "BOTH",
        "positionAmt": listing.size(0.0 if held is None else held.quantity),
        "updateTime": exchange.clock_ms,
    }


def position_answer(account: Account, exchange: Exchange, symbol: str) -> list[dict[str, Any]]:
    """Return ``/fapi/v2/positionRisk``, of one instrument or (an empty symbol) all."""
    return [
        _position(account, exchange, one)
        for one in exchange.market.listings.values()
        if not symbol or one.symbol == symbol
    ]


def _position(account: Account, exchange: Exchange, listing: Listing) -> dict[str, Any]:
    symbol = listing.symbol
    held = account.ledger.positions.get(symbol)
    quantity = 0.0 if held is None else held.quantity
    entry = 0.0 if held is None else held.average_open
    price = exchange.prices[symbol]
    return {
        "symbol": symbol,
        "positionAmt": listing.size(quantity),
        "entryPrice": repr(entry),
        "breakEvenPrice": repr(entry),
        "markPrice": listing.price(price),
        "unRealizedProfit": _money(_unrealised(account, exchange, symbol)),
        "liquidationPrice": "0",
        "leverage": str(account.leverage.get(symbol, 20)),
        "maxNotionalValue": "1000000",
        "marginType": "isolated" if symbol in account.isolated else "cross",
        "isolatedMargin": "0.00000000",
        "isAutoAddMargin": "false",
        "positionSide": "BOTH",
        "notional": _money(quantity * price),
        "isolatedWallet": "0",
        "adl": 0,
        "updateTime": exchange.clock_ms if quantity else 0,
    }


def exchange_info(
    exchange: Exchange, now_ms: int, limits: list[dict[str, object]]
) -> dict[str, Any]:
    """Return ``/fapi/v1/exchangeInfo``."""
    rows = [{key: value for key, value in one.items() if key != "count"} for one in limits]
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "futuresType": "U_MARGINED",
        "rateLimits": rows,
        "exchangeFilters": [],
        "assets": [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "0"}],
        "symbols": [_symbol(one) for one in exchange.market.listings.values()],
    }


def _symbol(listing: Listing) -> dict[str, Any]:
    terms = listing.terms
    tick, step = listing.price(float(terms.tick)), listing.size(float(terms.step))
    least = listing.size(float(terms.min_quantity or terms.step))
    most = listing.size(float(terms.max_quantity or 10_000_000))
    sizes = {"minQty": least, "maxQty": most, "stepSize": step}
    return {
        "symbol": listing.symbol,
        "pair": listing.symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": _FAR_MS,
        "onboardDate": 1_569_398_400_000,
        "status": "TRADING",
        "maintMarginPercent": f"{float(terms.maintenance_frac) * 100:.4f}",
        "requiredMarginPercent": "5.0000",
        "baseAsset": listing.base,
        "quoteAsset": "USDT",
        "marginAsset": "USDT",
        "pricePrecision": terms.price_decimals,
        "quantityPrecision": listing.size_decimals,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "settlePlan": 0,
        "triggerProtect": "0.0500",
        "liquidationFee": "0.012500",
        "marketTakeBound": "0.05",
        "maxMoveOrderLimit": 10_000,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": tick,
                "maxPrice": listing.price(10_000_000),
                "tickSize": tick,
            },
            {"filterType": "LOT_SIZE", **sizes},
            {"filterType": "MARKET_LOT_SIZE", **sizes},
            {"filterType": "MAX_NUM_ORDERS", "limit": 200},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "limit": 10},
            {"filterType": "MIN_NOTIONAL", "notional": str(terms.min_notional)},
        ],
        "orderTypes": [
            "LIMIT",
            "MARKET",
            "STOP",
            "STOP_MARKET",
            "TAKE_PROFIT",
            "TAKE_PROFIT_MARKET",
            "TRAILING_STOP_MARKET",
        ],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
    }
