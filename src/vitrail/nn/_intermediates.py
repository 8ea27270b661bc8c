"""Named values inside a block, to be recorded or edited."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final, Literal, cast, final, get_args

import jax
from jaxtyping import Array, Float, Int

from .._check import join_names

_Names = Literal[
    "tokens",
    "queries",
    "keys",
    "values",
    "attention_weights",
    "attention_heads",
    "attention_branch",
    "mlp_hidden",
    "mlp_branch",
]

if TYPE_CHECKING:
    Intermediate = _Names
    """The type of the names in [`INTERMEDIATES`][vitrail.INTERMEDIATES], for annotations."""
else:
    Intermediate = str  # check_intermediates has a shorter error than a type checker

INTERMEDIATES: Final[tuple[Intermediate, ...]] = get_args(_Names)
"""The names of what can be recorded or edited in each block, with the shapes for one image:

- `"tokens"`: the tokens after the block, `(tokens, dim)`.
- `"queries"`, `"keys"`, `"values"`: those of the attention, after their norm and rotation, `(heads, tokens, head_dim)`.
- `"attention_weights"`: the softmax of the scores of each query (rows) and key (columns), `(heads, tokens, tokens)`, at
  least in float32. Rows sum to one.
- `"attention_heads"`: the output of each head before the projection, `(heads, tokens, head_dim)`.
- `"attention_branch"`, `"mlp_branch"`: what the two branches of the block add to the tokens, `(tokens, dim)`.
- `"mlp_hidden"`: the hidden layer of the MLP after its activation, `(tokens, mlp_dim)`.
"""

WITHIN_ATTENTION: Final[tuple[Intermediate, ...]] = (
    "queries",
    "keys",
    "values",
    "attention_weights",
    "attention_heads",
)
"""The names of what is inside the attention, which has one more axis, over heads."""

Edit = Callable[[Float[Array, "..."], Int[Array, ""]], Float[Array, "..."]]
"""Returns what an intermediate is replaced by, given its value and the number of the block, counted from zero. The
number may be traced: use `jnp.where(layer == 3, ..., value)` to edit one block."""


@final
class Tap:
    """Records and edits the intermediates of one block as they are computed.

    A block passes each of its intermediates through the tap, and goes on with what that returns.
    """

    def __init__(self, at: Collection[Intermediate], edit: Mapping[Intermediate, Edit], layer: Int[Array, ""] | None):
        """**Arguments:**

        - `at`: the names to record.
        - `edit`: a function for each name to edit.
        - `layer`: the number of the block; `None` if nothing is edited.
        """
        self.recorded: dict[Intermediate, Float[Array, ...]] = {}
        self._at = at
        self._edit = edit
        self._layer = layer

    def wants(self, name: Intermediate) -> bool:
        """Whether a name is recorded or edited."""
        return name in self._at or name in self._edit

    def __call__(self, name: Intermediate, value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """**Arguments:**

        - `name`: of the intermediate.
        - `value`: as it was computed.

        **Returns:**

        The value to go on with.

        **Raises:** `ValueError` if an edit returns another shape or dtype.
        """
        if name in self._edit:
            edited = cast(object, self._edit[name](value, cast(Array, self._layer)))
            if not isinstance(edited, jax.Array):
                raise ValueError(f"the edit of {name!r} must return an array, got {type(edited).__name__}")
            if edited.shape != value.shape or edited.dtype != value.dtype:
                raise ValueError(
                    f"the edit of {name!r} must return shape {value.shape} and dtype {value.dtype}, got "
                    f"{edited.shape} and {edited.dtype}: keep both, for instance with value.at[...].set(...)"
                )
            value = edited
        if name in self._at:
            self.recorded[name] = value
        return value


NO_TAP: Final = Tap((), {}, None)
"""Records and edits nothing."""


def check_intermediates(at: Collection[str], edit: Collection[str]) -> None:
    """Raises a `ValueError` for a name that no intermediate has."""
    if isinstance(at, str):
        raise ValueError(f"at must be a sequence of names, got {at!r}: pass ({at!r},)")
    names = [*at, *edit]
    if unknown := [name for name in names if name not in INTERMEDIATES]:
        raise ValueError(f"no intermediate is called {join_names(unknown)}: use {join_names(INTERMEDIATES)}")
