"""The focal losses beside loops written from their definitions."""

import math

import mmcv.ops
import pytest
import torch

import hiera_mm.ops


def plain_sigmoid_focal_loss(logits, target, gamma, alpha, weight=None):
    """The focal loss of one-against-all classification, one class at a time; differentiable."""
    losses = []
    for sample, truth in zip(logits, target.tolist(), strict=True):
        for c, logit in enumerate(sample):
            right = torch.sigmoid(logit if c == truth else -logit)
            factor = alpha if c == truth else 1 - alpha
            if weight is not None and truth < len(weight):
                factor = factor * weight[truth]
            losses.append(-factor * (1 - right) ** gamma * right.log())
    return torch.stack(losses).view_as(logits)


def plain_softmax_focal_loss(logits, target, gamma, alpha, weight=None):
    """The focal loss of classification, one sample at a time; differentiable."""
    losses = []
    for sample, truth in zip(logits, target.tolist(), strict=True):
        right = sample.softmax(0)[truth]
        factor = alpha * (weight[truth] if weight is not None else 1)
        losses.append(-factor * (1 - right) ** gamma * right.log() if truth >= 0 else right * 0)
    return torch.stack(losses)


PLAIN = {
    mmcv.ops.sigmoid_focal_loss: plain_sigmoid_focal_loss,
    mmcv.ops.softmax_focal_loss: plain_softmax_focal_loss,
}


@pytest.mark.parametrize('gamma', [0.0, 1.5, 2.0])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('classes', [1, 4])
@pytest.mark.parametrize('operator', PLAIN, ids=['sigmoid', 'softmax'])
def test_losses_follow_their_definition(device, operator, classes, weighted, gamma):
    logits = torch.randn(7, classes, dtype=torch.float64)
    target = torch.randint(classes, (7,))
    if not weighted or hiera_mm.ops.source() != 'compiled':  # which reads past the weights
        target[::3] = classes if operator is mmcv.ops.sigmoid_focal_loss else -1  # background
    weight = torch.rand(classes, dtype=torch.float64) if weighted else None
    on_device = weight.to(device) if weighted else None
    for reduction, share in (('sum', 1), ('mean', 7)):
        ours = logits.clone().to(device).requires_grad_()
        plain = logits.clone().requires_grad_()
        loss = operator(ours, target.to(device), gamma, 0.3, on_device, reduction)
        expected = PLAIN[operator](plain, target, gamma, 0.3, weight).sum() / share
        torch.testing.assert_close(loss.cpu(), expected)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(ours.grad.cpu(), plain.grad)


@pytest.mark.usefixtures('stand_in_only')
def test_sigmoid_loss_of_a_confident_mistake_is_exact_in_float32():
    logits = torch.tensor([[40.0], [-40], [torch.inf], [-torch.inf]], requires_grad=True)
    target = torch.tensor([1, 0, 1, 0])
    loss = mmcv.ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'none')
    torch.testing.assert_close(loss[:2], torch.tensor([[0.75 * 40], [0.25 * 40]]))
    mmcv.ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'sum').backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.75], [-0.25], [0.75], [-0.25]]))


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_softmax_loss_of_certainty_is_finite(gamma):
    logits = torch.tensor([[300.0, 0], [0, 300]], requires_grad=True)
    loss = mmcv.ops.softmax_focal_loss(logits, torch.tensor([0, 0]), gamma, 1.0, None, 'none')
    assert loss[0] == 0
    assert loss[1].item() == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))
    mmcv.ops.softmax_focal_loss(logits, torch.tensor([0, 0]), gamma, 1.0).backward()
    assert logits.grad.isfinite().all()
