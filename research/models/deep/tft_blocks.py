"""The parts of the Temporal Fusion Transformer, in the order of its figure (torch).

After Lim, Arik, Loeff and Pfister (2021), "Temporal Fusion Transformers for interpretable
multi-horizon time series forecasting"; equation numbers are those of the paper. Deviations are
named where they are made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from catalog.errors import ConfigError
from research.models.deep.lstm import RecurrentLayer

ELSEWHERE = -1e9
"""A score that leaves no weight."""


class GatedLinearUnit(nn.Module):
    """Let through a part of each component: ``sigmoid(W4 x + b4) * (W5 x + b5)`` (equation 5).

    Parameters
    ----------
    n_in, n_out : int
        Widths.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.both = nn.Linear(n_in, 2 * n_out)  # W5 above W4, the order of `functional.glu`

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., n_out) from (..., n_in)."""
        return functional.glu(self.both(x), dim=-1)


class GateAddNorm(nn.Module):
    """Add a gated part to what went around it: ``LayerNorm(skip + GLU(x))`` (equation 17).

    Parameters
    ----------
    n_in, n_out : int
        Widths of the part and of the result.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.gate = GatedLinearUnit(n_in, n_out)
        self.norm = nn.LayerNorm(n_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return (..., n_out) from a part (..., n_in) and what goes around it (..., n_out)."""
        result: Tensor = self.norm(skip + self.gate(x))
        return result


class GatedResidualNetwork(nn.Module):
    """As much of a non-linear step as is useful (equations 2 to 4).

    ``LayerNorm(skip(a) + GLU(W1 ELU(W2 a + W3 c + b2) + b1))``; the skip is linear where the
    widths differ. Deviation: dropout, which the paper applies before the gate, is the caller's
    mask.

    Parameters
    ----------
    n_in, n_hidden, n_out : int
        Widths.
    n_context : int
        Width of the context c; 0 if there is none.
    """

    def __init__(self, n_in: int, n_hidden: int, n_out: int, n_context: int = 0) -> None:
        super().__init__()
        self.inner = nn.Linear(n_in, n_hidden)
        self.context = nn.Linear(n_context, n_hidden, bias=False) if n_context else None
        self.outer = nn.Linear(n_hidden, n_hidden)
        self.skip = nn.Linear(n_in, n_out) if n_in != n_out else None
        self.close = GateAddNorm(n_hidden, n_out)

    def forward(
        self, a: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return (..., n_out).

        Parameters
        ----------
        a : (..., n_in)
            What comes in.
        context : (..., n_context), optional
            With axes that broadcast to those of `a`.
        mask : (..., n_hidden), optional
            Dropout, with axes that broadcast.
        """
        hidden = self.inner(a)
        if self.context is not None:
            hidden = hidden + self.context(context)
        hidden = self.outer(functional.elu(hidden))
        if mask is not None:
            hidden = hidden * mask
        skip = a if self.skip is None else self.skip(a)
        result: Tensor = self.close(hidden, skip)
        return result


@dataclass(frozen=True, slots=True)
class Variable:
    """One thing that is known at each time: a number, or two that belong together.

    Parameters
    ----------
    name : str
        Name for people.
    places : tuple of int
        Its inputs' places, one or two: a value; a value and its missing flag; a sine and its
        cosine.
    """

    name: str
    places: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.places) not in (1, 2):
            raise ConfigError(
                f"variable {self.name} must have one or two inputs, had {len(self.places)}"
            )


