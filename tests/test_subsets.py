"""Some of the patches alone, and some of them masked: positions, attention, pools and gradients."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, builtins, image_for, random_array, randomise, run, small_model
from reference import ROTATIONS, float64, np_block, np_layer_norm, np_relative_bias, numpy_block_weights

import vitrail
from vitrail import POOLS, POSITIONS, Tokens

KEPT = np.array([0, 2, 3, 5])
MASK = np.isin(np.arange(6), KEPT)
PREFIX = 2
ROWS = np.concatenate([np.arange(PREFIX), PREFIX + KEPT])
POSITION_CHOICES: dict[str, Any] = {
    **{name: name for name in builtins(POSITIONS)},
    "dinov3": POSITIONS.configure("rope", rule="dinov3"),
    "mae": POSITIONS.configure("sincos2d", rule="mae"),
}
POOL_NAMES = builtins(POOLS)


def model_with(position: Any, **changes: Any) -> vitrail.ViT:
    return small_model(class_token=True, num_registers=PREFIX - 1, position=position, **changes)


def turn_of(model: vitrail.ViT) -> Any:
    """The rotation of the kept queries and keys: that of all, of which the kept rows are picked."""
    position = model.backbone.position
    if isinstance(position, vitrail.LearnedRotaryPosition):
        position = position.rotary
    if not isinstance(position, vitrail.RotaryPosition):
        return None

    def turn(x: np.ndarray) -> np.ndarray:
        every = np.zeros((PREFIX + 6, x.shape[1]))
        every[ROWS] = x
        return ROTATIONS[position.rule](every, model.config.grid, PREFIX, base=position.base)[ROWS]

    return turn


def bias_of(model: vitrail.ViT, block: int) -> Any:
    """The bias of the scores of the kept tokens: that of all, of which the kept rows and columns are picked."""
    position = model.backbone.position
    if not isinstance(position, vitrail.RelativeBiasPosition):
        return None
    tables = float64(position.patches)[block], float64(position.prefix)[block]
    return np_relative_bias(*tables, model.config.grid, PREFIX)[:, ROWS][:, :, ROWS]


@pytest.mark.parametrize("position", [name for name in POSITION_CHOICES if name != "rope_mixed"])
def test_encoding_the_kept_tokens_equals_numpy(position: str) -> None:
    model = model_with(POSITION_CHOICES[position])
    embedded = run(model.backbone.embed, image_for(model))
    tokens = embedded.take(jnp.asarray(KEPT))
    x = float64(embedded.sequence)[ROWS]
    for i, block in enumerate(model.blocks):
        x = np_block(x, numpy_block_weights(block), 2, 1e-6, "gelu", turn_of(model), bias_of(model, i))
    norm = model.backbone.norm
    assert norm is not None
    expected = np_layer_norm(x, float64(norm.weight), float64(norm.bias), 1e-6)
    assert_close(run(model.backbone.encode, tokens).sequence, expected, tolerance=2e-5)


@eqx.filter_jit  # the chain rule in two programs, of which this one is the same for every position
def read(readouts: Any, encoded: Tokens, rows: Any) -> tuple[Any, Any, Any]:
    """What every pool gives, of all tokens only those rows; the gradients of a random sum of it."""

    def weigh(parts: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        readouts, encoded = parts
        made = {name: readout(encoded) for name, readout in readouts.items()}
        made = {name: value[rows] if value.ndim > 1 else value for name, value in made.items()}
        terms = [jnp.vdot(value, random_array(*value.shape, seed=8)) for value in made.values()]
        return jnp.sum(jnp.stack(terms)), made

    gradient, made = eqx.filter_grad(weigh, has_aux=True)((readouts, encoded))
    return made, *gradient


@eqx.filter_jit
def pull_back(backbone: Any, tokens: Tokens, of_encoded: Tokens) -> Any:
    """The gradient of the backbone's parameters, from that of the encoded tokens."""

    def weigh(backbone: Any) -> jax.Array:
        leaves = jax.tree.leaves(eqx.filter(backbone.encode(tokens), eqx.is_inexact_array))
        terms = [jnp.vdot(*pair) for pair in zip(leaves, jax.tree.leaves(of_encoded), strict=True)]
        return jnp.sum(jnp.stack(terms))

    return eqx.filter_grad(weigh)(backbone)


