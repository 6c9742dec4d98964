"""The TFT's blocks against the paper's equations, written out in numpy one row at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from catalog.errors import ConfigError
from research.models.deep.blocks import initialise
from research.models.deep.tft_blocks import (
    GateAddNorm,
    GatedLinearUnit,
    GatedResidualNetwork,
    InterpretableAttention,
    SequenceEncoder,
    StaticEncoder,
    Variable,
    VariableSelection,
)

Array = NDArray[np.float64]


def drawn[M: nn.Module](module: M, seed: int = 3) -> M:
    """Return the module with every number of it drawn anew, so that no term hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.7, generator=generator)
    return module.double()


def rows(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def weights(module: nn.Module) -> dict[str, Array]:
    return {name: value.detach().numpy() for name, value in module.named_parameters()}


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def elu(x: Array) -> Array:
    return np.where(x > 0.0, x, np.exp(np.minimum(x, 0.0)) - 1.0)


def softmax(x: Array) -> Array:
    e: Array = np.exp(x - x.max())
    return e / e.sum()


def layer_norm(x: Array, gain: Array, bias: Array) -> Array:
    normed: Array = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * gain + bias
    return normed


def glu(x: Array, w: dict[str, Array], at: str) -> Array:
    """Equation 5; W5 and b5 are stored above W4 and b4."""
    half = len(w[f"{at}.bias"]) // 2
    w5, w4 = w[f"{at}.weight"][:half], w[f"{at}.weight"][half:]
    b5, b4 = w[f"{at}.bias"][:half], w[f"{at}.bias"][half:]
    return sigmoid(w4 @ x + b4) * (w5 @ x + b5)


def grn(
    a: Array, w: dict[str, Array], at: str = "", context: Array | None = None, mask: float = 1.0
) -> Array:
    """Equations 2 to 4, with the mask where the paper has its dropout."""
    inner = w[f"{at}inner.weight"] @ a + w[f"{at}inner.bias"]
    if context is not None:
        inner = inner + w[f"{at}context.weight"] @ context
    eta2 = elu(inner)
    eta1 = (w[f"{at}outer.weight"] @ eta2 + w[f"{at}outer.bias"]) * mask
    skip = a
    if f"{at}skip.weight" in w:
        skip = w[f"{at}skip.weight"] @ a + w[f"{at}skip.bias"]
    gain, bias = w[f"{at}close.norm.weight"], w[f"{at}close.norm.bias"]
    return layer_norm(skip + glu(eta1, w, f"{at}close.gate.both"), gain, bias)


def test_gated_linear_unit_is_equation_5() -> None:
    module, x = drawn(GatedLinearUnit(4, 3)), rows(6, 4)
    expected = [glu(row, weights(module), "both") for row in x.numpy()]
    np.testing.assert_allclose(module(x).detach(), expected, rtol=1e-10)


def test_gate_add_norm_is_equation_17() -> None:
    module, x, skip = drawn(GateAddNorm(4, 3)), rows(6, 4), rows(6, 3, seed=9)
    w = weights(module)
    expected = [
        layer_norm(around + glu(row, w, "gate.both"), w["norm.weight"], w["norm.bias"])
        for row, around in zip(x.numpy(), skip.numpy(), strict=True)
    ]
    np.testing.assert_allclose(module(x, skip).detach(), expected, rtol=1e-9)


@pytest.mark.parametrize("n_out", [4, 3])
@pytest.mark.parametrize("n_context", [0, 2])
def test_gated_residual_network_is_equations_2_to_4(n_out: int, n_context: int) -> None:
    module = drawn(GatedResidualNetwork(4, 5, n_out, n_context))
    x, context = rows(6, 4), rows(6, n_context, seed=7) if n_context else None
    mask = torch.full((5,), 1.25, dtype=torch.float64)
    expected = [
        grn(row, weights(module), "", None if context is None else context[place].numpy(), 1.25)
        for place, row in enumerate(x.numpy())
    ]
    np.testing.assert_allclose(module(x, context, mask).detach(), expected, rtol=1e-9)


VARIABLES = (
    Variable("flagged", (0, 4)),
    Variable("plain", (3,)),
    Variable("pair", (1, 2)),
)


def test_variable_selection_is_equations_6_to_8_in_a_loop() -> None:
    """Each variable by itself: ``U x + P GLU(W ELU(A x) + b)``, then weighted."""
    width, rank, scale = 4, 3, np.sqrt(3.0)
    module = drawn(VariableSelection(VARIABLES, width, rank, 2))
    x, context = rows(2, 5, 6), rows(2, 1, 2, seed=11)
    selected, found = module(x, context)
    w = weights(module)
    for sequence, step in np.ndindex(2, 5):
        row = x[sequence, step].numpy()
        # Only inputs 0 to 4 belong to a variable; the last is somebody else's.
        v = softmax(grn(row[:5], w, "weigh.", context[sequence, 0].numpy()))
        total = np.zeros(width)
        for place, variable in enumerate(VARIABLES):
            xi = np.array([0.0, 0.0, 1.0])
            xi[: len(variable.places)] = row[list(variable.places)]
            embedded = xi @ w["lift"][place]
            hidden = elu(w["spread"][place] @ xi)
            both = w["gate"][place] @ hidden + w["gate_bias"][place, :, 0]
            gated = both[:rank] * sigmoid(both[rank:])
            total += v[place] * (embedded + gated @ w["expand"][place])
        np.testing.assert_allclose(found[sequence, step].detach(), v, rtol=1e-9)
        np.testing.assert_allclose(selected[sequence, step].detach(), total * scale, rtol=1e-9)


def test_variable_selection_contains_the_papers_network_of_a_variable() -> None:
    """Embedding, W2, ELU, W1, gate and skip of equations 2 to 4 fold into one set of weights."""
    rng = np.random.default_rng(2)
    size = 4  # of the paper's embedding, hidden layer and result alike
    slope, constant = rng.normal(size=(2, size))
    w1, w2, w4, w5 = rng.normal(size=(4, size, size))
    b1, b2, b4, b5 = rng.normal(size=(4, size))
    module = drawn(VariableSelection([Variable("x", (0,))], size, size, 1))
    with torch.no_grad():
        module.lift[0] = torch.tensor(np.stack([slope, np.zeros(size), constant]))
        spread = [w2 @ slope, np.zeros(size), w2 @ constant + b2]
        module.spread[0] = torch.tensor(np.stack(spread, axis=1))
        module.gate[0] = torch.tensor(np.vstack([w5 @ w1, w4 @ w1]))
        module.gate_bias[0, :, 0] = torch.tensor(np.append(w5 @ b1 + b5, w4 @ b1 + b4))
        module.expand[0] = torch.eye(size)
    x = rows(7, 1)
    for value, found in zip(x[:, 0].numpy(), module(x, rows(7, 1))[0].detach(), strict=True):
        xi = slope * value + constant
        eta1 = w1 @ elu(w2 @ xi + b2) + b1
        expected = xi + sigmoid(w4 @ eta1 + b4) * (w5 @ eta1 + b5)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_one_variable_alone_has_all_the_weight_and_weights_sum_to_one() -> None:
    single = drawn(VariableSelection([Variable("x", (1,))], 4, 2, 3))
    np.testing.assert_allclose(single(rows(5, 2), rows(5, 3))[1].detach(), 1.0)
    module = drawn(VariableSelection(VARIABLES, 4, 2, 3))
    found = module(10.0 * rows(50, 6), rows(50, 3))[1].detach()
    assert (found >= 0.0).all()
    np.testing.assert_allclose(found.sum(dim=-1), 1.0)


@pytest.mark.parametrize("places", [(), (0, 1, 2)])
def test_a_variable_of_no_or_three_inputs_is_refused(places: tuple[int, ...]) -> None:
    with pytest.raises(
        ConfigError, match=f"variable x must have one or two inputs, had {len(places)}"
    ):
        Variable("x", places)


def test_what_no_variable_holds_changes_nothing() -> None:
    module, x = drawn(VariableSelection(VARIABLES, 4, 2, 3)), rows(5, 6)
    other = x.clone()
    other[:, 5] += 1.0
    for before, after in zip(module(x, rows(5, 3)), module(other, rows(5, 3)), strict=True):
        assert torch.equal(before, after)


def test_interpretable_attention_is_equations_13_to_16() -> None:
    """Head by head, asking token by asking token."""
    width, heads, part, steps = 6, 3, 2, 5
    module = drawn(InterpretableAttention(width, heads))
    w = weights(module)
    asking, tokens = rows(2, steps, width), rows(2, steps, width, seed=8)
    seen = torch.ones((steps, steps), dtype=torch.bool).tril()
    found, looked = module(asking, module.remember(tokens), seen)
    for sequence, at in np.ndindex(2, steps):
        past = tokens[sequence, : at + 1].numpy()
        shares = []
        for head in range(heads):
            own = slice(head * part, (head + 1) * part)
            query = w["query.weight"][own] @ asking[sequence, at].numpy() + w["query.bias"][own]
            keys = past @ w["remember.weight"][own].T + w["remember.bias"][own]
            shares.append(softmax(keys @ query / np.sqrt(part)))
        values = past @ w["remember.weight"][width:].T + w["remember.bias"][width:]
        heads_apart = [share @ values for share in shares]
        expected = w["gather.weight"] @ np.mean(heads_apart, axis=0)
        np.testing.assert_allclose(found[sequence, at].detach(), expected, rtol=1e-9)
        mean = np.zeros(steps)
        mean[: at + 1] = np.mean(shares, axis=0)
        np.testing.assert_allclose(looked[sequence, at].detach(), mean, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_encoders_step_is_its_forward(layers: int) -> None:
    module = SequenceEncoder(4, layers)
    initialise(module, torch.Generator().manual_seed(1))
    module = module.double()
    x = rows(3, 9, 4)
    hidden, cell = rows(3, 1, 4, seed=1), rows(3, 1, 4, seed=2)
    expected = module(x, hidden, cell).detach()
    hidden, cell = hidden.expand(-1, layers, -1), cell.expand(-1, layers, -1)
    for step in range(9):
        out, hidden, cell = module.step(x[:, step], hidden, cell)
        np.testing.assert_allclose(out.detach(), expected[:, step], rtol=1e-9)


def test_contexts_of_an_instrument_are_four_networks_of_its_embedding() -> None:
    module = drawn(StaticEncoder(3, 4))
    w = weights(module)
    found = module(torch.tensor([2, 0]))
    parts = (found.selection, found.enrichment, found.hidden, found.cell)
    for number, part in enumerate(parts):
        for place, code in enumerate((2, 0)):
            expected = grn(w["instrument.weight"][code], w, f"contexts.{number}.")
            np.testing.assert_allclose(part[place].detach(), expected, rtol=1e-9)


def test_weights_come_from_the_generator_alone() -> None:
    torch.manual_seed(0)
    modules = [VariableSelection(VARIABLES, 4, 2, 3), SequenceEncoder(4, 1)]
    first = []
    for module in modules:
        initialise(module, torch.Generator().manual_seed(4))
        first.append([value.clone() for value in module.state_dict().values()])
    torch.manual_seed(1)
    for module, before in zip(modules, first, strict=True):
        initialise(module, torch.Generator().manual_seed(4))
        after = module.state_dict().values()
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert all(torch.isfinite(value).all() for value in after)
