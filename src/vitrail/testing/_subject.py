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
from ..nn import FrozenBatchNorm

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
    of_width: "Callable[[int], Subject]"
    """The same part for another width."""

    def make(self, key: PRNGKeyArray) -> Any:
        """Makes the part."""
        return self.registry.build(self.choice, self.context, key=key)

    @functools.cached_property
    def made(self) -> Any:
        """The part as it is made with one key."""
        return self.make(jax.random.key(0))

    @functools.cached_property
    def outline(self) -> Any:
        """The part with shapes and dtypes in place of arrays."""
        return trace(self.make, jax.random.key(0))


Check = Callable[[Subject], Iterator[str]]
"""Yields a sentence for each breach that it finds."""

GRID: Final = (3, 2)
"""Rows and columns of patches."""
GRIDS: Final = ((1, 1), (1, 7), (7, 1), (12, 12))
"""Other grids: of one patch, flat, tall, and a square of more patches than eight bits count."""

tree: Any = jax.tree
"""`jax.tree`, without types: nothing is known about the leaves here."""


@eqx.filter_jit
def run_compiled(call: Callable[..., Any], *args: Any) -> Any:
    """Calls a function under `jax.jit`."""
    return call(*args)


def to_host(values: Any) -> Any:
    """A PyTree with NumPy's arrays. What is only compared or rearranged needs no program for each of its shapes."""
    return tree.map(_get_array, values)


def _get_array(leaf: Any) -> Any:
    return np.asarray(leaf) if eqx.is_array(leaf) else leaf


def to_device(values: Any) -> Any:
    """A PyTree with JAX's arrays in place of NumPy's."""
    return tree.map(_put_array, values)


def _put_array(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf


def to_bfloat16(values: Any) -> Any:
    """A PyTree with all its floating-point arrays in bfloat16."""

    def narrow(leaf: Any) -> Any:
        return jnp.asarray(np.asarray(leaf).astype(jnp.bfloat16)) if eqx.is_inexact_array(leaf) else leaf

    return tree.map(narrow, values)


def are_equal(one: Any, other: Any) -> bool:
    """Whether two PyTrees have the same structure and the same numbers."""
    return bool(eqx.tree_equal(to_host(one), to_host(other)))


def find_obstacle(subject: Subject) -> str | None:
    """Says why the part cannot be built or called; `None` if it can."""
    try:
        part = subject.made
    except Exception as error:
        return f"it cannot be built: {describe_error(error)}"
    try:
        subject.call(part, subject.inputs, None)
    except Exception as error:
        return f"it cannot be called: {describe_error(error)}"
    return None


def describe_error(error: Exception) -> str:
    """The kind of an error and its message, on one line: those of a type checker and of JAX fill pages."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def find_breaches(subject: Subject, checks: Sequence[Check], obstacle: str | None) -> list[str]:
    """Returns the sentences of all checks. A check that raises is a breach itself.

    If there is an obstacle, what the checks raise has the same cause, and only the first check has a line for it.
    """
    found: list[str] = []
    raised: dict[str, list[str]] = {}  # for each error, the checks that raise it
    for check in checks:
        try:
            for sentence in check(subject):
                found.append(sentence)
        except Exception as error:
            raised.setdefault(describe_error(error), []).append(check.__name__.replace("_", " "))
    if obstacle is not None:
        return found
    return found + [f"the check {_join_first(names)} raised {text}" for text, names in raised.items()]


def _join_first(names: list[str]) -> str:
    more = len(names) - 3
    return join_names(names) if more <= 0 else f"{join_names(names[:3])} and {more} more"


def check_contract(subject: Subject, checks: Sequence[Check]) -> None:
    """Raises a `ContractError` with every breach."""
    _raise_breaches(subject, find_breaches(subject, checks, find_obstacle(subject)))


def _raise_breaches(subject: Subject, found: list[str]) -> None:
    if found:
        lines = "\n".join(f"- {sentence}" for sentence in dict.fromkeys(found))
        raise ContractError(f"{subject.who} breaks its contract:\n{lines}")


def make_test(make_subject: Callable[[], Subject], checks: Sequence[Check]) -> Callable[..., None]:
    """Returns a test for pytest with one case for each check.

    If the part cannot be built or called, the first case fails, and those that cannot run are skipped.
    """
    pytest = require("pytest", extra="test")
    subject = functools.cache(make_subject)  # one for all checks, so that they share what they compile
    obstacle = functools.cache(lambda: find_obstacle(subject()))

    def test(check: Check) -> None:
        found = find_breaches(subject(), [check], obstacle())
        _raise_breaches(subject(), found)
        if obstacle() is not None:
            pytest.skip(f"{subject().who} cannot be checked: {obstacle()}")

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
    return cast(_T, _fill_randomly(trace(make), seed, scale))


def _fill_randomly(outline: Any, seed: int, scale: float) -> Any:
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> Any:
        if isinstance(leaf, FrozenBatchNorm):
            return eqx.tree_at(_get_variance, tree.map(draw, leaf), replace_fn=jnp.abs)
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jnp.asarray(rng.normal(scale=scale, size=leaf.shape).astype(leaf.dtype))

    return tree.map(draw, outline, is_leaf=_has_statistics)


def _get_variance(norm: Any) -> Any:
    return norm.variance


def _has_statistics(node: object) -> bool:
    return isinstance(node, FrozenBatchNorm)


def list_statistics(part: Any) -> set[str]:
    """The paths of the arrays that no gradient reaches: means and variances of batches."""
    nodes = cast("list[tuple[Any, Any]]", jax.tree_util.tree_leaves_with_path(part, is_leaf=_has_statistics))
    return {
        f"{jax.tree_util.keystr(path)}.{name}"
        for path, node in nodes
        if _has_statistics(node)
        for name in ("mean", "variance")
    }


def trace(call: Callable[..., Any], *args: Any) -> Any:
    """Returns what a call returns, with shapes and dtypes instead of arrays. Nothing is computed."""
    return cast(Any, eqx.filter_eval_shape)(call, *args)


def draw_part(subject: Subject, *, seed: int = 0, scale: float = 0.4) -> Any:
    """Makes the part with random parameters."""
    return _fill_randomly(subject.outline, seed, scale)


def draw_array(*shape: int, seed: int = 0) -> Any:
    """Returns an array of normal numbers."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def draw_tokens(dim: int, grid: tuple[int, int], *, class_token: bool, num_registers: int, seed: int = 0) -> Tokens:
    """Returns tokens of normal numbers."""
    return Tokens(
        draw_array(grid[0] * grid[1], dim, seed=seed + 1),
        grid,
        class_token=draw_array(dim, seed=seed) if class_token else None,
        registers=draw_array(num_registers, dim, seed=seed + 2) if num_registers else None,
    )


def redraw(inputs: Any, *, seed: int) -> Any:
    """Returns other normal numbers of the same shapes."""
    leaves, structure = tree.flatten(inputs)
    return tree.unflatten(structure, [draw_array(*x.shape, seed=seed + i) for i, x in enumerate(leaves)])


def is_finite(*arrays: Any) -> bool:
    """Whether all floating-point numbers of some PyTrees are finite."""
    return all(np.all(np.isfinite(np.asarray(x, np.float64))) for x in tree.leaves(arrays))


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