@pytest.mark.parametrize("position", POSITION_CHOICES)
def test_a_mask_equals_the_kept_tokens_alone_for_every_pool_and_so_does_the_gradient(position: str) -> None:
    model = model_with(POSITION_CHOICES[position])
    config = model.config
    readouts = {
        name: randomise(lambda n=name: dataclasses.replace(config, pool=n).build_readout(key=jax.random.key(0)))
        for name in POOL_NAMES
    }
    embedded = run(model.backbone.embed, image_for(model))
    hidden = jnp.where(jnp.asarray(MASK)[:, None], embedded.patches, jnp.nan)

    def encode_and_read(tokens: Tokens, rows: Any) -> tuple[Any, Any]:
        """What every pool gives, and the gradients of readouts and backbone."""
        encoded = run(model.backbone.encode, tokens)
        made, of_readouts, of_encoded = read(readouts, encoded, rows)
        return made, (of_readouts, pull_back(model.backbone, tokens, of_encoded))

    made, gradients = encode_and_read(embedded.take(jnp.asarray(KEPT)), np.arange(len(ROWS)))
    for patches in (embedded.patches, hidden):
        found = encode_and_read(dataclasses.replace(embedded, patches=patches, mask=jnp.asarray(MASK)), ROWS)
        for name in POOL_NAMES:
            assert_close(found[0][name], made[name])
        expected = jax.tree_util.tree_leaves_with_path(gradients)
        for (path, one), other in zip(expected, jax.tree.leaves(found[1]), strict=True):
            scale = max(1.0, float(jnp.abs(one).max()))
            assert_close(other / scale, one / scale), path


@pytest.mark.parametrize(
    "options",
    [
        {"execution": vitrail.Execution(attention=3)},
        {"execution": vitrail.Execution(attention=3), "position": "relative_bias"},
        {"encoder": vitrail.EncoderOptions(qk_norm=True, pre_norm=True)},
        {"execution": vitrail.Execution(scan=False, remat="blocks")},
    ],
    ids=str,
)
def test_a_mask_reaches_the_attention_however_it_is_computed(options: dict[str, Any]) -> None:
    model = model_with(**{"position": "learned"} | options)
    embedded = run(model.backbone.embed, image_for(model))
    masked = dataclasses.replace(embedded, mask=jnp.asarray(MASK))
    plain = model.with_execution(vitrail.Execution(attention="plain"))
    alone = run(plain.backbone.encode, embedded.take(jnp.asarray(KEPT)))
    assert_close(run(model.backbone.encode, masked).sequence[ROWS], alone.sequence)


def test_masks_differ_within_a_batch() -> None:
    model = model_with("learned")
    embedded = run(model.backbone.embed, image_for(model))
    masks = jnp.asarray([MASK, ~MASK])

    def logits(mask: jax.Array) -> jax.Array:
        return model.readout(model.backbone.encode(dataclasses.replace(embedded, mask=mask)))

    both = run(jax.vmap(logits), masks)
    for row, indices in zip(both, (KEPT, np.flatnonzero(~MASK)), strict=True):
        alone = run(lambda t: model.readout(model.backbone.encode(t)), embedded.take(jnp.asarray(indices)))
        assert_close(row, alone)


def test_the_readout_of_the_backbone_is_the_model() -> None:
    model = model_with("learned", pool="cls_mean")
    image = image_for(model)
    assert_close(run(lambda m, x: m.readout(m.backbone(x)), model, image), run(model, image), tolerance=1e-6)


def test_windows_and_necks_want_all_patches() -> None:
    model = small_model(neck_dim=6)
    embedded = run(model.backbone.embed, image_for(model))
    for wrong in (embedded.take(jnp.asarray(KEPT)), dataclasses.replace(embedded, mask=jnp.asarray(MASK))):
        with pytest.raises(ValueError, match=r"use all patches|every cell of the grid"):
            model.backbone.encode(wrong)
    windows = small_model(windows=vitrail.WindowOptions(2))
    embedded = run(windows.backbone.embed, image_for(windows))
    with pytest.raises(ValueError, match=r"one token for each cell of the grid \(2, 3\), got 4 tokens"):
        windows.backbone.encode(embedded.take(jnp.asarray(KEPT)))
    with pytest.raises(ValueError, match="got a mask"):
        windows.backbone.encode(dataclasses.replace(embedded, mask=jnp.asarray(MASK)))
