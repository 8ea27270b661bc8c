"""The losses of objectives against those of open_clip and timm, with the same numbers."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from checkpoint_oracle import open_clip

from vitrail import train

losses, mixup = (importlib.import_module(name) for name in ("timm.loss", "timm.data.mixup"))
RNG = np.random.default_rng(0)


def compute(function: Any, *arrays: Any) -> tuple[float, Any]:
    """The loss and its gradient, of ours."""
    value, gradient = jax.value_and_grad(function)(*(jnp.asarray(array) for array in arrays))
    return float(value), np.asarray(gradient)


def compute_theirs(function: Any, array: Any, *others: Any) -> tuple[float, Any]:
    given = torch.tensor(array, requires_grad=True)
    value = function(given, *(torch.tensor(other) for other in others))
    value.backward()
    return value.item(), given.grad.numpy()


def assert_same(ours: tuple[float, Any], theirs: tuple[float, Any]) -> None:
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_contrasts_are_those_of_open_clip(loss: str) -> None:
    images, texts = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in RNG.normal(size=(2, 12, 8)).astype(np.float32)
    )
    scale, bias = 14.0, -9.5

    def ours(images: Any, texts: Any) -> Any:
        logits = scale * images @ texts.T
        return train.contrast(logits) if loss == "softmax" else train.contrast_pairs(logits + bias)

    def theirs(images: Any, texts: Any) -> Any:
        if loss == "softmax":
            return open_clip.loss.ClipLoss()(images, texts, torch.tensor(scale))
        return open_clip.loss.SigLipLoss()(images, texts, torch.tensor(scale), torch.tensor(bias))

    assert_same(compute(ours, images, texts), compute_theirs(theirs, images, texts))


def test_cross_entropies_are_those_of_timm() -> None:
    logits, labels = RNG.normal(size=(10, 7)).astype(np.float32), RNG.integers(0, 7, 10)

    def smooth(logits: Any, labels: Any) -> Any:
        return train.cross_entropy(logits, train.make_targets(labels, 7, 0.1))

    assert_same(compute(smooth, logits, labels), compute_theirs(losses.LabelSmoothingCrossEntropy(0.1), logits, labels))

    # timm mixes the labels of a batch with those in reverse order.
    targets = mixup.mixup_target(torch.tensor(labels), 7, lam=0.3, smoothing=0.1).numpy()
    made = train.make_targets(jnp.asarray(labels), 7, 0.1)
    np.testing.assert_allclose(0.3 * made + 0.7 * made[::-1], targets, atol=1e-6)
    assert_same(
        compute(train.cross_entropy, logits, targets),
        compute_theirs(losses.SoftTargetCrossEntropy(), logits, targets),
    )

    def ask(logits: Any, targets: Any) -> Any:
        return train.cross_entropy(logits, targets, "sigmoid")

    theirs = losses.BinaryCrossEntropy(smoothing=0.0, sum_classes=True)
    assert_same(compute(ask, logits, targets), compute_theirs(theirs, logits, targets))
