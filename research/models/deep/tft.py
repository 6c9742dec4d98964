"""The Temporal Fusion Transformer as a causal stream, trained at every position at once (torch).

Lim, B., Arik, S. O., Loeff, N. and Pfister, T. (2021), "Temporal Fusion Transformers for
interpretable multi-horizon time series forecasting".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from catalog.errors import ConfigError, DataError
from research.feature_table import BASE_FEATURES
from research.models.deep.blocks import DistributionHead, ModelInputs, SequenceModel
from research.models.deep.config import TFTConfig
from research.models.deep.scaling import input_columns
from research.models.deep.sequences import Memory
from research.models.deep.tft_blocks import (
    ELSEWHERE,
    GateAddNorm,
    GatedResidualNetwork,
    InterpretableAttention,
    PastKeys,
    SequenceEncoder,
    StaticContexts,
    StaticEncoder,
    Variable,
    VariableSelection,
)

_VARIABLE_RANK = 8  # hidden units of a variable before it is selected
_SINE, _COSINE = "_sine", "_cosine"
_CLOCK = frozenset(feature.name for feature in BASE_FEATURES if feature.role == "known_ahead")


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """What a model looked at.

    Parameters
    ----------
    outputs : (n_sequences, n_steps, n_outputs) float32
        As `forward` returns them.
    past_weights : (n_sequences, n_steps, n_variables) float32
        Of the variables of each time; they sum to 1.
    known_weights : (n_sequences, n_steps, n_known) float32
        Of the variables of the time that is predicted, which are known ahead; they sum to 1.
    attention : (n_sequences, n_steps, n_steps) float32
        Weight of the token of the last axis for the answer at the token before it; they sum to 1
        and are 0 for tokens after it.
    """

    outputs: Tensor
    past_weights: Tensor
    known_weights: Tensor
    attention: Tensor


class TemporalFusionTransformer(SequenceModel):
    """Variable selection, an LSTM and interpretable attention, gated throughout.

    Deviations from the paper, beside those that `tft_blocks` names:

    - It is a stream: there is one answer at every time, for the one time that lies the horizon
      ahead, not a window's answers for several times. The decoder therefore has one step, which
      is the gated sum of the current token and of what is known of the time predicted; it asks
      the tokens of the past, which are the encoder's, for what they know.
    - What is known ahead is the time of day and of the week. At the time predicted they are a
      rotation of what they are now, by an angle that the horizon fixes; a pair of sine and cosine
      is one variable here, and its embedding, a linear map of the pair, contains that rotation.
      So these inputs enter as those of the time predicted without being computed again. (So is
      the phase of a longer bar: ahead, it is a fixed function of what it is now.)
    - A missing flag belongs to its feature's variable.
    - Beside its quantiles it answers the probability of a rise and a Student-t distribution.
    - Dropout masks hold for a whole sequence; attention weights have no dropout.

    Parameters
    ----------
    inputs : ModelInputs
        What it reads.
    config : TFTConfig
        Its size.

    Raises
    ------
    ConfigError
        If no input is known ahead.
    """

    def __init__(self, inputs: ModelInputs, config: TFTConfig) -> None:
        width, steps = config.d_model, 2 * config.period_bars
        memory = Memory(phases=2, reach=steps - 1, period=config.period_bars)
        super().__init__(inputs, memory, [width] * 5, len(config.quantiles))
        self.width, self.steps, self.rings = width, steps, 2
        past, known = variables_of(inputs.names)
        self.static = StaticEncoder(inputs.n_instruments, width)
        self.past = VariableSelection(past, width, _VARIABLE_RANK, width)
        self.known = VariableSelection(known, width, _VARIABLE_RANK, width)
        self.encoder = SequenceEncoder(width, config.lstm_layers)
        self.close_encoder = GateAddNorm(width, width)
        self.close_decoder = GateAddNorm(width, width)
        self.enrich = GatedResidualNetwork(width, width, width, width)
        self.attention = InterpretableAttention(width, config.heads)
        self.close_attention = GateAddNorm(width, width)
        self.feed = GatedResidualNetwork(width, width, width)
        self.close = GateAddNorm(width, width)
        self.head = DistributionHead(width, len(config.quantiles))

    @property
    def past_names(self) -> tuple[str, ...]:
        """Variables of each time."""
        return self.past.names

    @property
    def known_names(self) -> tuple[str, ...]:
        """Variables of the time predicted."""
        return self.known.names

    def forward(self, x: Tensor, code: Tensor, masks: list[Tensor]) -> Tensor:
        """See `SequenceModel.forward`; at most two periods of tokens."""
        return self.explain(x, code, masks).outputs

    def explain(self, x: Tensor, code: Tensor, masks: list[Tensor]) -> Explanation:
        """Answer as `forward`, and say what was looked at."""
        self.check_inputs(x, masks)
        n_steps = x.shape[1]
        if n_steps > self.steps:
            raise DataError(
                f"a sequence must have at most {self.steps} steps, the life of a state, "
                f"was {n_steps}"
            )
        masks = [mask[:, None] for mask in masks]
        contexts = self._contexts(code)
        distinct = len(x) if self.training else _distinct(x, code)
        members = len(x) // distinct
        token, target, past, known = (
            part.repeat(members, 1, 1)
            for part in self._select(x[:distinct], contexts.selection[:distinct])
        )
        token = token * masks[0]
        encoded = self.encoder(token, contexts.hidden, contexts.cell)
        seen = torch.ones((n_steps, n_steps), dtype=torch.bool, device=x.device).tril()
        temporal, enriched, asking = self._enrich(
            token, target, encoded, contexts.enrichment, masks
        )
        found, weights = self.attention(asking, self.attention.remember(enriched), seen)
        outputs = self._finish(found, asking, temporal, masks)
        return Explanation(outputs, past, known, weights)

    def empty_parts(self, batch: int) -> tuple[Tensor, ...]:
        """Return a state that has seen nothing; a state has at most two periods of tokens.

        Returns
        -------
        keys : (batch, heads, 2 periods, part) float32
            Of the tokens that have been.
        values : (batch, 2 periods, part) float32
            Theirs, which the heads share.
        hidden, cell : (batch, n_layers, d_model) float32
            Of the LSTM; what they are before the first token is the instrument's.
        """
        layers, attention = len(self.encoder.layers), self.attention
        return (
            torch.zeros(batch, attention.heads, self.steps, attention.part),
            torch.zeros(batch, self.steps, attention.part),
            torch.zeros(batch, layers, self.width),
            torch.zeros(batch, layers, self.width),
        )

    def read(self, x: Tensor, code: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        """See `SequenceModel.read`: most of the work.

        Returns
        -------
        seen : (n_rows, 5 d_model)
            What was selected of the time and of the time predicted; of the instrument the
            enrichment's context and what the LSTM begins with, zero after the first token.
        bias : (n_rows, 1, 1, 2 periods)
            What is added to scores: tokens that have not been are out of sight.
        """
        # Of every instrument, so that a network that is served has them as constants.
        everyone: StaticContexts = self.static(torch.arange(self.inputs.n_instruments))
        contexts = torch.cat(everyone.parts, dim=-1)[code]
        selection, enrichment, start = torch.split(
            contexts, [self.width, self.width, 2 * self.width], dim=-1
        )
        token, target, _, _ = self._select(x, selection)
        start = start * (count == 0)[:, None]
        there = torch.arange(self.steps) < count[:, None]
        bias = torch.where(there, 0.0, ELSEWHERE)[:, None, None]
        return torch.cat([token, target, enrichment, start], dim=-1), bias

    def advance(
        self, seen: tuple[Tensor, ...], masks: list[Tensor], *parts: Tensor
    ) -> tuple[Tensor, ...]:
        """See `SequenceModel.advance`."""
        keys, values, hidden, cell = parts
        token, target, enrichment, *start = torch.split(seen[0], self.width, dim=-1)
        token = token * masks[0]
        # An empty state is zero: what it begins with is added.
        hidden, cell = hidden + start[0][:, None], cell + start[1][:, None]
        encoded, hidden, cell = self.encoder.step(token, hidden, cell)
        temporal, enriched, asking = self._enrich(token, target, encoded, enrichment, masks)
        past = PastKeys(keys, values, seen[1])
        found, key, value = self.attention.step(asking, enriched, past)
        return self._finish(found, asking, temporal, masks), key, value, hidden, cell

    def _contexts(self, code: Tensor) -> StaticContexts:
        contexts: StaticContexts = self.static(code[:, None])  # one for all steps
        return contexts

    def _select(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what was selected of each time and of the time predicted, and both weights."""
        token, past = self.past(x, context)
        target, known = self.known(x, context)
        return token, target, past, known

    def _enrich(
        self,
        token: Tensor,
        target: Tensor,
        encoded: Tensor,
        enrichment: Tensor,
        masks: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the time predicted, before and after its enrichment, and what is looked at.

        All are (n_sequences, ..., d_model): `temporal` goes around attention to the end,
        `enriched` are the past's tokens and `asking` those of the times predicted.
        """
        remembered = self.close_encoder(encoded * masks[1], token)
        temporal = self.close_decoder(target, remembered)
        enriched = self.enrich(remembered, enrichment, masks[2])
        asking = self.enrich(temporal, enrichment, masks[2])
        return temporal, enriched, asking

    def _finish(
        self, found: Tensor, asking: Tensor, temporal: Tensor, masks: list[Tensor]
    ) -> Tensor:
        """Return the outputs, (n_sequences, ..., n_outputs)."""
        looked = self.close_attention(found * masks[3], asking)
        result: Tensor = self.head(self.close(self.feed(looked, mask=masks[4]), temporal))
        return result


def _distinct(x: Tensor, code: Tensor) -> int:
    """Return after how many sequences a batch repeats itself; its length if it does not.

    The members of an ensemble read the same sequences. What comes before the first mask is most
    of the work and the same for all of them, so it is done once.
    """
    first = (x[:, 0] == x[0, 0]).all(dim=-1).nonzero()[:, 0]  # where the first one may come again
    count = int(first[1]) if len(first) > 1 else len(x)
    members, rest = divmod(len(x), count)
    if rest or not torch.equal(code, code[:count].repeat(members)):
        return len(x)
    by_member = x.reshape(members, count, *x.shape[1:])
    return count if bool((by_member == by_member[:1]).all()) else len(x)


def variables_of(names: Sequence[str]) -> tuple[list[Variable], list[Variable]]:
    """Return the variables of each time, and those that are known of the time predicted.

    Parameters
    ----------
    names : sequence of str
        Names of the model's inputs, in order.

    Raises
    ------
    ConfigError
        If none of them is known ahead.
    """
    places: dict[str, list[int]] = {}
    ahead = set()
    for place, feature, _ in input_columns(names):
        name = feature
        if is_known_ahead(feature):
            name = feature.removesuffix(_SINE).removesuffix(_COSINE)
            ahead.add(name)
        places.setdefault(name, []).append(place)
    variables = [Variable(name, tuple(found)) for name, found in places.items()]
    known = [variable for variable in variables if variable.name in ahead]
    if not known:
        raise ConfigError(
            "inputs of a temporal fusion transformer must hold one that is known ahead, such as "
            f"{', '.join(sorted(_CLOCK))}, were {', '.join(names)}"
        )
    return variables, known


def is_known_ahead(feature: str) -> bool:
    """Return whether a feature's role in the feature table is `known_ahead`, by its name."""
    return feature in _CLOCK or (feature.startswith("tf_") and feature.endswith("_phase"))
