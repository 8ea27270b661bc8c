"""What is checked, how checks are run, and what is said of those that fail."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from .._check import listed
from .._extras import require
from .._registry import PartSpec, Registry
from .._tokens import Tokens

_T = TypeVar("_T")


class ContractError(AssertionError):
    """A part that breaks its contract. The message has one sentence for each breach."""


@dataclass(frozen=True)
class Subject:
    """A part to check: how it is made and called, and what it is called with."""

    who: str
    """What it is, for sentences: `the pool MyPool`."""
    field: str
    """The field of a configuration that it fills: `pool`."""
    choice: Any
    """As it was given: a name, a `PartSpec`, a class or a `functools.partial`."""
    registry: Registry[Any]
    """Of its kind."""
    abstract: type
    """What it has to extend."""
    make: Callable[[PRNGKeyArray], Any]
    """A part, from a key."""
    inputs: Any
    """Of a call: a PyTree of float32 arrays."""
    call: Callable[[Any, Any, PRNGKeyArray | None], Any]
    """Of the part, the inputs and a key: a PyTree of arrays."""
    takes_key: bool
    """Whether a call takes a key at all."""
    config: dict[str, Any]
    """The fields of a configuration that such a part fits."""


Check = Callable[[Subject], Iterator[str]]
"""Gives a sentence for each breach that it finds."""

tree: Any = jax.tree
"""`jax.tree`, of whose leaves nothing is known here."""


@eqx.filter_jit
def run_compiled(call: Callable[..., Any], *args: Any) -> Any:
    """A call, compiled."""
    return call(*args)


def breaches(subject: Subject, checks: Sequence[Check]) -> list[str]:
    """The sentences of all checks. One that raises is a breach itself."""
    found: list[str] = []
    raised: dict[str, list[str]] = {}  # what was said, and by which checks
    for check in checks:
        try:
            found += check(subject)
        except Exception as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            raised.setdefault(said, []).append(check.__name__.replace("_", " "))
    return found + [f"when it was checked for {listed(names)} it raised {said}" for said, names in raised.items()]


def check_all(subject: Subject, checks: Sequence[Check]) -> None:
    """Raises a `ContractError` with every breach."""
    if found := breaches(subject, checks):
        lines = "\n".join(f"- {sentence}" for sentence in found)
        raise ContractError(f"{subject.who} breaks its contract:\n{lines}")


def as_test(make_subject: Callable[[], Subject], checks: Sequence[Check]) -> Callable[..., None]:
    """A test for pytest with one case for each check."""
    pytest = require("pytest", extra="test")
    subject = functools.cache(make_subject)  # one for all checks, which then share what they compile

    def test(check: Check) -> None:
        check_all(subject(), [check])

    ids = [check.__name__ for check in checks]
    return cast("Callable[..., None]", pytest.mark.parametrize("check", checks, ids=ids)(test))


def name_of(choice: str | PartSpec | Callable[..., object]) -> str:
    """What a choice is called in a sentence."""
    if isinstance(choice, str):
        return repr(choice)
    if isinstance(choice, PartSpec):
        return f"{choice.name}({', '.join(f'{option}={value!r}' for option, value in choice.options)})"
    inner = getattr(choice, "func", choice)  # of a functools.partial
    return getattr(inner, "__name__", repr(inner))


def randomised(make: Callable[[], _T], *, seed: int = 0, scale: float = 0.4) -> _T:
    """What a function makes, with every floating-point array drawn anew: so that nothing hides behind zeros and ones.

    **Arguments:**

    - `make`: makes a part or a model. It is traced and never run.
    - `seed`: of the draws.
    - `scale`: their standard deviation; the mean is zero.

    **Returns:**

    The same with other numbers.
    """
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jnp.asarray(rng.normal(scale=scale, size=leaf.shape), leaf.dtype)

    return cast(_T, tree.map(draw, eqx.filter_eval_shape(make)))


def shape_of(call: Callable[..., Any], *args: Any) -> Any:
    """What a call gives, with shapes and dtypes for its arrays. Nothing is computed."""
    return cast(Any, eqx.filter_eval_shape)(call, *args)


def random_part(subject: Subject, *, seed: int = 0) -> Any:
    """The part with random parameters."""
    return randomised(lambda: subject.make(jax.random.key(0)), seed=seed)


def random_array(*shape: int, seed: int = 0) -> Any:
    """Normal numbers."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def random_tokens(dim: int, grid: tuple[int, int], *, class_token: bool, num_registers: int) -> Tokens:
    """Tokens of normal numbers."""
    return Tokens(
        random_array(grid[0] * grid[1], dim, seed=1),
        grid,
        class_token=random_array(dim) if class_token else None,
        registers=random_array(num_registers, dim, seed=2) if num_registers else None,
    )


def differ(actual: Any, expected: Any, tolerance: float) -> str | None:
    """How two PyTrees of arrays differ, relative to the largest number in the second; `None` where they do not."""
    if tree.structure(actual) != tree.structure(expected):
        return f"the structures are {tree.structure(actual)} and {tree.structure(expected)}"
    for one, other in zip(tree.leaves(actual), tree.leaves(expected), strict=True):
        a, e = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if a.shape != e.shape:
            return f"the shapes are {a.shape} and {e.shape}"
        if not np.array_equal(np.isfinite(a), np.isfinite(e)):
            return "one is finite where the other is not"
        largest = float(np.max(np.abs(e[np.isfinite(e)]), initial=0.0))
        difference = float(np.max(np.abs(a - e)[np.isfinite(e)], initial=0.0))
        if difference > tolerance * max(largest, 1e-30):
            return f"the largest difference is {difference:.3g}, the largest number {largest:.3g}"
    return None


def parameters(module: Any) -> dict[str, Any]:
    """The arrays of a tree by their paths, those without elements left out."""
    leaves = cast("list[tuple[Any, Any]]", jax.tree_util.tree_leaves_with_path(eqx.filter(module, eqx.is_array)))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if leaf.size}
