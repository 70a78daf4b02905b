"""Focal losses over sigmoid and softmax probabilities.

The focal loss is ``-alpha * (1 - p) ** gamma * log(p)``, p being the probability given to the
truth. An optional weight for each class multiplies all losses of the samples of that class.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import kernel, widen


@kernel
def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` with one loss for each sample and class.

    Logarithms are taken of the sigmoid as a whole, so that in float32 a confident mistake costs
    what it costs in float64 instead of an arbitrary ceiling.

    Args:
        input: Logits ``(N, C)``.
        target: Class of each sample ``(N,)``, int64; outside ``[0, C)`` it is background.
        weight: Weight of each class ``(C,)``, or empty for none. Background weighs 1.
        output: Result ``(N, C)``.
        gamma: How much well-classified samples are played down.
        alpha: Share of the samples of the class; the others get ``1 - alpha``.
    """
    logits, weight = widen(input, weight)
    logits, is_class, _, balance = _one_against_all(logits, target, alpha)
    loss = -balance * torch.sigmoid(-logits) ** gamma * F.logsigmoid(logits)
    output.copy_(_weighted(loss, is_class, weight))


@kernel
def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``grad_input`` ``(N, C)`` with the derivative of each loss by its logit."""
    logits, weight = widen(input, weight)
    logits, is_class, sign, balance = _one_against_all(logits, target, alpha)
    wrong = torch.sigmoid(-logits)
    slope = gamma * torch.sigmoid(logits) * F.logsigmoid(logits) - wrong
    grad_input.copy_(_weighted(sign * balance * wrong**gamma * slope, is_class, weight))


def _one_against_all(logits: Tensor, target: Tensor, alpha: float) -> tuple[Tensor, ...]:
    """Per sample and class: logit of the right answer; whether it is yes; as a sign; its share."""
    is_class = target[:, None] == torch.arange(logits.size(1), device=target.device)
    sign = torch.where(is_class, 1.0, -1.0).to(logits.dtype)
    balance = torch.where(is_class, alpha, 1 - alpha).to(logits.dtype)
    # Infinite logits would make the gradient 0 times infinity.
    right = (logits * sign).clamp(min=torch.finfo(logits.dtype).min)
    return right, is_class, sign, balance


def _weighted(losses: Tensor, is_class: Tensor, weight: Tensor) -> Tensor:
    """Multiply the losses of each sample with the weight of its class."""
    if weight.numel() == 0:
        return losses
    per_sample = torch.where(is_class, weight, 1.0).prod(1, keepdim=True)
    return losses * per_sample


@kernel
def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` ``(N,)`` with one loss for each sample.

    ``input`` holds probabilities, that is, after softmax. A negative target costs nothing, and
    ``alpha`` is a factor of all losses. The rest is as for :func:`sigmoid_focal_loss_forward`.
    """
    right, wrong, factor = _of_the_truth(input, target, weight, alpha)
    output.copy_(-factor * wrong**gamma * right.log())


@kernel
def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill ``grad_input`` ``(N, C)`` with the derivative by the logits before the softmax."""
    right, wrong, factor = _of_the_truth(input, target, weight, alpha)
    slope = gamma * wrong ** (gamma - 1) * right * right.log() - wrong**gamma
    is_class = target[:, None] == torch.arange(input.size(1), device=target.device)
    grad_input.copy_((factor * slope)[:, None] * (is_class.to(right) - input))


def _of_the_truth(
    probabilities: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Probability of the true class, of all others, and the factor of the loss; each ``(N,)``."""
    probabilities, weight = widen(probabilities, weight)
    truth = target.clamp(min=0)
    right = probabilities.gather(1, truth[:, None])[:, 0]
    factor = torch.where(target >= 0, alpha, 0.0).to(right)
    if weight.numel():
        factor = factor * weight[truth]
    # Away from 0, where the logarithm and negative powers have no value.
    tiny = torch.finfo(right.dtype).tiny
    return right.clamp(min=tiny), (1 - right).clamp(min=tiny), factor
