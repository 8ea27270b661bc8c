"""timm's pools, rebuilt as ours from its arrays: for the fixtures and for the live comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from helpers import tokens_of

import vitrail

KEY = jax.random.key(0)


def set_parameters(pool: Any, values: Mapping[str, np.ndarray]) -> Any:
    """The pool with other arrays, given by dotted paths; every array of it has to be given."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(pool)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    assert set(names) == set(values)
    for name, (_, leaf) in zip(names, leaves, strict=True):
        assert leaf.shape == values[name].shape, name
    return jax.tree.unflatten(structure, [jnp.asarray(values[name]) for name in names])


def linear(ours: str, theirs: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weight and bias of one layer; the norm's are called the same."""
    return {f"{ours}.{kind}": arrays[f"{theirs}.{kind}"] for kind in ("weight", "bias")}


def joined(ours: str, theirs: Sequence[str], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weight and bias of one layer whose rows are those of several."""
    return {
        f"{ours}.{kind}": np.concatenate([arrays[f"{name}.{kind}"] for name in theirs]) for kind in ("weight", "bias")
    }


def attention_pool(arrays: Mapping[str, np.ndarray], num_heads: int) -> Any:
    """timm's `AttentionPoolLatent`."""
    latent = arrays["latent"][0]
    pool = vitrail.AttentionPool(latent.shape[1], num_heads=num_heads, num_queries=latent.shape[0], key=KEY)
    names = {"attention.project": "proj", "norm": "norm", "mlp.hidden": "mlp.fc1", "mlp.out": "mlp.fc2"}
    values = {"queries": latent} | joined("attention.qkv", ("q", "kv"), arrays)
    for ours, theirs in names.items():
        values |= linear(ours, theirs, arrays)
    return set_parameters(pool, values)


def class_attention_pool(arrays: Mapping[str, np.ndarray]) -> Any:
    """CaiT's `LayerScaleBlockClassAttn`, once."""
    pool = vitrail.ClassAttentionPool(24, depth=1, num_heads=3, key=KEY)
    names = {"norm1": "norm1", "attention.project": "attn.proj", "norm2": "norm2"}
    names |= {"mlp.hidden": "mlp.fc1", "mlp.out": "mlp.fc2"}
    values = {
        "class_token": arrays["class_token"],
        "blocks.0.scale1": arrays["gamma_1"],
        "blocks.0.scale2": arrays["gamma_2"],
    }
    for ours, theirs in names.items():
        values |= linear(f"blocks.0.{ours}", theirs, arrays)
    values |= joined("blocks.0.attention.qkv", ("attn.q", "attn.k", "attn.v"), arrays)
    return set_parameters(pool, values)


def sim_pool(arrays: Mapping[str, np.ndarray]) -> Any:
    """timm's `SimPool1d`."""
    values = {"q.weight": arrays["q.weight"], "k.weight": arrays["k.weight"]} | linear("norm", "norm", arrays)
    return set_parameters(vitrail.SimPool(24, key=KEY), values)


def assert_equals_timm(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Our pool gives what timm's gave, to 1e-5 of the largest number."""
    patches = jnp.asarray(arrays["patches"])
    tokens = tokens_of(jnp.asarray(arrays["prefix"]), patches, (1, len(patches)))
    match name:
        case "attention" | "attention of three heads" | "attention of two latents":
            pool = attention_pool(arrays, {"attention": 1, "attention of three heads": 3}.get(name, 2))
            ours = pool(tokens)
        case "lse":
            pool = vitrail.LogSumExpPool(tokens.dim)
            temperature = jnp.asarray(-np.log(arrays["r"]), jnp.float32)
            ours = eqx.tree_at(lambda p: p.log_temperature, pool, temperature)(tokens)
        case "simpool":  # its minimum is by channel, so what is compared is where it looks
            pool = sim_pool(arrays)
            ours = pool.weights(tokens)[0] @ pool.norm(patches)
        case "cait":
            ours = class_attention_pool(arrays)(tokens)
        case _:
            context = vitrail.PoolContext(dim=tokens.dim, grid=tokens.grid, init=vitrail.TRUNC_NORMAL)
            ours = vitrail.POOLS.build(name, context, key=KEY)(tokens)
    expected = arrays["output"].reshape(-1)
    assert ours.shape == expected.shape
    assert np.max(np.abs(np.asarray(ours) - expected)) <= 1e-5 * np.max(np.abs(expected))
