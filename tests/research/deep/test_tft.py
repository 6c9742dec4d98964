"""The TFT as a whole: causal, the same token by token, finite in memory, able to learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from catalog.errors import ConfigError, DataError
from research.feature_config import FeatureConfig
from research.features import feature_table
from research.models.deep.blocks import ModelInputs, draw_masks, initialise, open_masks
from research.models.deep.config import TFTConfig
from research.models.deep.mixture import LOGIT_UP, N_DISTRIBUTION
from research.models.deep.tft import TemporalFusionTransformer, is_known_ahead, variables_of

CLOCK = ("day_sine", "day_cosine", "week_sine", "week_cosine")
NAMES = ("edge", "noise", *CLOCK, "missing_noise")
SMALL = TFTConfig(d_model=8, heads=2, period_bars=6)


def close(one: Tensor, other: Tensor) -> None:
    """Demand the same numbers to 1e-5; torch.testing would import half of torch."""
    np.testing.assert_allclose(one.detach(), other.detach(), rtol=0.0, atol=1e-5)


def build(config: TFTConfig = SMALL, seed: int = 1) -> TemporalFusionTransformer:
    model = TemporalFusionTransformer(ModelInputs(NAMES, 3), config)
    initialise(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():  # away from the head's beginning near zero
        model.head.weight.normal_(0.0, 1.0, generator=torch.Generator().manual_seed(seed))
    return model.eval()


def example(
    model: TemporalFusionTransformer, steps: int, count: int = 4, seed: int = 2
) -> tuple[Tensor, Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((count, steps, len(NAMES)), generator=generator)
    code = torch.arange(count) % 3
    return x, code, draw_masks(model.mask_sizes, count, 0.3, generator)


def stepped(
    model: TemporalFusionTransformer, x: Tensor, code: Tensor, masks: list[Tensor]
) -> Tensor:
    state, found = model.initial_state(len(x)), []
    for step in range(x.shape[1]):
        out, *rest = model.step(x[:, step], code, masks, *state)
        state = tuple(rest)
        found.append(out)
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_token_by_token_it_answers_as_it_does_at_once(layers: int) -> None:
    model = build(TFTConfig(d_model=8, heads=2, period_bars=6, lstm_layers=layers))
    for steps in (1, 12):
        x, code, masks = example(model, steps)
        close(stepped(model, x, code, masks), model(x, code, masks))


@torch.no_grad()
def test_a_state_that_was_emptied_begins_like_a_new_one() -> None:
    """A stream empties by zeros, whatever the instrument: its first state is not zeros."""
    model = build()
    x, code, masks = example(model, 5)
    assert all(not part.any() for part in model.initial_state(2))
    other = stepped(model, x, (code + 1) % 3, masks)
    assert (other[:, 0] - stepped(model, x, code, masks)[:, 0]).abs().max() > 1e-3


@torch.no_grad()
def test_no_answer_depends_on_what_comes_after_and_each_on_all_before() -> None:
    model, steps = build(), 12
    x, code, masks = example(model, steps)
    before = model(x, code, masks)
    for changed in (0, 5, 11):
        other = x.clone()
        other[:, changed] += 1.0
        moved = (model(other, code, masks) - before).abs().amax(dim=(0, 2)) > 1e-6
        assert moved.tolist() == [step >= changed for step in range(steps)]


@torch.no_grad()
def test_what_follows_the_last_token_and_who_else_is_in_the_batch_do_not_matter() -> None:
    model = build()
    x, code, masks = example(model, 12)
    whole = model(x, code, masks)
    alone = model(x[1:2, :7], code[1:2], [mask[1:2] for mask in masks])
    close(alone, whole[1:2, :7])


@torch.no_grad()
@pytest.mark.parametrize("spoil", ["nothing", "inputs", "instrument", "length"])
def test_members_that_read_the_same_get_what_they_would_get_alone(spoil: str) -> None:
    """What members share is computed once; what merely resembles a repetition is not."""
    model = build()
    x, code, _ = example(model, 12, count=3)
    x, code = x.repeat(4, 1, 1), code.repeat(4)
    if spoil == "inputs":
        x[7, 5, 0] += 1.0
    if spoil == "instrument":
        code[7] = (code[7] + 1) % 3
    if spoil == "length":
        x, code = x[:11], code[:11]
    masks = draw_masks(model.mask_sizes, len(x), 0.3, torch.Generator().manual_seed(5))
    found = model(x, code, masks)
    calls = []
    model.past.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    assert torch.equal(model(x, code, masks), found)
    assert calls == [3 if spoil == "nothing" else len(x)]
    model.train()  # where nothing is shared
    close(model(x, code, masks), found)


def test_a_sequence_longer_than_a_state_lives_is_refused() -> None:
    model = build()
    assert (model.memory.reach, model.memory.period, model.memory.phases) == (11, 6, 2)
    with pytest.raises(DataError, match="at most 12 steps, the life of a state, was 13"):
        model(*example(model, 13))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.sampled_from([0.1, 1.0, 30.0]))
@torch.no_grad()
def test_weights_sum_to_one_and_quantiles_ascend(seed: int, size: float) -> None:
    model = build(seed=seed)
    x, code, masks = example(model, 12, seed=seed)
    found = model.explain(size * x, code, masks)
    for weights in (found.past_weights, found.known_weights, found.attention):
        assert (weights >= 0.0).all()
        close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    assert torch.equal(found.attention, found.attention.tril())
    quantiles = found.outputs[..., N_DISTRIBUTION:]
    assert quantiles.shape[-1] == 3
    assert (quantiles.diff(dim=-1) >= 0.0).all()
    assert torch.isfinite(found.outputs).all()


@torch.no_grad()
def test_masks_instrument_and_each_variable_matter() -> None:
    model = build()
    x, code, masks = example(model, 12)
    before = model(x, code, masks)
    assert (model(x, (code + 1) % 3, masks) - before).abs().max() > 1e-4
    for place in range(len(masks)):
        others = [mask.roll(1, 1) if at == place else mask for at, mask in enumerate(masks)]
        assert (model(x, code, others) - before).abs().max() > 1e-4
    for place in range(len(NAMES)):
        other = x.clone()
        other[:, -1, place] += 1.0
        assert (model(other, code, masks) - before)[:, -1].abs().max() > 1e-4


def test_variables_are_features_pairs_of_the_clock_and_flags_with_their_feature() -> None:
    past, known = variables_of(NAMES)
    assert [(variable.name, variable.places) for variable in past] == [
        ("edge", (0,)),
        ("noise", (1, 6)),
        ("day", (2, 3)),
        ("week", (4, 5)),
    ]
    assert [variable.name for variable in known] == ["day", "week"]


def test_what_is_known_ahead_is_what_the_feature_table_says() -> None:
    table = feature_table(FeatureConfig(timeframes=("1h", "4h")))
    known = {feature.name for feature in table if feature.role == "known_ahead"}
    assert known == {feature.name for feature in table if is_known_ahead(feature.name)}
    assert {"day_sine", "tf_1h_phase"} <= known


def test_without_anything_known_ahead_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"one that is known ahead.*day_sine.*were edge, noise"):
        variables_of(("edge", "noise"))


@pytest.mark.slow
def test_it_learns_what_the_past_and_the_time_of_day_tell_together() -> None:
    """The sign is that of what was seen one token ago and of the day's sine, added."""
    generator = torch.Generator().manual_seed(0)
    model = TemporalFusionTransformer(
        ModelInputs(NAMES, 3), TFTConfig(d_model=16, heads=2, period_bars=8)
    )
    initialise(model, generator)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    masks = open_masks(model.mask_sizes, 16)

    def batch() -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn((16, 16, len(NAMES)), generator=generator)
        x[..., 6] = 0.0
        up = (torch.roll(x[..., 0], 1, dims=1) + x[..., 2] > 0.0).float()
        return x, torch.randint(3, (16,), generator=generator), up

    losses = []
    for _ in range(80):
        x, code, up = batch()
        logit = model(x, code, masks)[:, 1:, LOGIT_UP]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, up[:, 1:])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.68
    # Either alone leaves about 0.5.
    assert sum(losses[-10:]) / 10 < 0.3
    found = model.explain(*batch()[:2], masks)
    weights = dict(zip(model.past_names, found.past_weights.mean(dim=(0, 1)).tolist(), strict=True))
    assert weights["edge"] > 2.0 * max(weights["noise"], weights["week"])
