import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.ledger import Ledger, LedgerFill


def fill(side, quantity, price, fee=0.0, ts=1, reason="x"):
    return LedgerFill(ts, "A", side, quantity, price, fee, reason)


def test_a_round_trip_by_hand():
    ledger = Ledger(1_000.0)
    ledger.apply_fill(fill(1, 2.0, 100.0, 0.5, ts=1))
    assert (ledger.cash, ledger.quantity("A")) == (999.5, 2.0)
    ledger.mark("A", 110.0)
    assert ledger.equity() == 1_019.5
    assert ledger.apply_funding("A", 0.001, 2) == -0.22
    assert ledger.apply_fill(fill(-1, 2.0, 105.0, 0.6, ts=3, reason="exit")) == 10.0
    assert ledger.cash == pytest.approx(1_000 - 0.5 - 0.22 + 10 - 0.6, abs=1e-9)
    (row,) = ledger.closed
    assert (row.ts_opened, row.ts_closed, row.side, row.quantity) == (1, 3, 1, 2.0)
    assert (row.average_open, row.average_close, row.realized_pnl) == (100.0, 105.0, 10.0)
    assert (row.commission, row.funding, row.reason) == (1.1, -0.22, "exit")


def test_a_fill_through_zero_closes_and_opens_and_splits_its_fee():
    ledger = Ledger(0.0)
    ledger.apply_fill(fill(1, 1.0, 100.0))
    ledger.apply_fill(fill(-1, 3.0, 90.0, 3.0, ts=2))
    assert ledger.quantity("A") == -2.0
    assert ledger.positions["A"].average_open == 90.0
    assert (ledger.closed[0].commission, ledger.positions["A"].commission) == (1.0, 2.0)
    assert ledger.cash == -13.0


def test_additions_average_and_reductions_do_not():
    ledger = Ledger(0.0)
    ledger.apply_fill(fill(-1, 1.0, 100.0))
    ledger.apply_fill(fill(-1, 3.0, 120.0))
    assert ledger.positions["A"].average_open == 115.0
    ledger.apply_fill(fill(1, 1.0, 110.0))
    assert ledger.positions["A"].average_open == 115.0
    assert ledger.cash == 5.0


def test_funding_of_a_flat_instrument_is_nothing():
    ledger = Ledger(5.0)
    assert ledger.apply_funding("A", 0.01, 1) == 0.0
    assert ledger.settlements == []


fills = st.lists(
    st.tuples(st.sampled_from([-1, 1]), st.integers(1, 50), st.integers(500, 1500)), max_size=60
)


@given(fills, st.integers(500, 1500))
def test_equity_is_cash_flow_plus_inventory_whatever_the_path(rows, mark):
    ledger = Ledger(10_000.0)
    flow, inventory = 10_000.0, 0.0
    for side, quantity, price in rows:
        ledger.apply_fill(fill(side, quantity / 10, float(price), 0.25))
        flow -= side * quantity / 10 * price + 0.25
        inventory += side * quantity / 10
    ledger.mark("A", float(mark))
    assert ledger.equity() == pytest.approx(flow + inventory * mark, abs=1e-4)
    assert ledger.quantity("A") == pytest.approx(inventory, abs=1e-9)
    assert len(ledger.history) == len(rows)
