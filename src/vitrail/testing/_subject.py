"""The part that is checked, and how checks run."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from .._check import join_names
from .._extras import require
from .._registry import Registry
from .._tokens import Tokens

_T = TypeVar("_T")


class ContractError(AssertionError):
    """A part breaks its contract. The message has one line for each breach."""


@dataclass(frozen=True)
class Subject:
    """A part to check: how it is made, how it is called, and with what."""

    who: str
    """The part in words: `the pool MyPool`."""
    field: str
    """The field of a configuration that holds it: `pool`."""
    choice: Any
    """The part as it was given: a name, a `PartSpec`, a class or a `functools.partial`."""
    registry: Registry[Any, Any]
    """The registry of its kind."""
    context: Any
    """What it is built for."""
    inputs: Any
    """What it is called with: a PyTree of float32 arrays."""
    call: Callable[[Any, Any, PRNGKeyArray | None], Any]
    """Calls a part with inputs and a key, and returns a PyTree of arrays."""
    takes_key: bool
    """Whether a call takes a key."""
    config: dict[str, Any]
    """The fields of a configuration that goes with such a part."""

    def make(self, key: PRNGKeyArray) -> Any:
        """Makes the part."""
        return self.registry.build(self.choice, self.context, key=key)


Check = Callable[[Subject], Iterator[str]]
"""Yields a sentence for each breach that it finds."""

GRID: Final = (3, 2)
"""Rows and columns of patches."""

tree: Any = jax.tree
"""`jax.tree`, without types: nothing is known about the leaves here."""


@eqx.filter_jit
def run_compiled(call: Callable[..., Any], *args: Any) -> Any:
    """Calls a function under `jax.jit`."""
    return call(*args)


def find_breaches(subject: Subject, checks: Sequence[Check]) -> list[str]:
    """Returns the sentences of all checks. A check that raises is a breach itself."""
    found: list[str] = []
    raised: dict[str, list[str]] = {}  # for each error, the checks that raise it
    for check in checks:
        try:
            found += check(subject)
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            raised.setdefault(text, []).append(check.__name__.replace("_", " "))
    return found + [f"the check {join_names(names)} raised {text}" for text, names in raised.items()]


def check_contract(subject: Subject, checks: Sequence[Check]) -> None:
    """Raises a `ContractError` with every breach."""
    if found := find_breaches(subject, checks):
        lines = "\n".join(f"- {sentence}" for sentence in found)
        raise ContractError(f"{subject.who} breaks its contract:\n{lines}")


def make_test(make_subject: Callable[[], Subject], checks: Sequence[Check]) -> Callable[..., None]:
    """Returns a test for pytest with one case for each check."""
    pytest = require("pytest", extra="test")
    subject = functools.cache(make_subject)  # one for all checks, so that they share what they compile

    def test(check: Check) -> None:
        check_contract(subject(), [check])

    ids = [check.__name__ for check in checks]
    return cast("Callable[..., None]", pytest.mark.parametrize("check", checks, ids=ids)(test))


def randomise(make: Callable[[], _T], *, seed: int = 0, scale: float = 0.4) -> _T:
    """Makes a part or a model with random numbers in all floating-point arrays, so that no zero or one hides a mistake.

    **Arguments:**

    - `make`: makes a part or a model. It is traced and never run.
    - `seed`: of the random numbers.
    - `scale`: their standard deviation. The mean is zero.

    **Returns:**

    What `make` returns, with other numbers.
    """
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jnp.asarray(rng.normal(scale=scale, size=leaf.shape), leaf.dtype)

    return cast(_T, tree.map(draw, eqx.filter_eval_shape(make)))


def trace(call: Callable[..., Any], *args: Any) -> Any:
    """Returns what a call returns, with shapes and dtypes instead of arrays. Nothing is computed."""
    return cast(Any, eqx.filter_eval_shape)(call, *args)


def draw_part(subject: Subject, *, seed: int = 0) -> Any:
    """Makes the part with random parameters."""
    return randomise(lambda: subject.make(jax.random.key(0)), seed=seed)


def draw_array(*shape: int, seed: int = 0) -> Any:
    """Returns an array of normal numbers."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def draw_tokens(dim: int, grid: tuple[int, int], *, class_token: bool, num_registers: int) -> Tokens:
    """Returns tokens of normal numbers."""
    return Tokens(
        draw_array(grid[0] * grid[1], dim, seed=1),
        grid,
        class_token=draw_array(dim) if class_token else None,
        registers=draw_array(num_registers, dim, seed=2) if num_registers else None,
    )


def differ(actual: Any, expected: Any, tolerance: float) -> str | None:
    """Says how two PyTrees of arrays differ, relative to the largest number in the second; `None` if they do not."""
    if tree.structure(actual) != tree.structure(expected):
        return f"the structures are {tree.structure(actual)} and {tree.structure(expected)}"
    for one, other in zip(tree.leaves(actual), tree.leaves(expected), strict=True):
        a, e = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if a.shape != e.shape:
            return f"the shapes are {a.shape} and {e.shape}"
        if not np.array_equal(np.isfinite(a), np.isfinite(e)):
            return "only one of the two is finite"
        largest = float(np.max(np.abs(e[np.isfinite(e)]), initial=0.0))
        difference = float(np.max(np.abs(a - e)[np.isfinite(e)], initial=0.0))
        if difference > tolerance * max(largest, 1e-30):
            return f"the largest difference is {difference:.3g}, and the largest number {largest:.3g}"
    return None


def list_parameters(module: Any) -> dict[str, Any]:
    """Returns the arrays of a PyTree by their paths."""
    leaves = cast("list[tuple[Any, Any]]", jax.tree_util.tree_leaves_with_path(eqx.filter(module, eqx.is_array)))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if leaf.size}
