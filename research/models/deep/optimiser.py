"""AdamW (torch).

torch's own imports its compiler at the first step: 146 MB and seconds for what is a dozen lines.
`tests/research/deep/test_models.py` holds these to the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_NEVER_ZERO = 1e-8  # added to the root of the second moment (Kingma and Ba, 2015)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

    Matrices decay; biases, norms and other vectors do not.

    Parameters
    ----------
    parameters : iterable of Parameter
        What is fitted; their order names the moments.
    weight_decay : float
        Fraction of a matrix that a step takes away, times the learning rate.
    betas : (float, float)
        How much of the first and second moment is kept at a step.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.98),
    ) -> None:
        self.parameters = [each for each in parameters if each.requires_grad]
        self.weight_decay = weight_decay
        self.betas = betas
        self.steps = 0
        self.first = [torch.zeros_like(each) for each in self.parameters]
        self.second = [torch.zeros_like(each) for each in self.parameters]

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every parameter that has a gradient, at a learning rate."""
        self.steps += 1
        keep_first, keep_second = self.betas
        size = rate / (1.0 - keep_first**self.steps)
        spread = math.sqrt(1.0 - keep_second**self.steps)
        for parameter, first, second in zip(self.parameters, self.first, self.second, strict=True):
            if parameter.grad is None:
                continue
            first.lerp_(parameter.grad, 1.0 - keep_first)
            second.mul_(keep_second).addcmul_(
                parameter.grad, parameter.grad, value=1.0 - keep_second
            )
            if parameter.ndim >= 2:
                parameter.mul_(1.0 - rate * self.weight_decay)
            parameter.addcdiv_(first, (second.sqrt() / spread).add_(_NEVER_ZERO), value=-size)

    def moments(self) -> dict[str, Tensor]:
        """Return its state as named tensors."""
        found = {"steps": torch.tensor(self.steps)}
        for name, parts in (("first", self.first), ("second", self.second)):
            found |= {f"{name}.{place}": part for place, part in enumerate(parts)}
        return found

    def restore(self, moments: dict[str, Tensor]) -> None:
        """Put back what `moments` returned."""
        self.steps = int(moments["steps"])
        for name, parts in (("first", self.first), ("second", self.second)):
            for place, part in enumerate(parts):
                part.copy_(moments[f"{name}.{place}"])
