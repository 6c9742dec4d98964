"""Networks and losses: a step is a pass, nothing looks ahead, nothing reaches too far back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from catalog.errors import DataError
from research.models.deep.blocks import (
    DistributionHead,
    ModelInputs,
    SequenceModel,
    draw_masks,
    initialise,
    open_masks,
)
from research.models.deep.config import LSTMConfig, TransformerConfig
from research.models.deep.fit import build_model
from research.models.deep.losses import (
    LossConfig,
    Targets,
    loss_sums,
    pinball_loss,
    student_t_loss,
)
from research.models.deep.optimiser import AdamW

INPUTS = ModelInputs(("a", "b", "c"), 2)
TRANSFORMER = TransformerConfig(d_model=8, heads=2, layers=3, reach_bars=16, feedforward=12)
LSTM = LSTMConfig(d_model=6, layers=2, period_bars=8)
CONFIGS = (TRANSFORMER, LSTM)
BATCH, STEPS = 3, 41


def model_of(config: TransformerConfig | LSTMConfig) -> SequenceModel:
    """Return a model with every number drawn anew, so that no part hides behind a zero."""
    model = build_model(INPUTS, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.6, generator=generator)
    return model


def some(steps: int = STEPS, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((BATCH, steps, 3), generator=generator), torch.tensor([0, 1, 1])


def masks_of(model: SequenceModel, seed: int = 2) -> list[Tensor]:
    return draw_masks(model.mask_sizes, BATCH, 0.3, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", CONFIGS)
def test_a_step_is_a_pass_one_token_at_a_time(config: TransformerConfig | LSTMConfig) -> None:
    model = model_of(config)
    x, code = some()
    masks = masks_of(model)
    with torch.inference_mode():
        wanted = model(x, code, masks)
        state = model.initial_state(BATCH)
        for place in range(STEPS):
            found, *parts = model.step(x[:, place], code, masks, *state)
            state = tuple(parts)
            torch.testing.assert_close(found, wanted[:, place], atol=1e-5, rtol=1e-5)
    assert wanted.shape == (BATCH, STEPS, model.n_outputs)
    assert wanted[..., :3].std() > 0.1  # there is something to compare


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("cut", [1, 5, 20, 40])
def test_nothing_looks_ahead(config: TransformerConfig | LSTMConfig, cut: int) -> None:
    model = model_of(config)
    x, code = some()
    other = x.clone()
    other[:, cut:] = 9.0
    with torch.inference_mode():
        before, after = (model(each, code, masks_of(model)) for each in (x, other))
    assert torch.equal(before[:, :cut], after[:, :cut])
    assert not torch.equal(before[:, cut], after[:, cut])


def test_a_window_reaches_as_far_as_it_says_and_no_farther() -> None:
    model = model_of(TRANSFORMER)
    reach = model.memory.reach
    assert reach == 15
    x, code = some()
    with torch.inference_mode():
        before = model(x, code, masks_of(model))
        for back, same in ((reach, False), (reach + 1, True)):
            other = x.clone()
            other[:, STEPS - 1 - back] = 9.0
            after = model(other, code, masks_of(model))
            # Sums over blocks may round otherwise, but nothing else may change.
            moved = (before[:, -1] - after[:, -1]).abs().max()
            assert (moved < 1e-6) == same


def test_a_window_forgets_what_came_before_its_reach() -> None:
    model = model_of(TRANSFORMER)
    x, code = some()
    masks = masks_of(model)
    with torch.inference_mode():
        whole = model(x, code, masks)[:, -1]
        tail = model(x[:, -model.memory.reach - 1 :], code, masks)[:, -1]
    torch.testing.assert_close(whole, tail, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_sequences_instruments_and_masks_do_not_mix(
    config: TransformerConfig | LSTMConfig,
) -> None:
    model = model_of(config)
    x, code = some()
    masks = masks_of(model)
    with torch.inference_mode():
        whole = model(x, code, masks)
        alone = model(x[1:2], code[1:2], [mask[1:2] for mask in masks])
        torch.testing.assert_close(whole[1:2], alone, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(model(x, 1 - code, masks), whole)
        for place in range(len(masks)):
            other = [*masks]
            other[place] = torch.ones_like(masks[place])
            assert not torch.allclose(model(x, code, other), whole), place


@pytest.mark.parametrize("config", CONFIGS)
def test_wrong_shapes_are_refused(config: TransformerConfig | LSTMConfig) -> None:
    model = model_of(config)
    x, code = some()
    masks = masks_of(model)
    state = model.initial_state(BATCH)
    with pytest.raises(DataError, match=r"shape \(n_sequences, ..., 3\), was \(3, 41, 2\)"):
        model(x[..., :2], code, masks)
    with pytest.raises(DataError, match=r"masks must have shapes \[\(3, .*, were \[\]"):
        model.step(x[:, 0], code, [], *state)
    with pytest.raises(DataError, match="masks must have shapes"):
        model(x, code, [mask[:2] for mask in masks])


@pytest.mark.parametrize("config", CONFIGS)
def test_weights_come_from_the_seed_alone(config: TransformerConfig | LSTMConfig) -> None:
    first = build_model(INPUTS, config).state_dict()
    torch.rand(5)  # whatever the global generator did in between
    second = build_model(INPUTS, config).state_dict()
    other = build_model(INPUTS, config.model_copy(update={"seed": 8})).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embed.weight"], other["embed.weight"])


def test_parameters_that_nobody_sets_are_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(TypeError, match=r"1 \(BatchNorm1d\) must have reset_from"):
        initialise(model, torch.Generator())


def test_masks_keep_the_mean_and_leave_out_their_share() -> None:
    (mask,) = draw_masks((200,), 500, 0.25, torch.Generator().manual_seed(0))
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert mask.mean() == pytest.approx(1.0, abs=0.01)
    assert [part.shape for part in open_masks((3, 4), 2)] == [(2, 3), (2, 4)]


def test_the_head_keeps_scale_freedom_and_quantiles_sound() -> None:
    head = DistributionHead(4, n_quantiles=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0.0, 20.0, generator=generator)
        found = head(torch.randn((50, 4), generator=generator))
    assert found.shape == (50, 7)
    assert found[:, 2].abs().max() <= 3.5
    assert (found[:, 3] >= np.log(3.0)).all()
    assert (found[:, 4:].diff(dim=1) >= 0).all()


def test_the_return_loss_is_the_density_of_scipy() -> None:
    random = np.random.default_rng(0)
    value, mu = random.normal(size=(2, 50))
    sigma, nu = random.uniform(0.2, 3.0, 50), random.uniform(3.0, 40.0, 50)
    wanted = -stats.t.logpdf(value, nu, loc=mu, scale=sigma)
    parts = [torch.tensor(part) for part in (value, mu, np.log(sigma), np.log(nu))]
    np.testing.assert_allclose(student_t_loss(*parts).numpy(), wanted, rtol=1e-10)


def test_the_pinball_loss_is_least_at_the_quantile() -> None:
    value = torch.tensor(np.random.default_rng(0).normal(size=4000))
    grid = np.linspace(-2, 2, 81)
    for level in (0.1, 0.5, 0.9):
        losses = [
            pinball_loss(value, torch.full((4000, 1), each), (level,)).mean().item()
            for each in grid.tolist()
        ]
        assert grid[np.argmin(losses)] == pytest.approx(stats.norm.ppf(level), abs=0.1)


@pytest.mark.slow  # torch's own brings a compiler along
def test_the_optimiser_is_that_of_torch() -> None:
    models = [nn.Linear(3, 2) for _ in range(2)]
    for each in models:
        initialise(each, torch.Generator().manual_seed(0))
    matrix, vector = models[0].parameters()
    groups = [{"params": [matrix]}, {"params": [vector], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.98), weight_decay=0.1)
    ours = AdamW(models[1].parameters(), weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        x = torch.randn((5, 3), generator=generator)
        for each in models:
            each.zero_grad()
            each(x).exp().mean().backward()
        theirs.step()
        ours.step(0.05)
    for mine, other in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)
    again = AdamW(models[1].parameters(), weight_decay=0.1)
    again.restore(ours.moments())
    assert again.steps == 20
    assert all(torch.equal(*pair) for pair in zip(again.second, ours.second, strict=True))


def test_unknown_returns_and_zero_weights_count_for_nothing() -> None:
    outputs = torch.randn((1, 4, 6), generator=torch.Generator().manual_seed(0))
    outputs[..., 3] = 1.5
    outputs.requires_grad_()
    label = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    returns = torch.tensor([[0.3, torch.nan, 0.1, torch.nan]])
    weight = torch.tensor([[1.0, 2.0, 0.0, 0.0]])
    config = LossConfig(0.5, 0.25, (0.1, 0.9))
    total, sign = loss_sums(outputs, Targets(label, returns, weight), config)
    with torch.no_grad():
        chance = torch.sigmoid(outputs[0, :, 0])
        wanted_sign = -torch.log(chance[0]) - 2.0 * torch.log(1.0 - chance[1])
        density = student_t_loss(returns[0, 0], *outputs[0, 0, 1:4])
        quantiles = pinball_loss(returns[0, :1], outputs[0, :1, 4:], (0.1, 0.9))
    assert sign.item() == pytest.approx(wanted_sign.item(), rel=1e-5)
    wanted = wanted_sign + 0.5 * density + 0.25 * quantiles.sum()
    assert total.item() == pytest.approx(wanted.item(), rel=1e-5)
    total.backward()
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()
    assert (outputs.grad[0, 2:] == 0.0).all()
    assert (outputs.grad[0, 1, 1:] == 0.0).all()
