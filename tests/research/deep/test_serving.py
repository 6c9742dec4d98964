"""What the contract of experts does not see: exports and networks that must be refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from catalog.errors import DataError, IntegrityError
from research.experts import FitContext
from research.models.deep.blocks import ModelInputs, SequenceModel
from research.models.deep.config import LSTMConfig
from research.models.deep.export import export_step
from research.models.deep.fit import DeepExpert, fit
from research.models.deep.runtime import OnnxExpert
from research.models.deep.sequences import Memory
from tests.research.deep.tables import planted_table, trainable_rows

CONFIG = LSTMConfig(
    d_model=4, period_bars=8, samples=2, epochs=1, chunk_bars=32, batch_bars=256, seed=3
)


class Sum(SequenceModel):
    """A model that adds up its inputs: the least that can be exported."""

    def __init__(self, fault: str = "") -> None:
        super().__init__(ModelInputs(("one", "two"), 2), Memory(2, 7, 4), [2])
        self.scale = nn.Parameter(torch.ones(4))
        self.fault = fault

    def forward(self, x: Tensor, code: Tensor, masks: list[Tensor]) -> Tensor:
        total = (x * masks[0][:, None]).sum(dim=2).cumsum(dim=1)
        steps = torch.arange(1, x.shape[1] + 1)
        return (total + code[:, None] * steps)[..., None] * self.scale

    def empty_parts(self, batch: int) -> tuple[Tensor, ...]:
        return (torch.full((batch, 1), 1.0 if self.fault == "state" else 0.0),)

    def read(self, x: Tensor, code: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        return x, code

    def advance(
        self, seen: tuple[Tensor, ...], masks: list[Tensor], *parts: Tensor
    ) -> tuple[Tensor, ...]:
        x, code = seen
        total = parts[0] + (x * masks[0]).sum(dim=1, keepdim=True) + code[:, None]
        count = len(x) if self.fault == "batch" else x.shape[0]
        if self.fault == "value" and torch.jit.is_tracing():
            total = total + 1e-3
        return total.reshape(count, 1) * self.scale, total


def test_a_sound_model_is_exported_to_the_same_bytes(tmp_path: Path) -> None:
    model = Sum().train()
    for name in ("one", "two"):
        export_step(model, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert model.training  # as it was


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("state", "empty state of a sequence model must be all zeros"),
        ("batch", r"must take any number of sequences, did not: .* shape\[0\] in step"),
        ("value", "must answer as torch does to within 1e-05, differed by 0.001"),
    ],
)
def test_a_model_that_would_be_served_wrongly_is_refused(
    fault: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=f"(?s){message}"):
        export_step(Sum(fault), tmp_path / "network")
    assert not (tmp_path / "network").exists()


@pytest.fixture(scope="module")
def fitted() -> DeepExpert:
    table = planted_table(200)
    return fit(table, trainable_rows(table), CONFIG, FitContext())


def test_a_network_of_another_model_is_refused(fitted: DeepExpert, tmp_path: Path) -> None:
    export_step(Sum(), tmp_path / "network")
    with pytest.raises(IntegrityError, match=r"inputs of the network of lstm must be .* differed"):
        OnnxExpert(fitted.spec, (tmp_path / "network").read_bytes())


def test_more_instruments_than_were_fitted_are_refused(fitted: DeepExpert) -> None:
    with pytest.raises(DataError, match=r"n_instruments of lstm must be at most the 2 .* was 3"):
        fitted.served.stream(3)
    matrix = planted_table(20).matrix
    more = replace(matrix, instruments=(*matrix.instruments, "SOLUSDT-PERP.BINANCE"))
    with pytest.raises(DataError, match=r"instruments of lstm must be at most the 2 .* were 3"):
        fitted.served.predict(more, np.arange(3))


def test_an_instrument_without_bars_keeps_its_state(fitted: DeepExpert) -> None:
    matrix = planted_table(60, seed=4).matrix
    rows = [np.flatnonzero(matrix.instrument == code) for code in (0, 1)]
    both, alone = fitted.served.stream(2), fitted.served.stream(2)
    for at in range(60):
        # The second has a bar at every third time only; the first is answered all the same.
        present = [0, 1] if at % 3 == 0 else [0]
        values = np.stack([matrix.values[rows[code][at]] for code in present])
        slot = int(matrix.ts_init[rows[0][at]] // fitted.spec.interval_ns)
        one = both.update(slot, np.array(present), values)
        other = alone.update(slot, np.array([0]), values[:1])
        np.testing.assert_allclose(one.prob_up[:1], other.prob_up, rtol=0.0, atol=1e-6)
    assert np.isfinite(other.prob_up).all()


def test_no_answer_where_history_is_too_short(fitted: DeepExpert) -> None:
    matrix = planted_table(12).matrix
    found = fitted.served.predict(matrix, np.arange(len(matrix.ts_init)))
    assert np.isnan(found.prob_up[:4]).all()
    assert len(fitted.served.predict(matrix, np.array([2, 1]))) == 2
