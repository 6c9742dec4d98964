"""Causal transformer with sliding-window attention, trained at every position at once (torch)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from research.models.deep.blocks import DistributionHead, ModelInputs, SequenceModel
from research.models.deep.config import TransformerConfig
from research.models.deep.sequences import Memory


class CausalTransformer(SequenceModel):
    """Attention over the last `window` tokens in each layer, pre-norm.

    After Vaswani et al. (2017). Deviations: the norm comes first (Xiong et al., 2020); a token
    sees a window only (Beltagy et al., 2020), so that L layers reach ``L (window - 1)`` tokens
    back; positions enter as one fitted number per head and distance (Shaw et al., 2018; Raffel et
    al., 2020), so that what is kept of a token never changes; the instrument's embedding is added
    to every token; dropout masks hold for a whole sequence.

    Parameters
    ----------
    inputs : ModelInputs
        What it reads.
    config : TransformerConfig
        Its size.
    """

    def __init__(self, inputs: ModelInputs, config: TransformerConfig) -> None:
        width, reach = config.d_model, config.layers * (config.window - 1)
        sizes = [width, *([width, config.feedforward] * config.layers)]
        super().__init__(inputs, Memory(phases=1, reach=reach), sizes)
        self.rings = 2 * config.layers
        self.window = config.window
        self.width = width
        self.embed = nn.Linear(len(inputs.names), width)
        self.instrument = nn.Embedding(inputs.n_instruments, width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.head = DistributionHead(width)

    def forward(self, x: Tensor, code: Tensor, masks: list[Tensor]) -> Tensor:
        """See `SequenceModel.forward`."""
        self.check_inputs(x, masks)
        hidden = (self.embed(x) + self.instrument(code)[:, None]) * masks[0][:, None]
        for place, layer in enumerate(self.layers):
            hidden = layer(hidden, masks[1 + 2 * place], masks[2 + 2 * place])
        return self.head(self.norm(hidden))  # type: ignore[no-any-return]  # torch's modules

    def empty_parts(self, batch: int) -> tuple[Tensor, ...]:
        """Return rings without keys and values, those of each layer in turn.

        Each is (batch, heads, window - 1, d_model / heads).
        """
        heads = self._blocks()[0].heads
        shape = (batch, heads, self.window - 1, self.width // heads)
        return tuple(torch.zeros(shape) for _ in range(self.rings))

    def read(self, x: Tensor, code: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        """See `SequenceModel.read`: the embedded token, and what is added to scores.

        The latter is (n_rows, n_layers heads, 1, window - 1).
        """
        places = torch.arange(self.window - 1)
        age = (count[:, None] - 1 - places) % (self.window - 1) + 1  # of the token at each place
        is_there = age <= count[:, None]
        distance = torch.cat([layer.distance for layer in self._blocks()])
        bias = distance.T[self.window - 1 - age]  # (n_rows, window - 1, n_layers heads)
        bias = bias.masked_fill(~is_there[:, :, None], -1e9).transpose(1, 2)
        return self.embed(x) + self.instrument(code), bias[:, :, None]

    def advance(
        self, seen: tuple[Tensor, ...], masks: list[Tensor], *parts: Tensor
    ) -> tuple[Tensor, ...]:
        """See `SequenceModel.advance`."""
        hidden, rows = seen[0] * masks[0], []
        biases = torch.split(seen[1], self._blocks()[0].heads, dim=1)
        for place, layer in enumerate(self._blocks()):
            past = PastTokens(parts[2 * place], parts[2 * place + 1], biases[place])
            hidden, *pair = layer.step(hidden, masks[1 + 2 * place], masks[2 + 2 * place], past)
            rows += pair
        return self.head(self.norm(hidden)), *rows

    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))


@dataclass(frozen=True, slots=True, eq=False)
class PastTokens:
    """What a layer knows of the tokens before.

    Parameters
    ----------
    keys, values : (n_sequences, heads, n_tokens, part)
        In any order.
    bias : (n_sequences, heads, 1, n_tokens)
        What is added to their scores.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor


class Block(nn.Module):
    """One layer: attention, then a feed-forward part, each added to what came in.

    Parameters
    ----------
    config : TransformerConfig
        Its size.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads, self.window = config.heads, config.window
        self.part = width // config.heads
        self.attention_norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.gather = nn.Linear(width, width)
        # What is added to a score, by place in the window: the farthest first, the token last.
        self.distance = nn.Parameter(torch.empty(config.heads, config.window))
        self.feedforward_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, config.feedforward)
        self.narrow = nn.Linear(config.feedforward, width)

    def reset_from(self, generator: torch.Generator) -> None:
        """Begin with heads that prefer what is near, each less than the one before.

        As Press et al. (2022) do for good; here it is where fitting begins.
        """
        ages = torch.arange(self.window - 1, -1, -1)
        slopes = 4.0 ** -torch.arange(self.heads)
        self.distance.copy_(-slopes[:, None] * ages)

    def forward(self, hidden: Tensor, attention_mask: Tensor, feedforward_mask: Tensor) -> Tensor:
        """Return (n_sequences, n_steps, width) from the same and two masks."""
        query, key, value = self.project(self.attention_norm(hidden)).chunk(3, dim=-1)
        found = self.gather(self._attend(query, key, value))
        hidden = hidden + found * attention_mask[:, None]
        return hidden + self._feed(hidden, feedforward_mask[:, None])

    def step(
        self,
        hidden: Tensor,
        attention_mask: Tensor,
        feedforward_mask: Tensor,
        past: PastTokens,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next hidden token and this one's key and value.

        Parameters
        ----------
        hidden : (n_sequences, width)
            One token.
        attention_mask, feedforward_mask : (n_sequences, size)
            Masks.
        past : PastTokens
            The tokens before.

        Returns
        -------
        hidden : (n_sequences, width)
        key, value : (n_sequences, heads, 1, part)
        """
        projected = self.project(self.attention_norm(hidden))
        # (n_sequences, head, 1, part), and no word of how many sequences: it exports freely.
        parts = projected.reshape(-1, 3 * self.heads, 1, self.part)
        # Before the split: onnxruntime would draw a scale of the query alone into the product
        # with the keys, which then takes twice as long.
        scale = torch.ones(3 * self.heads, 1, 1)
        scale[: self.heads] /= math.sqrt(self.part)
        query, key, value = torch.split(parts * scale, self.heads, dim=1)
        # The token itself stands beside the past, which is not copied to put it behind.
        own = (query * key).sum(dim=-1, keepdim=True) + self.distance[:, -1:, None]
        scores = query @ past.keys.transpose(2, 3) + past.bias
        weights = torch.softmax(torch.cat([scores, own], dim=-1), dim=-1)
        before, now = torch.split(weights, [self.window - 1, 1], dim=-1)
        found = (before @ past.values + now * value).reshape(-1, self.heads * self.part)
        hidden = hidden + self.gather(found) * attention_mask
        return hidden + self._feed(hidden, feedforward_mask), key, value

    def _feed(self, hidden: Tensor, mask: Tensor) -> Tensor:
        inner = functional.relu(self.widen(self.feedforward_norm(hidden)))
        found: Tensor = self.narrow(inner * mask)
        return found

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend block by block: the tokens of a block to their own block and the one before.

        With blocks of ``window - 1`` tokens that is all that a window can hold, and the work
        grows with the window, not with the sequence. All are (n_sequences, n_steps, width).
        """
        count, steps, width = query.shape
        size = self.window - 1
        n_blocks = -(-steps // size)
        behind = n_blocks * size - steps
        part = width // self.heads
        # b sequence, n block, q place of the asking token, h head, d part of a head
        query = functional.pad(query, (0, 0, 0, behind))
        query = query.reshape(count * n_blocks, size, self.heads, part).transpose(1, 2)
        key, value = (_pairs_of_blocks(each, size, behind) for each in (key, value))
        key = key.reshape(count * n_blocks, 2 * size, self.heads, part).transpose(1, 2)
        value = value.reshape(count * n_blocks, 2 * size, self.heads, part).transpose(1, 2)
        scores = query @ key.transpose(2, 3) / math.sqrt(part)  # (b n, h, q, 2 size)
        scores = scores.reshape(count, n_blocks, self.heads, size, 2 * size) + self._bias(n_blocks)
        weights = torch.softmax(scores, dim=-1).reshape(-1, self.heads, size, 2 * size)
        found = (weights @ value).transpose(1, 2).reshape(count, n_blocks * size, width)
        return found[:, :steps]

    def _bias(self, n_blocks: int) -> Tensor:
        """Return what is added to scores, (n_blocks, heads, size, 2 size): -1e9 out of sight."""
        size, device = self.window - 1, self.distance.device
        places = torch.arange(2 * size, device=device)
        distance = places[size:, None] - places[None]  # (size, 2 size)
        inside = (distance >= 0) & (distance < self.window)
        bias = self.distance[:, (size - distance).clamp(0, size)]
        bias = bias.masked_fill(~inside, -1e9)
        # Before the first block there is nothing.
        first = bias.masked_fill(places < size, -1e9)
        return torch.stack([first, *[bias] * (n_blocks - 1)])


def _pairs_of_blocks(tokens: Tensor, size: int, behind: int) -> Tensor:
    """Return every block with the one before it, (n_sequences, n_blocks, 2 size, width)."""
    count, _, width = tokens.shape
    blocks = functional.pad(tokens, (0, 0, size, behind)).reshape(count, -1, size, width)
    return torch.cat([blocks[:, :-1], blocks[:, 1:]], dim=2)
