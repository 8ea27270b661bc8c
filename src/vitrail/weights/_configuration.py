"""The kinds of models that can be read and written: what builds each, and the names of its arrays."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias, cast, runtime_checkable

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from .._check import join_names
from ..model import ViT, ViTConfig
from ..nn import Dropout, Execution, is_shape, name_leaf
from ..systems import (
    DenseConfig,
    DINOConfig,
    ImageTextConfig,
    MAEConfig,
    SegmentAnythingConfig,
    find_image_model,
)
from .formats import NumpyArray

Shardings: TypeAlias = Callable[[Any], Any]
"""Returns a tree of shardings for a model with shapes in place of its arrays."""


@runtime_checkable
class Configuration(Protocol):
    """What a model is built from: names and plain values."""

    def build(
        self, *, execution: Execution = Execution(), dropout: Dropout = Dropout(), key: PRNGKeyArray
    ) -> "Configured":
        """Builds the model with fresh weights."""
        ...

    def to_json(self) -> str:
        """Writes the configuration as JSON."""
        ...

    @staticmethod
    def from_json(text: str) -> "Configuration":
        """Reads a configuration that `to_json` wrote."""
        ...


@runtime_checkable
class Configured(Protocol):
    """A model, a PyTree, that has the configuration that it was built from."""

    @property
    def config(self) -> Configuration:
        """The configuration."""
        ...


@runtime_checkable
class SystemConfiguration(Configuration, Protocol):
    """What a system is built from, that of its image model included."""

    @property
    def image(self) -> ViTConfig:
        """The configuration of the image model."""
        ...


KINDS: Final[Mapping[str, type[Configuration]]] = MappingProxyType(
    {
        "vit": ViTConfig,
        "dense": DenseConfig,
        "dino": DINOConfig,
        "image_text": ImageTextConfig,
        "mae": MAEConfig,
        "segment_anything": SegmentAnythingConfig,
    }
)
"""The kinds of configurations, by the name that a file of vitrail's own gives them. A new kind is one more line."""


def name_kind(config: Configuration) -> str:
    """The name of the kind of a configuration.

    **Raises:** `ValueError` if it is of no kind that a file can hold.
    """
    for name, kind in KINDS.items():
        if type(config) is kind:
            return name
    raise ValueError(f"the configuration of a saved model must be one of {join_names(KINDS)}, got {config!r}")


def parse_configuration(kind: str, text: str) -> Configuration:
    """Reads a configuration of the kind of that name.

    **Raises:** `ValueError` if there is no such kind; what its `from_json` raises.
    """
    if kind not in KINDS:
        raise ValueError(f"the kind of the model must be one of {join_names(KINDS)}, got {kind!r}")
    return KINDS[kind].from_json(text)


def get_image_model(model: object) -> ViT:
    """The image model of a system; a `ViT` as it is.

    **Raises:** `TypeError` if the model has none.
    """
    image = find_image_model(model)
    if image is None:
        raise TypeError(f"the model must be a ViT or have an image model, got a {type(model).__name__}")
    return image


def get_image_config(config: Configuration) -> ViTConfig:
    """The configuration of the image model of a system; a `ViTConfig` as it is.

    **Raises:** `TypeError` if the configuration has none.
    """
    match config:
        case ViTConfig():
            return config
        case SystemConfiguration(image=image):
            return image
        case _:
            raise TypeError(f"the model must be a ViT or have an image model, got a {type(config).__name__}")


@functools.lru_cache  # reading and writing a file ask for it several times, and it takes most of their time
def make_outline(config: Configuration) -> Configured:
    """The model of a configuration with shapes and dtypes in place of its arrays. Nothing is computed."""
    return cast(Configured, eqx.filter_eval_shape(config.build, key=jax.random.key(0)))


def fill_outline(
    outline: Configured, read: Callable[[str, jax.ShapeDtypeStruct], NumpyArray], shardings: Shardings | None
) -> Configured:
    """The model of an outline, with the arrays that `read` returns for their names and shapes: one after the other on
    the device, or divided over several as `shardings` says."""
    places = None if shardings is None else iter(jax.tree.leaves(shardings(outline)))

    def fill(keys: tuple[Any, ...], leaf: Any) -> Any:
        if not is_shape(leaf):
            return leaf
        array = read(name_leaf(keys), leaf)
        if places is None:
            return jax.device_put(array)
        return jax.make_array_from_callback(array.shape, next(places), array.__getitem__)

    return cast(Configured, jax.tree_util.tree_map_with_path(fill, outline))
