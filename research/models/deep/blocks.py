"""What all sequence models are made of: their common base, its weights and its masks (torch)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from catalog.errors import DataError
from research.models.deep.mixture import N_DISTRIBUTION
from research.models.deep.sequences import Memory

_LEAST_FREEDOM = 3.0  # below, the variance of a Student-t distribution says little


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """What a model reads.

    Parameters
    ----------
    names : tuple of str
        Names of the inputs, in order: scaled features, then ``missing_<feature>`` flags.
    n_instruments : int
        Instruments, by code.
    """

    names: tuple[str, ...]
    n_instruments: int


class SequenceModel(nn.Module, ABC):
    """A causal model of a sequence that can also be run token by token.

    Subclasses implement `forward`, `empty_parts`, `read` and `advance`, and take
    ``(inputs, config)``. A token is read once for all sequences that are shown the same: the
    members of an ensemble.

    Parameters
    ----------
    inputs : ModelInputs
        What it reads.
    memory : Memory
        How far back it looks.
    mask_sizes : sequence of int
        Widths of its dropout points, in the order of their use.
    n_quantiles : int
        Quantiles that it answers beside the four numbers of the distribution.

    Attributes
    ----------
    rings : int
        So many parts of the state, the first ones, are rings of tokens: (batch, ..., places,
        width), where each token writes one row and leaves the others as they are.
    """

    rings: int = 0

    def __init__(
        self,
        inputs: ModelInputs,
        memory: Memory,
        mask_sizes: Sequence[int],
        n_quantiles: int = 0,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.memory = memory
        self.mask_sizes = tuple(mask_sizes)
        self.n_outputs = N_DISTRIBUTION + n_quantiles

    @abstractmethod
    def forward(self, x: Tensor, code: Tensor, masks: list[Tensor]) -> Tensor:
        """Answer every token of some sequences, each from an empty state.

        Parameters
        ----------
        x : (n_sequences, n_steps, n_inputs) float32
            Inputs.
        code : (n_sequences,) int64
            Instruments.
        masks : list of (n_sequences, size) float32
            One for each dropout point: 0 or ``1 / (1 - dropout)``; see `mask_sizes`.

        Returns
        -------
        (n_sequences, n_steps, n_outputs) float32
            Columns as in `research.models.deep.mixture`; a token's depend on none after it.
        """

    @abstractmethod
    def empty_parts(self, batch: int) -> tuple[Tensor, ...]:
        """Return what `advance` keeps of `batch` sequences without a token: zeros, `rings` first.

        Each part has the leading axis `batch`.
        """

    @abstractmethod
    def read(self, x: Tensor, code: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        """Return what a token means to every sequence that is shown it: what no mask touches.

        Parameters
        ----------
        x : (n_rows, n_inputs) float32
            Inputs.
        code : (n_rows,) int64
            Instruments.
        count : (n_rows,) int64
            How many tokens have been before.

        Returns
        -------
        tuple of Tensor
            Each with the leading axis `n_rows`.
        """

    @abstractmethod
    def advance(
        self, seen: tuple[Tensor, ...], masks: list[Tensor], *parts: Tensor
    ) -> tuple[Tensor, ...]:
        """Answer a token that has been read.

        Parameters
        ----------
        seen : tuple of (n_sequences, ...)
            What `read` returned, for each sequence.
        masks : list of (n_sequences, size) float32
            As in `step`.
        *parts : Tensor
            The state as `empty_parts` begins it.

        Returns
        -------
        tuple of Tensor
            Outputs (n_sequences, n_outputs); for each ring the row (n_sequences, ..., 1, width)
            to write; the other parts anew.
        """

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """Return the empty state of `batch` sequences: its parts, then (batch,) int64 tokens."""
        return (*self.empty_parts(batch), torch.zeros(batch, dtype=torch.int64))

    def step(
        self, x: Tensor, code: Tensor, masks: list[Tensor], *state: Tensor
    ) -> tuple[Tensor, ...]:
        """Answer one more token of each sequence: exactly `forward`, one token at a time.

        Parameters
        ----------
        x : (n_sequences, n_inputs) float32
            Inputs.
        code : (n_sequences,) int64
            Instruments.
        masks : list of (n_sequences, size) float32
            The same at every call of a sequence.
        *state : Tensor
            As the last call or `initial_state` returned it.

        Returns
        -------
        tuple of Tensor
            Outputs (n_sequences, n_outputs), then the parts of the new state.
        """
        self.check_inputs(x, masks)
        *parts, count = state
        outputs, *new = self.advance(self.read(x, code, count), masks, *parts)
        return outputs, *self.renewed(tuple(parts), tuple(new), count), count + 1

    def renewed(
        self, parts: tuple[Tensor, ...], new: tuple[Tensor, ...], count: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the parts of a state after the token before which there were `count`."""
        written = [_written(parts[at], new[at], count) for at in range(self.rings)]
        return (*written, *new[self.rings :])

    def check_inputs(self, x: Tensor, masks: list[Tensor]) -> None:
        """Refuse what has not the shape that `forward` (3 axes) or `step` (2 axes) takes.

        Raises
        ------
        DataError
            Naming the shape expected and the one received.
        """
        count = len(self.inputs.names)
        if x.shape[-1] != count:
            raise DataError(
                f"inputs of a sequence must have shape (n_sequences, ..., {count}), "
                f"was {tuple(x.shape)}"
            )
        expected = [(x.shape[0], size) for size in self.mask_sizes]
        found = [tuple(mask.shape) for mask in masks]
        if found != expected:
            raise DataError(f"masks must have shapes {expected}, were {found}")

    def parameter_count(self) -> int:
        """Return how many numbers are fitted."""
        return sum(parameter.numel() for parameter in self.parameters())


