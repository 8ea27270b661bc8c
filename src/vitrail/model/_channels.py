"""Images of other channels for a trained model."""

import dataclasses
from typing import Literal, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._check import check_positive
from .._keep import KEEP, Keep
from ..images import Preprocess
from ..nn import to_jax
from ._vit import ViT

ChannelRule = Literal["repeat", "average", "zero"]
"""What new channels are taken for, where a model was trained on others."""


def check_channel_rule(channels: int | Keep, rule: ChannelRule) -> None:
    """Raises a `ValueError` if there is a rule for new channels, and there are none."""
    if channels is KEEP and rule != "repeat":
        raise ValueError(
            f"channel_rule={rule!r} has no effect without channels: pass channels too, for instance channels=4"
        )


def change_channels(model: ViT, channels: int, rule: ChannelRule) -> ViT:
    """The model for images of other channels: what it computed of `image @ mix` it computes of `image`.

    The rule `"repeat"` has the numbers of timm's `adapt_input_conv`, whose `in_chans` it is.

    **Raises:** `ValueError` if the channels are not a positive number, or `"zero"` would drop one.
    """
    check_positive(channels=channels)
    old = model.config
    if channels == old.channels:
        return model
    mix = _make_mix(old.channels, channels, rule)
    preprocess = None if old.preprocess is None else _mix_preprocess(old.preprocess, mix)
    backbone = to_jax(model.backbone)
    patch = backbone.patch.with_channels(jnp.asarray(mix))
    return dataclasses.replace(
        model,
        backbone=dataclasses.replace(backbone, patch=patch, channels=channels),
        config=dataclasses.replace(old, channels=channels, preprocess=preprocess),
    )


def _make_mix(old: int, new: int, rule: ChannelRule) -> Float[np.ndarray, "{new} {old}"]:
    """How much of each new channel is in each old one."""
    if rule == "zero":
        if new < old:
            raise ValueError(
                f"channel_rule='zero' keeps the {old} channels of the model and adds others, got channels={new}: use "
                "'repeat' or 'average'"
            )
        return np.eye(new, old, dtype=np.float32)
    if rule == "average" or new == 1:
        return np.full((new, old), 1 / new, np.float32)
    return np.eye(old, dtype=np.float32)[np.arange(new) % old] * np.float32(old / new)


def _mix_preprocess(preprocess: Preprocess, mix: Float[np.ndarray, "new old"]) -> Preprocess:
    """The preprocessing with a mean and a deviation for each new channel: those of the old channels that it is in, in
    proportion, or of all where it is in none."""
    weights = np.where(mix.any(axis=1, keepdims=True), mix, 1).astype(np.float64)
    weights /= weights.sum(axis=1, keepdims=True)
    mean, std = (
        cast("list[float]", np.round(weights @ np.asarray(numbers), 12).tolist())
        for numbers in (preprocess.mean, preprocess.std)
    )
    return dataclasses.replace(preprocess, mean=tuple(mean), std=tuple(std))
