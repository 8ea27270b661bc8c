"""Checkpoints of a run: written in the background, complete or absent, and checked when they are read."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import jax
import jax.numpy as jnp
import numpy as np

from .._extras import require
from ..nn import list_arrays, name_leaf
from ..weights import CheckpointError
from ._digest import digest_divided
from ._mesh import find_mesh
from ._state import TrainState

_ARRAYS: Final = "arrays"
_FACTS: Final = "facts"
_SYSTEM_ERROR: Final = re.compile(r"os_error_code='(\d+)'")


class Checkpoints:
    """The checkpoints of a run in a folder, the last few of them. Of several hosts each writes its part to one folder,
    and all call each method."""

    def __init__(self, folder: Path, *, keep: int = 2):
        """**Arguments:**

        - `folder`: where they are; it is made.
        - `keep`: how many stay.

        **Raises:** `MissingExtraError` if orbax is not installed.
        """
        orbax = require("orbax.checkpoint", extra="train")
        options = orbax.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._folder = folder
        self._args = orbax.args
        self._manager = orbax.CheckpointManager(folder.resolve(), options=options)

    def close(self) -> None:
        """Waits for what is being written, and ends the threads that write.

        **Raises:** `CheckpointError` if it could not be written.
        """
        try:
            self._manager.close()
        except Exception as error:
            raise self.explain(error, self._folder) from error

    @property
    def last(self) -> int | None:
        """The number of steps of the last complete checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Saves a state in the background. A checkpoint of the same step stays as it is.

        **Arguments:**

        - `state`: its arrays are copied before this returns.

        **Raises:** `CheckpointError` if this or the one before could not be written.
        """
        step = int(state.step)
        if step == self.last:
            return
        arrays = {name: _copy(_strip_key(array)) for name, array in list_arrays(state).items()}
        digests = digest_divided(arrays)
        facts = {name: [*_describe(array), digests[name]] for name, array in arrays.items()}
        try:
            self._manager.wait_until_finished()
            self._manager.save(
                step,
                args=self._args.Composite(
                    **{_ARRAYS: self._args.StandardSave(arrays), _FACTS: self._args.JsonSave(facts)}
                ),
            )
        except Exception as error:
            raise self.explain(error, self._folder) from error

    def wait(self) -> None:
        """Waits until all is on the disk.

        **Raises:** `CheckpointError` if it could not be written.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self.explain(error, self._folder) from error

    def restore(self, like: TrainState) -> TrainState:
        """Reads the last checkpoint.

        **Arguments:**

        - `like`: a state of the same run, as `Training.start` makes it.

        **Returns:**

        The state, equal to the bit, and divided as `like` is: a run can go on with another number of devices. `like`,
        if there is no checkpoint.

        **Raises:** `CheckpointError` if it has other arrays, or one of them is not what was written.
        """
        step = self.last
        if step is None:
            return like
        wanted = {name: _strip_key(array) for name, array in list_arrays(like).items()}
        place = self._folder / str(step)
        facts = self._read(step, _FACTS, self._args.JsonRestore())
        expected = {name: _describe(array) for name, array in wanted.items()}
        found = {name: list(fact)[:2] for name, fact in facts.items()}
        if found != expected:
            names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            raise CheckpointError(
                f"{place} must have the arrays of this run, got others, the first of them {names[0]!r}: it is "
                f"{found.get(names[0], 'missing')} there and {expected.get(names[0], 'missing')} here"
            )
        empty = {name: _make_empty(array) for name, array in wanted.items()}
        arrays = self._read(step, _ARRAYS, self._args.StandardRestore(empty))
        for name, digest in digest_divided(arrays).items():
            if digest != facts[name][2]:
                raise CheckpointError(f"{place} is damaged: {name!r} is not what was written. {self._advise(step)}")
        return _fill(like, arrays)

    def _read(self, step: int, item: str, arguments: Any) -> Mapping[str, Any]:
        try:
            return self._manager.restore(step, args=self._args.Composite(**{item: arguments}))[item]
        except Exception as error:
            raise CheckpointError(
                f"{self._folder / str(step)} is damaged: {str(error).splitlines()[0][:200]}. {self._advise(step)}"
            ) from error

    def _advise(self, step: int) -> str:
        others = [other for other in self._manager.all_steps() if other != step]
        return f"Remove that folder to go on from step {max(others, default=0)}"

    def describe(self) -> str:
        """Says which checkpoint is complete, for an error."""
        return "no checkpoint is complete" if self.last is None else f"the checkpoint of step {self.last} is complete"

    def explain(self, error: Exception, path: Path) -> CheckpointError:
        """**Arguments:**

        - `error`: that a file could not be written.
        - `path`: where.

        **Returns:**

        An error that says what is left.
        """
        text = str(error) or type(error).__name__
        code = _SYSTEM_ERROR.search(text)  # of orbax's, at the end of a long message
        reason = os.strerror(int(code[1])) if code else text.splitlines()[0][:200]
        return CheckpointError(f"{path} cannot be written: {reason}; {self.describe()}, and the run goes on from it")


def _copy(array: Any) -> Any:
    """An array that stays when the next step reuses the memory of the state. Orbax copies one that is divided from the
    devices, except where they have the memory of the host."""
    if find_mesh(array) is None:
        return np.array(array)
    return jnp.copy(array) if jax.default_backend() == "cpu" else array


def _make_empty(array: Any) -> Any:
    """What an array is read into."""
    if find_mesh(array) is None:
        return np.empty(array.shape, array.dtype)
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def _strip_key(leaf: Any) -> Any:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return cast(Any, jax.random.key_data)(leaf) if is_key else leaf


def _fill(like: TrainState, arrays: Mapping[str, Any]) -> TrainState:
    def fill(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        array = jnp.asarray(arrays[name_leaf(path)])
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return cast(Any, jax.random).wrap_key_data(array, impl=jax.random.key_impl(leaf))
        return array

    return cast(TrainState, jax.tree_util.tree_map_with_path(fill, like))


def _describe(array: Any) -> list[Any]:
    """Shape and dtype, as JSON has them."""
    return [list(array.shape), str(array.dtype)]