class VariableSelection(nn.Module):
    """Weigh the variables against one another, anew at each time (equations 6 to 8).

    ``sum over v of weight_v * transformed_v`` where the weights are the softmax of a GRN of all
    variables and of the static context, and each variable is transformed by a GRN of its own.
    All variables are computed together, none in a loop, with the steps (time and sequence) as
    the last axis, over which everything runs fastest.

    Deviations, made because a hundred variables at full width cost ten times the rest:

    - The step beside the residual of a variable's GRN has `rank` hidden units, of which a linear
      map of the variable's own makes `width`: ``transformed = U x + P GLU(W ELU(A x) + b)``,
      where x is the variable's inputs and a one.
      ``W2`` after the embedding, and ``W1`` before the gate, are linear maps after linear maps:
      they are one here, which changes no function. So is the weights' GRN: it reads the inputs,
      not their linear embeddings.
    - No layer norm of each variable: it would hide how large a value is.
    - The result is multiplied by the root of the number of variables: a mean of many would
      otherwise begin near zero.
    - No dropout inside, so that all members of an ensemble share what is dearest; the caller
      masks the result.

    Parameters
    ----------
    variables : sequence of Variable
        At least one; each of one or two inputs.
    width : int
        Width of the result.
    rank : int
        Hidden units of each variable.
    n_context : int
        Width of the static context.
    """

    used: Tensor
    fields: Tensor

    def __init__(
        self, variables: Sequence[Variable], width: int, rank: int, n_context: int
    ) -> None:
        super().__init__()
        used = sorted({place for variable in variables for place in variable.places})
        first = [used.index(variable.places[0]) for variable in variables]
        # Behind all others stand a column of ones and one of zeros: the constant of every
        # variable, and the second input of those that have one only.
        ones, zeros = len(used), len(used) + 1
        second = [
            used.index(variable.places[1]) if len(variable.places) > 1 else zeros
            for variable in variables
        ]
        self.names = tuple(variable.name for variable in variables)
        self.width, self.rank = width, rank
        self.register_buffer("used", torch.tensor(used), persistent=False)
        self.register_buffer(
            "fields", torch.tensor([first, second, [ones] * len(first)]).T, persistent=False
        )
        count = len(variables)
        self.weigh = GatedResidualNetwork(len(used), width, count, n_context)
        self.lift = nn.Parameter(torch.empty(count, 3, width))  # U
        self.spread = nn.Parameter(torch.empty(count, rank, 3))  # A
        self.gate = nn.Parameter(torch.empty(count, 2 * rank, rank))  # W
        self.gate_bias = nn.Parameter(torch.empty(count, 2 * rank, 1))  # b
        self.expand = nn.Parameter(torch.empty(count, rank, width))  # P

    def reset_from(self, generator: torch.Generator) -> None:
        """Draw weights as Glorot and Bengio (2010) do, for each variable by itself."""
        bounds = {
            self.lift: math.sqrt(6.0 / (2 + self.width)),
            self.spread: 1.0,
            self.gate: math.sqrt(6.0 / (3 * self.rank)),
            self.expand: math.sqrt(6.0 / (self.rank + self.width)),
        }
        for parameter, bound in bounds.items():
            parameter.uniform_(-bound, bound, generator=generator)
        self.gate_bias.zero_()

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Select.

        Parameters
        ----------
        x : (..., n_inputs) float32
            All inputs of the model.
        context : (..., n_context) float32
            With axes that broadcast to those of `x`.

        Returns
        -------
        selected : (..., width) float32
        weights : (..., n_variables) float32
            At least 0; they sum to 1.
        """
        leading = x.shape[:-1]
        x = x[..., self.used]
        weights = torch.softmax(self.weigh(x, context), dim=-1)
        count = weights.shape[-1]
        flat = x.reshape(-1, x.shape[-1])
        # v variable, f field, r rank, n step
        constants = torch.stack([torch.ones_like(flat[:, 0]), torch.zeros_like(flat[:, 0])])
        value = torch.cat([flat.T, constants])[self.fields]  # (v, f, n)
        weight = weights.reshape(-1, count).T[:, None]  # (v, 1, n)
        hidden = functional.elu(self.spread @ value)  # (v, r, n)
        gated = functional.glu(torch.baddbmm(self.gate_bias, self.gate, hidden), dim=1)
        selected = _sum_over_variables(gated * weight, self.expand)
        selected = selected + _sum_over_variables(value * weight, self.lift)
        return selected.reshape(*leading, self.width) * math.sqrt(count), weights


def _sum_over_variables(parts: Tensor, maps: Tensor) -> Tensor:
    """Return sum over v and r of ``parts[v, r, n] maps[v, r, d]``, (n, d): one product."""
    return parts.flatten(0, 1).T @ maps.flatten(0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class StaticContexts:
    """What is known of an instrument, for the four places where it is used.

    Parameters
    ----------
    selection, enrichment, hidden, cell : (n_sequences, width) float32
        c_s, c_e, c_h and c_c of the paper's section 4.3.
    """

    selection: Tensor
    enrichment: Tensor
    hidden: Tensor
    cell: Tensor

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All four, in order."""
        return self.selection, self.enrichment, self.hidden, self.cell


class StaticEncoder(nn.Module):
    """Four contexts from the embedding of the instrument (section 4.3).

    Deviation: with one static variable there is nothing to select.

    Parameters
    ----------
    n_instruments : int
        Instruments, by code.
    width : int
        Width of the embedding and of each context.
    """

    def __init__(self, n_instruments: int, width: int) -> None:
        super().__init__()
        self.instrument = nn.Embedding(n_instruments, width)
        self.contexts = nn.ModuleList(GatedResidualNetwork(width, width, width) for _ in range(4))

    def forward(self, code: Tensor) -> StaticContexts:
        """Return the contexts of instruments (n_sequences,)."""
        embedded = self.instrument(code)
        return StaticContexts(*(context(embedded) for context in self.contexts))


