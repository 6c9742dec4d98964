"""Two engines must not trade one instrument of an account."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from adapters.connections import Connection, Keys
from catalog.errors import ConfigError
from live import account_claim
from live.account_claim import claim_account
from live.engine_request import EngineRequest
from live.profile import load_profile

BTC, ETH = "BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE"
ONE = EngineRequest(
    profile=load_profile("perps-swing"),
    bundle=Path("bundle"),
    state=Path("state"),
    traded=(BTC,),
    mode="testnet",
    name="one",
)
KEYS = Connection("testnet", "http://127.0.0.1:1", Keys(("key-of-a-test", "secret")))


def test_an_instrument_and_a_name_belong_to_one_process_until_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(account_claim, "_WAIT_SECS", 0.1)
    first = claim_account(ONE, KEYS)
    elsewhere = replace(ONE, name="two", state=Path("another"))
    with pytest.raises(ConfigError, match=f"instrument {BTC} must belong to one engine") as told:
        claim_account(elsewhere, KEYS)
    assert "secret" not in str(told.value)
    with pytest.raises(ConfigError, match="name one must belong to one engine"):
        claim_account(replace(ONE, traded=(ETH,)), KEYS)
    # What was claimed before the refusal was given back.
    claim_account(replace(elsewhere, traded=(ETH,)), KEYS).close()
    claim_account(elsewhere, replace(KEYS, keys=Keys(("another", "account")))).close()
    first.close()
    claim_account(elsewhere, KEYS).close()
