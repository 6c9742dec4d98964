"""Positions are held as the profile counts with, or nothing is opened."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from adapters.accounts import AccountState, HeldPosition, Margin
from catalog.errors import ConfigError
from live.account_margin import MarginCheck, margin_fault, require_margin

BTC, ETH, SOL = (f"{one}USDT-PERP.BINANCE" for one in ("BTC", "ETH", "SOL"))
NEEDED = {BTC: 3.0, ETH: 3.0}


@pytest.mark.parametrize(
    ("margins", "words"),
    [
        ([Margin(BTC, False, 20.0), Margin(ETH, False, 3.0)], ""),
        ([], ""),
        # What others do with other instruments is theirs.
        ([Margin(SOL, True, 1.0, hedged=True)], ""),
        ([Margin(BTC, True, 20.0), Margin(ETH, False, 3.0)], f"margin of {BTC} must be crossed"),
        (
            [Margin(BTC, False, 2.0), Margin(ETH, False, 1.0)],
            f"at least the profile's 3, is 2 of {BTC}, 1 of {ETH}",
        ),
        ([Margin(BTC, True, 1.0, hedged=True)], "must be one-way, is hedge"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(margins: list[Margin], words: str) -> None:
    fault = margin_fault(NEEDED, margins)
    assert (words in fault) if words else fault == ""


def prepared() -> Any:
    request = SimpleNamespace(traded=(BTC, ETH))
    return SimpleNamespace(request=request, execution=SimpleNamespace(leverage=3.0))


def test_a_start_is_refused_unless_there_is_something_to_look_after() -> None:
    wrong = (Margin(BTC, True, 20.0),)
    with pytest.raises(ConfigError, match="change the margin mode at the exchange"):
        require_margin(prepared(), AccountState(1.0, (), (), margins=wrong))
    others = (HeldPosition(SOL, 1.0, 100.0),)
    with pytest.raises(ConfigError, match="must be crossed"):
        require_margin(prepared(), AccountState(1.0, others, (), margins=wrong))
    held = (HeldPosition(ETH, 1.0, 100.0),)
    require_margin(prepared(), AccountState(1.0, held, (), margins=wrong))


def test_what_is_changed_while_it_runs_is_told_once_and_keeps_entries_back() -> None:
    told: list[str] = []
    teller: Any = SimpleNamespace(event=lambda kind, text, **_: told.append(text))
    check = MarginCheck(NEEDED, teller)
    for isolated in (False, True, True, False):
        state = AccountState(1.0, (), (), margins=(Margin(BTC, isolated, 20.0),))
        check.judge(state, False)
        refused = check.refused()
        assert (refused is not None) == isolated
        assert refused is None or refused.why == "margin"
    assert ["nothing new is opened until then" in told[0], told[1:]] == [
        True,
        ["it is right again"],
    ]
