"""What flows between the parts."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_array, tokens_of

from vitrail import Rotation, Tokens

PREFIX, PATCHES = random_array(2, 4), random_array(6, 4, seed=1)


def tokens() -> Tokens:
    """Two prefix tokens and a grid of 3 x 2."""
    return tokens_of(PREFIX, PATCHES, (3, 2))


def test_prefix_and_patches_lie_apart_and_the_sequence_has_the_prefix_first() -> None:
    t = tokens()
    assert (t.dim, t.num_prefix, t.grid) == (4, 2, (3, 2))
    assert np.array_equal(t.class_token, np.asarray(PREFIX)[0])
    assert np.array_equal(t.sequence, np.concatenate([PREFIX, PATCHES]))


def test_patch_grid_is_row_major() -> None:
    grid = tokens().patch_grid
    assert grid.shape == (3, 2, 4)
    for index in range(6):
        assert np.array_equal(grid[index // 2, index % 2], PATCHES[index])


def test_with_sequence_is_the_inverse_of_sequence() -> None:
    t = tokens()
    assert eqx.tree_equal(t.with_sequence(t.sequence), t)
    other = t.with_sequence(t.sequence[::-1])
    assert np.array_equal(other.prefix, t.patches[::-1][:2])
    assert other.grid == t.grid


def test_map_acts_on_prefix_and_patches() -> None:
    doubled = tokens().map(lambda x: 2 * x)
    assert np.array_equal(doubled.prefix, 2 * PREFIX)
    assert np.array_equal(doubled.patches, 2 * PATCHES)


@pytest.mark.parametrize("grid", [(3, 3), (2, 2), (6, 0)])
def test_grid_must_have_as_many_cells_as_there_are_patches(grid: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"cells, got 6 patch tokens: pass the"):
        tokens_of(PREFIX, PATCHES, grid)


def test_with_sequence_refuses_another_number_of_tokens() -> None:
    with pytest.raises(ValueError, match="patch tokens"):
        tokens().with_sequence(jnp.ones((7, 4)))


def test_what_is_not_there_is_none_and_no_array_of_size_zero() -> None:
    bare = Tokens(PATCHES, (3, 2))
    assert (bare.class_token, bare.registers, bare.num_prefix) == (None, None, 0)
    assert np.array_equal(bare.sequence, PATCHES)
    assert len(jax.tree.leaves(bare)) == 1
    with pytest.raises(ValueError, match="registers must have at least one row"):
        Tokens(PATCHES, (3, 2), registers=jnp.zeros((0, 4)))
    registers = Tokens(PATCHES, (3, 2), registers=PREFIX)
    assert registers.class_token is None
    assert np.array_equal(registers.with_sequence(registers.sequence + 1).registers, PREFIX + 1)


def test_a_batch_of_tokens_has_the_same_properties() -> None:
    batch = jax.vmap(lambda scale: tokens().map(lambda x: scale * x))(jnp.arange(3.0))
    assert batch.class_token.shape == (3, 4)
    assert batch.prefix.shape == (3, 2, 4)
    assert batch.sequence.shape == (3, 8, 4)
    assert batch.patch_grid.shape == (3, 3, 2, 4)
    assert np.array_equal(batch.patch_grid[2], 2 * tokens().patch_grid)
    assert np.array_equal(batch.map(lambda x: x + 1).sequence, batch.sequence + 1)
    hidden = dataclasses.replace(batch, mask=jnp.ones((3, 6), bool))
    assert hidden.sequence_mask.shape == (3, 8)


def test_a_subset_knows_its_places_and_keeps_its_mask() -> None:
    t = dataclasses.replace(tokens(), mask=jnp.asarray([True, False, True, True, True, False]))
    kept = t.take(jnp.asarray([5, 1, 2]))
    assert np.array_equal(kept.patches, np.asarray(PATCHES)[[5, 1, 2]])
    assert np.array_equal(kept.places, [5, 1, 2])
    assert np.array_equal(kept.mask, [False, False, True])
    assert np.array_equal(kept.class_token, t.class_token)
    again = kept.take(jnp.asarray([2, 0]))
    assert np.array_equal(again.places, [2, 5])
    table = random_array(6, 3, seed=4)
    assert np.array_equal(again.at_places(table), np.asarray(table)[[2, 5]])
    with pytest.raises(ValueError, match="patch_grid needs a patch token in every cell"):
        again.patch_grid  # noqa: B018


def test_a_subset_of_a_batch_is_an_error_that_says_how() -> None:
    batch = jax.tree.map(lambda x: jnp.stack([x, x]), tokens())
    with pytest.raises(
        ValueError, match=r"take needs the tokens of one image, got patches of shape \(2, 6, .*jax.vmap"
    ):
        batch.take(jnp.asarray([0]))
    one = tokens().take(np.array([1, 2]))  # NumPy's indices are taken
    assert np.array_equal(one.places, [1, 2])


def test_places_beyond_the_grid_are_an_error() -> None:
    wrong = dataclasses.replace(tokens().take(jnp.asarray([0, 1])), places=jnp.asarray([0, 6]))
    with pytest.raises(ValueError, match="places must be at least 0 and less than the number of cells of the grid, 6"):
        wrong.at_places(random_array(6, 3))


@pytest.mark.parametrize("indices", [[6], [-1], [0, 99]])
def test_a_subset_of_patches_that_are_not_there_is_an_error(indices: list[int]) -> None:
    with pytest.raises(ValueError, match="indices must be at least 0 and less than the number of patch tokens, 6"):
        tokens().take(jnp.asarray(indices))
    with pytest.raises(Exception, match="less than the number of patch tokens, 6"):
        jax.block_until_ready(eqx.filter_jit(lambda i: tokens().take(i).patches)(jnp.asarray(indices)))


@pytest.mark.parametrize(
    ("prefix", "patches"),
    [(jnp.ones((2, 5)), PATCHES), (jnp.ones(4), PATCHES), (PREFIX, jnp.ones((6, 4), jnp.int32))],
)
def test_tokens_of_wrong_shapes_or_dtypes_are_an_error(prefix: Any, patches: Any) -> None:
    with pytest.raises(TypeError, match=r"^(registers|class_token|patches) of vitrail.Tokens"):
        tokens_of(prefix, patches, (3, 2))


def test_tokens_pass_through_jit_vmap_and_grad() -> None:
    batched = jax.vmap(lambda prefix, patches: tokens_of(prefix, patches, (3, 2)))(PREFIX[None], PATCHES[None])
    total = jax.jit(jax.vmap(lambda t: t.patches.sum()))(batched)
    np.testing.assert_allclose(total[0], np.asarray(PATCHES).sum(), rtol=1e-5)
    gradient = jax.grad(lambda t: t.patches.sum())(tokens())
    assert isinstance(gradient, Tokens)
    assert np.array_equal(gradient.prefix, np.zeros((2, 4)))
    assert np.array_equal(gradient.patches, np.ones((6, 4)))


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotation_turns_pairs_by_their_angle_and_keeps_lengths(interleaved: bool) -> None:
    angles = random_array(3, 2, seed=7)
    x = random_array(1, 4, 4, seed=8)
    turned = np.asarray(Rotation(angles, num_prefix=1, interleaved=interleaved)(x))[0]
    before = np.asarray(x)[0]
    pairs = [(0, 1), (2, 3)] if interleaved else [(0, 2), (1, 3)]
    assert np.array_equal(turned[0], before[0])
    for token in range(3):
        for pair, (first, second) in enumerate(pairs):
            c, s = np.cos(angles[token, pair]), np.sin(angles[token, pair])
            expected = np.array([[c, -s], [s, c]]) @ before[token + 1, [first, second]]
            np.testing.assert_allclose(turned[token + 1, [first, second]], expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(before, axis=-1), rtol=1e-5)