def _written(ring: Tensor, row: Tensor, count: Tensor) -> Tensor:
    """Return a ring with a row at the place of the token before which there were `count`."""
    places = ring.shape[-2]
    here = torch.arange(places) == (count % places)[:, None]
    return torch.where(here.reshape(len(ring), *[1] * (ring.ndim - 3), places, 1), row, ring)


@runtime_checkable
class Resettable(Protocol):
    """A module with parameters of its own, which it knows how to begin with."""

    def reset_from(self, generator: torch.Generator) -> None:
        """Set the parameters that belong to the module itself, not to its children."""


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Set all weights of a model from a generator: the global one decides nothing.

    Linear and LSTM layers, embeddings and norms are known; a module with parameters of its own
    must have ``reset_from(generator)``.

    Raises
    ------
    TypeError
        If some module has parameters that nobody sets.
    """
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, Resettable):
                module.reset_from(generator)
            elif isinstance(module, nn.Linear):
                _reset_linear(module, generator)
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, 0.02, generator=generator)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()  # ones and zeros: nothing is drawn
            elif isinstance(module, nn.LSTM):
                _reset_recurrent(module, generator)
            elif next(module.parameters(recurse=False), None) is not None:
                raise TypeError(f"{name} ({type(module).__name__}) must have reset_from()")


def _reset_linear(module: nn.Linear, generator: torch.Generator) -> None:
    """Draw weights as Glorot and Bengio (2010) do; biases are zero."""
    bound = math.sqrt(6.0 / (module.in_features + module.out_features))
    module.weight.uniform_(-bound, bound, generator=generator)
    if module.bias is not None:
        module.bias.zero_()


def _reset_recurrent(module: nn.LSTM, generator: torch.Generator) -> None:
    """Draw weights by the width; gates begin by remembering (Jozefowicz et al., 2015)."""
    width = module.hidden_size
    bound = 1.0 / math.sqrt(width)
    for name, parameter in module.named_parameters():
        if name.startswith("weight"):
            parameter.uniform_(-bound, bound, generator=generator)
        else:
            parameter.zero_()
        if name.startswith("bias_ih"):
            parameter[width : 2 * width].fill_(1.0)


def draw_masks(
    sizes: Sequence[int], batch: int, dropout: float, generator: torch.Generator
) -> list[Tensor]:
    """Draw a mask for each dropout point and sequence.

    Returns
    -------
    list of (batch, size) float32
        0 with probability `dropout`, else ``1 / (1 - dropout)``.
    """
    return [
        (torch.rand((batch, size), generator=generator) >= dropout).float() / (1.0 - dropout)
        for size in sizes
    ]


def open_masks(sizes: Sequence[int], batch: int) -> list[Tensor]:
    """Return masks that leave nothing out: the mean network."""
    return [torch.ones((batch, size)) for size in sizes]


class DistributionHead(nn.Module):
    """The last layer of every model: sign, location, scale and degrees of freedom, quantiles.

    The degrees of freedom are one fitted number above 3; the log of the scale stays within
    3.5 of zero. At first the answer is a probability of a half and a return of zero.

    Parameters
    ----------
    width : int
        Width of what comes in.
    n_quantiles : int
        Quantiles beside; they ascend by construction.
    """

    def __init__(self, width: int, n_quantiles: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3 + n_quantiles, width))
        self.bias = nn.Parameter(torch.empty(3 + n_quantiles))
        self.freedom = nn.Parameter(torch.empty(1))

    def reset_from(self, generator: torch.Generator) -> None:
        """Begin near zero."""
        self.weight.normal_(0.0, 0.02 / math.sqrt(self.weight.shape[1]), generator=generator)
        self.bias.zero_()
        self.freedom.fill_(1.0)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return (..., 4 + n_quantiles) from (..., width)."""
        raw = functional.linear(hidden, self.weight, self.bias)
        log_sigma = 3.5 * torch.tanh(raw[..., 2:3] / 3.5)
        log_nu = torch.log(_LEAST_FREEDOM + functional.softplus(self.freedom))
        parts = [raw[..., :2], log_sigma, log_nu.expand_as(log_sigma)]
        if raw.shape[-1] > 3:
            first, steps = raw[..., 3:4], functional.softplus(raw[..., 4:])
            parts.append(torch.cat([first, first + torch.cumsum(steps, dim=-1)], dim=-1))
        return torch.cat(parts, dim=-1)
