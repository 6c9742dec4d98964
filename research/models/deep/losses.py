"""What a sequence model is trained to lower (torch)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from research.models.deep.mixture import LOG_NU, LOG_SIGMA, LOGIT_UP, MU, N_DISTRIBUTION


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What is to be foretold at every position of some sequences.

    Parameters
    ----------
    label : (n_sequences, n_steps) float32
        1 up, 0 down; anything where the weight is 0.
    scaled_return : (n_sequences, n_steps) float32
        Forward log return by its volatility; NaN where unknown.
    weight : (n_sequences, n_steps) float32
        0 where nothing is learned.
    """

    label: Tensor
    scaled_return: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class LossConfig:
    """How the parts are added.

    Parameters
    ----------
    return_weight : float
        Of the Student-t likelihood of the return, the cross-entropy of the sign having 1.
    quantile_weight : float
        Of the pinball loss.
    quantiles : tuple of float
        Levels of the output columns behind the distribution's.
    """

    return_weight: float
    quantile_weight: float = 0.0
    quantiles: tuple[float, ...] = ()


def student_t_loss(value: Tensor, mu: Tensor, log_sigma: Tensor, log_nu: Tensor) -> Tensor:
    """Return the negative log density of a Student-t distribution, elementwise.

    Parameters
    ----------
    value : Tensor
        Where.
    mu, log_sigma, log_nu : Tensor
        Location, log of the scale, log of the degrees of freedom.
    """
    nu = torch.exp(log_nu)
    deviation = (value - mu) * torch.exp(-log_sigma)
    constant = torch.lgamma(nu / 2) - torch.lgamma((nu + 1) / 2) + 0.5 * torch.log(math.pi * nu)
    return constant + log_sigma + (nu + 1) / 2 * torch.log1p(deviation * deviation / nu)


def pinball_loss(value: Tensor, found: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Return the pinball loss (Koenker and Bassett, 1978), the mean over the levels.

    Parameters
    ----------
    value : (...) float
        What came true.
    found : (..., n_levels) float
        Quantiles foretold.
    levels : tuple of float
        Which.
    """
    above = value[..., None] - found
    level = torch.tensor(levels, dtype=found.dtype, device=found.device)
    return torch.maximum(level * above, (level - 1) * above).mean(dim=-1)


def loss_sums(outputs: Tensor, targets: Targets, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Return the loss to lower and the cross-entropy alone, each summed with the weights.

    Parameters
    ----------
    outputs : (n_sequences, n_steps, n_outputs) float
        A model's.
    targets : Targets
        Of the same positions.
    config : LossConfig
        How the parts are added.

    Returns
    -------
    total, sign : () float32
        To be divided by the sum of the weights.
    """
    # Half precision is for products of matrices, not for sums of logarithms.
    outputs = outputs.float()
    sign = functional.binary_cross_entropy_with_logits(
        outputs[..., LOGIT_UP], targets.label, weight=targets.weight, reduction="sum"
    )
    known = ~torch.isnan(targets.scaled_return)
    # The gradient of what is left out must be zero, not zero times NaN.
    value = torch.where(known, targets.scaled_return, 0.0)
    weight = targets.weight * known
    total = sign
    if config.return_weight:
        parts = outputs[..., MU], outputs[..., LOG_SIGMA], outputs[..., LOG_NU]
        total = total + config.return_weight * (weight * student_t_loss(value, *parts)).sum()
    if config.quantiles and config.quantile_weight:
        found = pinball_loss(value, outputs[..., N_DISTRIBUTION:], config.quantiles)
        total = total + config.quantile_weight * (weight * found).sum()
    return total, sign
