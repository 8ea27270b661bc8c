"""Models that compute the same as another one, in the form that a library has."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from ..._spec import PartSpec
from ...model import ViTConfig
from .._rules import POSITION_ROWS

Arrays = Mapping[str, Any]
_ROWS: Final = dict(zip(("class", "registers"), POSITION_ROWS[:2], strict=True))
_TOKENS: Final = {"class": "backbone.class_token", "registers": "backbone.registers"}
_HEAD_BIAS: Final = "readout.head.linear.bias"


def cover_class(config: ViTConfig, arrays: Arrays) -> tuple[ViTConfig, Arrays]:
    """A position for the class token, and for no register: that of DINOv2."""
    return _cover(config, arrays, ("class",), covers="class" if config.num_registers else True)


def cover_all(config: ViTConfig, arrays: Arrays) -> tuple[ViTConfig, Arrays]:
    """A position for all tokens of the prefix: that of Hugging Face's ViT and CLIP."""
    return _cover(config, arrays, ("class", "registers"), covers=True)


def cover_all_or_none(config: ViTConfig, arrays: Arrays) -> tuple[ViTConfig, Arrays]:
    """A position for all tokens of the prefix, or for none: that of timm."""
    covers = _get_covers(config)
    if covers == "class" and config.num_registers:
        return _cover(config, arrays, (), covers=False)
    return config, arrays


def drop_zero_bias(config: ViTConfig, arrays: Arrays) -> tuple[ViTConfig, Arrays]:
    """A projection without its bias, where that is zero: that of CLIP."""
    if config.head != "linear" or _HEAD_BIAS not in arrays or np.any(np.asarray(arrays[_HEAD_BIAS])):
        return config, arrays
    head = PartSpec("linear", (("bias", False),))
    kept = {name: array for name, array in arrays.items() if name != _HEAD_BIAS}
    return dataclasses.replace(config, head=head), kept


def add_zero_bias(config: ViTConfig, arrays: Arrays) -> tuple[ViTConfig, Arrays]:
    """A head with a bias of zeros, where it has none: that of timm."""
    if config.head != PartSpec("linear", (("bias", False),)) or config.num_classes is None:
        return config, arrays
    return dataclasses.replace(config, head="linear"), {
        **arrays,
        _HEAD_BIAS: np.zeros(config.num_classes, np.float32),
    }


def adapt_in_turn(*steps: Callable[[ViTConfig, Arrays], tuple[ViTConfig, Arrays]]) -> Any:
    """One step after the other."""

    def adapt(config: ViTConfig, arrays: Arrays) -> tuple[ViTConfig, Arrays]:
        for step in steps:
            config, arrays = step(config, arrays)
        return config, arrays

    return adapt


def _get_covers(config: ViTConfig) -> object:
    """Which tokens of the prefix have a learned position; `None` for another position."""
    if config.position == "learned":
        return True
    if not isinstance(config.position, PartSpec) or config.position.name != "learned":
        return None
    return dict(config.position.options).get("covers_prefix", True)


def _cover(
    config: ViTConfig, arrays: Arrays, wanted: tuple[str, ...], *, covers: bool | str
) -> tuple[ViTConfig, Arrays]:
    """Rows of positions for the `wanted` tokens alone: others are added to their tokens, new ones are zero.

    Token and row are added before anything else happens to them, so that the sum is the same to the bit.
    """
    found = _get_covers(config)
    if found is None or found == covers or (found is True and covers == "class" and not config.num_registers):
        return config, arrays
    changed = dict(arrays)
    for kind, row in _ROWS.items():
        token = _TOKENS[kind]
        if token not in arrays:
            continue
        if kind in wanted and row not in arrays:
            changed[row] = np.zeros(np.shape(arrays[token]), np.float32)
        elif kind not in wanted and row in arrays:
            changed[token] = np.asarray(arrays[token]) + np.asarray(changed.pop(row))
    options = dict(config.position.options) if isinstance(config.position, PartSpec) else {}
    position = PartSpec("learned", tuple(sorted({**options, "covers_prefix": covers}.items())))
    return dataclasses.replace(config, position=position), changed
