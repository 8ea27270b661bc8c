"""What flows between the parts."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_array

from vitrail import Rotation, Tokens

PREFIX, PATCHES = random_array(2, 4), random_array(6, 4, seed=1)


def tokens() -> Tokens:
    """Two prefix tokens and a grid of 3 x 2."""
    return Tokens(PREFIX, PATCHES, (3, 2))


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
    with pytest.raises(ValueError, match=r"cells, but there are 6 patch tokens.*row by row"):
        Tokens(PREFIX, PATCHES, grid)


def test_with_sequence_refuses_another_number_of_tokens() -> None:
    with pytest.raises(ValueError, match="patch tokens"):
        tokens().with_sequence(jnp.ones((7, 4)))


def test_no_prefix_has_no_class_token() -> None:
    with pytest.raises(ValueError, match=r"no class token.*class_token=True"):
        Tokens(jnp.zeros((0, 4)), PATCHES, (3, 2)).class_token  # noqa: B018


@pytest.mark.parametrize(
    ("prefix", "patches"),
    [(jnp.ones((2, 5)), PATCHES), (jnp.ones(4), PATCHES), (PREFIX, jnp.ones((6, 4), jnp.int32))],
)
def test_tokens_of_wrong_shapes_or_dtypes_are_an_error(prefix: Any, patches: Any) -> None:
    with pytest.raises(TypeError, match=r"'prefix'|'patches'"):
        Tokens(prefix, patches, (3, 2))


def test_tokens_pass_through_jit_vmap_and_grad() -> None:
    batched = jax.vmap(Tokens, in_axes=(0, 0, None))(PREFIX[None], PATCHES[None], (3, 2))
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
