"""What several test files share: small models with random weights, and comparisons."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import vitrail
from vitrail.testing import randomise as randomise

T = TypeVar("T")


def random_array(*shape: int, seed: int = 0, dtype: str = "float32") -> jax.Array:
    """Normal numbers."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32)).astype(dtype)


def small_config(**changes: Any) -> vitrail.ViTConfig:
    """A configuration of a tiny model on rectangular images, with some fields changed."""
    fields = {
        "image_size": (8, 12),
        "patch_size": (4, 4),
        "size": vitrail.EncoderSize(dim=16, depth=2, num_heads=2, mlp_dim=24),
        "num_classes": 5,
    }
    return vitrail.ViTConfig(**(fields | changes))


def small_model(
    *,
    seed: int = 0,
    execution: vitrail.Execution = vitrail.Execution(),
    dropout: vitrail.Dropout = vitrail.Dropout(),
    **changes: Any,
) -> vitrail.ViT:
    """A tiny model, every parameter random."""
    config = small_config(**changes)
    return randomise(lambda: config.build(execution=execution, dropout=dropout, key=jax.random.key(0)), seed=seed)


def image_for(model: vitrail.ViT, *, seed: int = 0) -> jax.Array:
    """A random image of the size that a model was built for."""
    return random_array(*model.config.image_size, model.config.channels, seed=seed)


@eqx.filter_jit
def run(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Calls a model, or a method of one, compiled."""
    return function(*args, **kwargs)


def assert_close(actual: Any, expected: Any, *, tolerance: float = 1e-5) -> None:
    """Equal shapes, and values within an absolute and a relative tolerance."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def assert_trees_close(actual: Any, expected: Any, *, tolerance: float = 1e-5) -> None:
    """Equal structures, and arrays within a tolerance."""
    actual, expected = eqx.filter(actual, eqx.is_array), eqx.filter(expected, eqx.is_array)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, e: assert_close(a, e, tolerance=tolerance), actual, expected)


def parameters(tree: Any) -> dict[str, jax.Array]:
    """The arrays of a tree by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def tokens_of(
    prefix: jax.Array, patches: jax.Array, grid: tuple[int, int], *, class_token: bool = True
) -> vitrail.Tokens:
    """Tokens whose class token and registers are the rows of one array."""
    first = int(class_token and len(prefix) > 0)
    return vitrail.Tokens(
        patches,
        grid,
        class_token=prefix[0] if first else None,
        registers=prefix[first:] if len(prefix) > first else None,
    )


def prefix_of(part: Any) -> jax.Array:
    """Class token and registers of a backbone, or their positions, as the rows of one array."""
    class_token, registers = part.class_token, part.registers
    rows = [] if class_token is None else [class_token[None]]
    rows += [] if registers is None else [registers]
    return jnp.concatenate(rows) if rows else jnp.zeros((0, 16))


def final_norm(model: vitrail.ViT) -> vitrail.LayerNorm:
    """The final norm of a model, before the pool or after it."""
    norm = model.backbone.norm if model.readout.norm is None else model.readout.norm
    assert norm is not None
    return norm


def masked(tokens: vitrail.Tokens, mask: Any) -> vitrail.Tokens:
    """The tokens with a mask."""
    return dataclasses.replace(tokens, mask=mask)


def builtins(registry: vitrail.Registry[Any, Any]) -> list[str]:
    """The names that come with vitrail. Plugins on this machine are not ours to test."""
    return [name for name in registry if registry.get_entry(name).origins == ("vitrail",)]


def make_row(pool: str = "mean", hits: Sequence[int] = (1, 1, 0, 1), milliseconds: float = 1.0) -> vitrail.lab.Row:
    """The result of a readout of a comparison, with one run."""
    return vitrail.lab.Row(
        model="m",
        layer=-1,
        resolution=(8, 8),
        pool=pool,
        correct=np.array([hits], bool),
        learning_rate=1e-3,
        few_shot={},
        knn_accuracy=None,
        pool_parameters=0,
        head_parameters=1,
        backbone_milliseconds=milliseconds,
        readout_milliseconds=0.1,
        flops=1,
        memory=1,
        needs_class_token=False,
        maps=None,
    )


def write_pictures(folder: Path) -> Path:
    """Writes twenty noisy pictures of two classes, dark ones and light ones."""
    rng = np.random.default_rng(0)
    for name, colour in (("dark", 40), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            pixels = (colour + rng.integers(0, 30, (10, 12, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder
