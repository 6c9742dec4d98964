"""Two engines must not trade one instrument of an account."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from adapters.connections import Connection, Keys
from catalog.errors import ConfigError
from live import account_claim
from live.account_claim import Share, claim_account
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


def test_engines_of_an_account_know_what_the_others_count_with() -> None:
    other = replace(ONE, traded=(ETH,), name="two", equity=500.0)
    with claim_account(ONE, KEYS) as one, claim_account(other, KEYS) as two:
        one.share(1_000.0)
        two.share(499.994)
        assert one.others() == {"two": Share(499.99, False)}
        assert two.others() == {"one": Share(1_000.0, True)}
        two.share(350.5)
        assert one.others() == {"two": Share(350.5, False)}
        with one.alone():
            assert account_claim._bound(f"{two._prefix}lock", 0.0) is None
        elsewhere = replace(KEYS, keys=Keys(("another", "account")))
        with claim_account(ONE, elsewhere) as stranger:
            assert stranger.others() == {}
    assert one.others() == {}


def test_another_key_of_an_account_is_the_same_account() -> None:
    rotated = replace(KEYS, keys=Keys(("a-new-key", "another-secret")))
    with (
        claim_account(ONE, KEYS, "SgsR") as one,
        claim_account(replace(ONE, traded=(ETH,), name="two"), rotated, "SgsR") as two,
    ):
        two.share(7.0)
        assert one.others() == {"two": Share(7.0, True)}