class SequenceEncoder(nn.Module):
    """The LSTM of the paper's section 4.5.1, over whole sequences and token by token.

    Parameters
    ----------
    width : int
        Width of what comes in and of the state.
    n_layers : int
        Layers one above the other.
    """

    def __init__(self, width: int, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(RecurrentLayer(width, width) for _ in range(n_layers))

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
        """Return what the highest layer says, (n_sequences, n_steps, width).

        Parameters
        ----------
        x : (n_sequences, n_steps, width)
            Tokens.
        hidden, cell : (n_sequences, 1, width)
            What every layer begins with.
        """
        start = tuple(part.transpose(0, 1).contiguous() for part in (hidden, cell))
        for layer in self._each():
            x = layer.cell(x, start)[0]
        return x

    def step(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take one token.

        Parameters
        ----------
        x : (n_sequences, width)
            Token.
        hidden, cell : (n_sequences, n_layers, width)
            State.

        Returns
        -------
        x : (n_sequences, width)
            What the highest layer says.
        hidden, cell : (n_sequences, n_layers, width)
            New state.
        """
        hiddens, cells = [], []
        for place, layer in enumerate(self._each()):
            x, remembered = layer.step(x, hidden[:, place], cell[:, place])
            hiddens.append(x)
            cells.append(remembered)
        return x, torch.stack(hiddens, dim=1), torch.stack(cells, dim=1)

    def _each(self) -> list[RecurrentLayer]:
        return cast("list[RecurrentLayer]", list(self.layers))


@dataclass(frozen=True, slots=True, eq=False)
class PastKeys:
    """What attention knows of the tokens before.

    Parameters
    ----------
    keys : (n_sequences, heads, n_tokens, part) float32
        In any order.
    values : (n_sequences, n_tokens, part) float32
        In the same.
    bias : (n_sequences, 1, 1, n_tokens) float32
        What is added to their scores.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor


class InterpretableAttention(nn.Module):
    """Attention whose heads share their values, so that their mean says what was looked at.

    ``mean over heads of softmax(Q_h K_h' / sqrt(d)) V W`` (equations 13 to 16).

    Parameters
    ----------
    width : int
        Width of a token.
    heads : int
        Heads; must divide the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.part = heads, width // heads
        self.query = nn.Linear(width, width)
        self.remember = nn.Linear(width, width + self.part)
        self.gather = nn.Linear(self.part, width, bias=False)

    def forward(self, asking: Tensor, cache: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Look back.

        Parameters
        ----------
        asking : (n_sequences, n_asking, width)
            Tokens that ask.
        cache : (n_sequences, n_steps, width + part)
            Keys and, behind them, values of the tokens that may be looked at: what `remember`
            makes of each.
        seen : (n_asking, n_steps) or (n_sequences, n_asking, n_steps) bool
            Which may be; at least one for each that asks.

        Returns
        -------
        found : (n_sequences, n_asking, width)
        weights : (n_sequences, n_asking, n_steps)
            Mean over the heads; at least 0, they sum to 1.
        """
        count, n_asking, _ = asking.shape
        shape = (count, -1, self.heads, self.part)
        query = self.query(asking).reshape(shape).transpose(1, 2) / math.sqrt(self.part)
        # b sequence, h head, q asking, k looked at, d part of a head
        keys, values = cache[..., : -self.part], cache[..., -self.part :]
        key = keys.reshape(shape).permute(0, 2, 3, 1)
        bias = torch.where(seen, 0.0, ELSEWHERE)
        bias = bias if bias.ndim == 2 else bias[:, None]
        weights = torch.softmax(query @ key + bias, dim=-1).mean(dim=1)  # (b, q, k)
        found: Tensor = self.gather(weights @ values)
        return found.reshape(count, n_asking, -1), weights

    def step(self, asking: Tensor, token: Tensor, past: PastKeys) -> tuple[Tensor, Tensor, Tensor]:
        """Look back from one token at those before and at itself: `forward`, one at a time.

        Parameters
        ----------
        asking, token : (n_sequences, width)
            What asks, and what there is to remember of it.
        past : PastKeys
            The tokens before.

        Returns
        -------
        found : (n_sequences, width)
        key : (n_sequences, heads, 1, part)
        value : (n_sequences, 1, part)
        """
        # (n_sequences, head, 1, part), and no word of how many sequences: it exports freely.
        kept = self.remember(token).reshape(-1, self.heads + 1, 1, self.part)
        key, value = torch.split(kept, [self.heads, 1], dim=1)
        value = value[:, 0]
        query = (self.query(asking) / math.sqrt(self.part)).reshape(-1, self.heads, 1, self.part)
        # The token itself stands beside the past, which is not copied to put it behind.
        own = (query * key).sum(dim=-1, keepdim=True)
        scores = query @ past.keys.transpose(2, 3) + past.bias
        weights = torch.softmax(torch.cat([scores, own], dim=-1), dim=-1).mean(dim=1)  # (b, 1, k)
        before, now = torch.split(weights, [int(past.keys.shape[2]), 1], dim=-1)
        found = (before @ past.values + now * value).reshape(-1, self.part)
        return self.gather(found), key, value
