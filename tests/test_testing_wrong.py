"""Wrong parts of each kind: the check whose matter it is catches each, and says what is wrong."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import wrong_parts
import wrong_pools
from wrong_pools import Wrong

import vitrail
from vitrail.testing import (
    ContractError,
    check_head,
    check_patch_embed,
    check_pool,
    check_position,
    head_checks,
    patch_embed_checks,
    pool_checks,
    position_checks,
)

Checks = Callable[[Any], Callable[..., None]]

KINDS: dict[str, tuple[Checks, dict[str, Wrong]]] = {
    "pool": (pool_checks, {**wrong_pools.POOLS, **wrong_pools.WEIGHING, **wrong_pools.GRIDDED}),
    "position": (position_checks, wrong_parts.POSITIONS),
    "patch": (patch_embed_checks, wrong_parts.PATCHES),
    "head": (head_checks, wrong_parts.HEADS),
}
CASES = [(kind, name) for kind, (_, parts) in KINDS.items() for name in parts]


def run_check(checks: Checks, part: Any, name: str) -> None:
    """Runs one check of a part. All others, which the calls for a whole part run as well, would only cost time."""
    test: Any = checks(part)
    (check,) = [check for check in test.pytestmark[0].args[1] if check.__name__ == name]
    functools.partial(test, check=check)()


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_wrong_part_is_caught_and_told_what_is_wrong(kind: str, name: str) -> None:
    checks, parts = KINDS[kind]
    part, words, check = parts[name]
    with pytest.raises(ContractError, match=words):
        run_check(checks, part, check)


def refuse(inner: Any, mix: Any) -> Any:
    raise ValueError("the first layer is not linear")


RIGHT: list[tuple[Callable[[Any], None], Any]] = [
    (check_pool, wrong_pools.pool()),
    (check_pool, wrong_pools.weighing(wrong_pools.scores_of)),
    (check_pool, wrong_pools.RIGHT_GRID_POOL),
    (check_position, wrong_parts.learned()),
    (check_patch_embed, wrong_parts.patches()),
    (check_patch_embed, wrong_parts.patches(lambda inner, image: inner(jax.nn.relu(image)), with_channels=refuse)),
    (check_patch_embed, wrong_parts.patches(wrong_parts.of_the_largest, with_channels=refuse)),
    (check_head, wrong_parts.head()),
]


@pytest.mark.parametrize("number", range(len(RIGHT)))
def test_what_the_wrong_parts_are_made_from_is_right(number: int) -> None:
    check, part = RIGHT[number]
    check(part)


# Convolutions of large patches are slow without XLA's optimisations, which the tests turn off.
SIZES = [("conv", (4, 4)), *((name, size) for name in ("matmul", "conv_stem") for size in ((16, 16), (8, 16), (4, 4)))]


@pytest.mark.parametrize(("name", "patch_size"), SIZES, ids=str)
def test_a_built_in_patch_embedding_is_right_for_the_sizes_in_use(name: str, patch_size: tuple[int, int]) -> None:
    def checks(part: Any) -> Callable[..., None]:
        return patch_embed_checks(part, patch_size=patch_size)

    part = vitrail.PATCHES.configure("conv", implementation="matmul") if name == "matmul" else name
    for check in ("a_patch_reads_its_own_pixels", "holds_for_other_patches"):
        run_check(checks, part, check)


def test_overlapping_patches_are_a_breach_unless_they_are_intended() -> None:
    stem = wrong_parts.overlapping()
    with pytest.raises(ContractError, match="declare reads_neighbours = True in the class if this is intended"):
        run_check(patch_embed_checks, stem, "a_patch_reads_no_other_pixels")
    stem.reads_neighbours = True
    run_check(patch_embed_checks, stem, "a_patch_reads_no_other_pixels")


# One cause, one line ---------------------------------------------------------------------------------------------


def forgetful_init(self: Any, dim: int, *, key: Any) -> None:
    """It forgets `out_dim`."""
    self.scale = jnp.ones(dim)


def failing_call(self: Any, tokens: vitrail.Tokens, key: Any) -> Any:
    return tokens.pixels


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (wrong_pools.pool(init=forgetful_init), "it cannot be built: "),
        (wrong_pools.pool(failing_call), "it cannot be called: AttributeError: .*pixels"),
    ],
)
def test_what_cannot_be_built_or_called_has_one_line(part: Any, words: str) -> None:
    with pytest.raises(ContractError, match=words) as caught:
        check_pool(part)
    assert str(caught.value).count("\n- ") == 1
    test: Any = pool_checks(part)
    first, *others = test.pytestmark[0].args[1]
    with pytest.raises(ContractError, match=words):
        test(check=first)
    for check in others[:2] + others[-2:]:
        with pytest.raises(pytest.skip.Exception, match=words):
            test(check=check)


def test_what_can_be_said_without_a_call_is_said() -> None:
    """A part that cannot be called, and takes an option by position: two causes, two lines."""

    def __init__(self: Any, dim: int, factor: float = 1.0, *, key: Any) -> None:
        wrong_pools.set_scale(self, dim, key=key)

    with pytest.raises(ContractError, match=r"cannot be called(.|\n)*factor of Wrong must be keyword-only") as caught:
        check_pool(wrong_pools.pool(failing_call, init=__init__))
    assert str(caught.value).count("\n- ") == 2
