"""Long short-term memory (Hochreiter and Schmidhuber, 1997): the plain baseline (torch)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from research.models.deep.blocks import DistributionHead, ModelInputs, SequenceModel
from research.models.deep.config import LSTMConfig
from research.models.deep.sequences import Memory


class RecurrentLayer(nn.Module):
    """One LSTM layer that runs over a sequence or over one token with the same weights.

    Parameters
    ----------
    n_inputs, width : int
        Width of what comes in, and of the state.
    """

    def __init__(self, n_inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.cell = nn.LSTM(n_inputs, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n_sequences, n_steps, width), each sequence from an empty state."""
        found: Tensor = self.cell(x)[0]
        return found

    def step(self, x: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next hidden and memory part of a state, (n_sequences, width) both.

        Written out, so that it exports to plain products and sigmoids.
        """
        of_input, of_hidden, input_bias, hidden_bias = self.cell.all_weights[0]
        gates = functional.linear(x, of_input, input_bias)
        gates = gates + functional.linear(hidden, of_hidden, hidden_bias)
        enter, keep, new, show = torch.split(gates, self.width, dim=-1)
        memory = torch.sigmoid(keep) * memory + torch.sigmoid(enter) * torch.tanh(new)
        return torch.sigmoid(show) * torch.tanh(memory), memory


class RecurrentModel(SequenceModel):
    """Embedding, LSTM layers, the common head.

    Dropout masks stand before every layer and before the head, not on the recurrence.

    Parameters
    ----------
    inputs : ModelInputs
        What it reads.
    config : LSTMConfig
        Its size.
    """

    def __init__(self, inputs: ModelInputs, config: LSTMConfig) -> None:
        width, period = config.d_model, config.period_bars
        memory = Memory(phases=2, reach=2 * period - 1, period=period)
        super().__init__(inputs, memory, [width] * (config.layers + 1))
        self.width = width
        self.embed = nn.Linear(len(inputs.names), width)
        self.instrument = nn.Embedding(inputs.n_instruments, width)
        self.layers = nn.ModuleList(RecurrentLayer(width, width) for _ in range(config.layers))
        self.head = DistributionHead(width)

    def forward(self, x: Tensor, code: Tensor, masks: list[Tensor]) -> Tensor:
        """See `SequenceModel.forward`."""
        self.check_inputs(x, masks)
        found = torch.tanh(self.embed(x) + self.instrument(code)[:, None])
        for layer, mask in zip(self.layers, masks, strict=False):
            found = layer(found * mask[:, None])
        return self.head(found * masks[-1][:, None])  # type: ignore[no-any-return]  # torch's

    def empty_parts(self, batch: int) -> tuple[Tensor, ...]:
        """Return zeros: hidden and memory part of each layer in turn, (batch, d_model) each."""
        return tuple(torch.zeros(batch, self.width) for _ in range(2 * len(self.layers)))

    def read(self, x: Tensor, code: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        """See `SequenceModel.read`: the embedded token."""
        return (torch.tanh(self.embed(x) + self.instrument(code)),)

    def advance(
        self, seen: tuple[Tensor, ...], masks: list[Tensor], *parts: Tensor
    ) -> tuple[Tensor, ...]:
        """See `SequenceModel.advance`."""
        found, new = seen[0], []
        for place, layer in enumerate(cast("list[RecurrentLayer]", list(self.layers))):
            hidden, memory = parts[2 * place : 2 * place + 2]
            found, memory = layer.step(found * masks[place], hidden, memory)
            new += [found, memory]
        return self.head(found * masks[-1]), *new
