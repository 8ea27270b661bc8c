"""Several devices: how a state and its batches are divided over them."""

import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from ..nn import ParameterLabel, gather_arrays, is_shape, parameter_labels
from .objectives import Batch

_T = TypeVar("_T")

_AXES: Final = ("data", "fsdp")


def make_mesh(axes: str) -> Mesh:
    """Arranges devices for `fit`.

    !!! example

        ```python
        mesh = vitrail.train.make_mesh("data=2,fsdp=4")  # eight devices
        model = vitrail.train.fit(model, data, recipe, key=key, mesh=mesh)
        ```

    **Arguments:**

    - `axes`: the axes and their sizes. Each device computes its share of a batch, along both axes. Along `fsdp` the
        parameters, their mean and the state of the optimiser are divided, too; along `data` they are repeated.

    **Returns:**

    A mesh of the first devices, those of one host after those of another.

    **Raises:** `ValueError` if there is another axis or one is there twice, there are fewer devices, or some of those
    of several hosts are left out.
    """
    found = [re.fullmatch(rf"({'|'.join(_AXES)})=([1-9]\d*)", axis.strip()) for axis in axes.split(",")]
    sizes = {match[1]: int(match[2]) for match in found if match is not None}
    if len(sizes) != len(found):
        raise ValueError(f"mesh must have sizes of {' and '.join(_AXES)}, as 'data=2,fsdp=4', got {axes!r}")
    number, devices, hosts = math.prod(sizes.values()), jax.device_count(), jax.process_count()
    if number > devices or (hosts > 1 and number < devices):
        expected = f"all {devices} devices of the {hosts} hosts" if hosts > 1 else f"at most {devices} devices"
        raise ValueError(f"mesh must have {expected}, got {axes!r}, which has {number}")
    ordered = sorted(cast("list[Any]", jax.devices()), key=_number_device)[:number]
    places = np.asarray(ordered, object).reshape(*sizes.values())
    return Mesh(places, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def _number_device(device: Any) -> tuple[int, int]:
    return device.process_index, device.id


def find_share(mesh: Mesh | None) -> tuple[int, int]:
    """Which part of each batch this host loads, and how many parts there are.

    **Raises:** `ValueError` if the mesh has other axes, or the devices of a host are not side by side.
    """
    if mesh is None:
        return 0, 1
    if not set(mesh.axis_names) <= set(_AXES) or any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(
            f"mesh must have the axes {' and '.join(_AXES)} of the type Auto, got {mesh}: use vitrail.train.make_mesh"
        )
    owners: list[int] = [device.process_index for device in mesh.devices.flat]
    hosts = list(dict.fromkeys(owners))
    if owners != [host for host in hosts for _ in range(len(owners) // len(hosts))]:
        raise ValueError(
            f"mesh must have the devices of a host side by side, as many of each, got those of hosts {owners}: use "
            "vitrail.train.make_mesh"
        )
    return hosts.index(jax.process_index()), len(hosts)


def find_shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Says how the arrays of a state or a model are divided.

    An array with two axes or more, that of stacked blocks not counted, is divided along the widest of these axes that
    the size of `fsdp` divides. Vectors, as biases and norms, are whole on every device.

    **Arguments:**

    - `tree`: arrays, or their shapes.
    - `mesh`: the devices, or the numbers of them.

    **Returns:**

    The same tree with a sharding in place of each array, and `None` in place of other leaves.
    """
    size = mesh.shape.get("fsdp", 1)

    def find(leaf: Any, label: ParameterLabel | None) -> NamedSharding | None:
        if not eqx.is_array(leaf) and not is_shape(leaf):
            return None
        first = int(label is not None and label.stacked)
        axes = [axis for axis in range(first, leaf.ndim) if leaf.shape[axis] % size == 0]
        spec: list[str | None] = [None] * leaf.ndim
        if size > 1 and axes and leaf.ndim - first > 1:
            spec[max(axes, key=leaf.shape.__getitem__)] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return _map_labels(find, tree)


def constrain(tree: _T, mesh: Mesh) -> _T:
    """Within a compiled function: the tree, its arrays divided as `find_shardings` says."""
    return eqx.filter_shard(tree, find_shardings(tree, mesh))


def gather_loose(tree: _T) -> _T:
    """Within a mesh, the tree with its parameters whole on each device, but for those of stacked blocks, which the
    encoder gathers one after the other."""

    def gather(leaf: Any, label: ParameterLabel | None) -> Any:
        return leaf if label is None or label.stacked else gather_arrays(leaf)

    return _map_labels(gather, tree)


def _map_labels(function: Callable[[Any, ParameterLabel | None], Any], tree: Any) -> Any:
    """Applies a function to each leaf and its label, which is `None` for what is no parameter."""
    leaves, structure = cast("tuple[list[Any], Any]", jax.tree.flatten(tree, is_leaf=_is_none))
    labels: list[Any] = jax.tree.leaves(parameter_labels(tree), is_leaf=_is_none)
    return structure.unflatten([function(*pair) for pair in zip(leaves, labels, strict=True)])


def _is_none(node: object) -> bool:
    return node is None


def make_divided(mesh: Mesh, make: Callable[..., _T], *given: Any) -> _T:
    """Calls a function that returns a model or a state, whose arrays are divided from the start: no device ever holds
    them all.

    !!! example

        ```python
        model = vitrail.train.make_divided(mesh, lambda key: config.build(key=key), key)
        ```

    **Arguments:**

    - `mesh`: the devices.
    - `make`: a function that can be compiled.
    - `given`: its arguments, the same on each host.

    **Returns:**

    What it returns, divided as `find_shardings` says.
    """

    def put(leaf: Any, sharding: NamedSharding | None) -> Any:
        if sharding is None or (isinstance(leaf, jax.Array) and not leaf.is_fully_addressable):
            return leaf
        if eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # JAX cannot place keys over hosts
            numbers = jax.device_put(cast(Any, jax.random.key_data)(leaf), sharding)
            return cast(Any, jax.random).wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
        return jax.device_put(leaf, sharding)

    placed = jax.tree.map(put, given, find_shardings(given, mesh), is_leaf=_is_none)
    return cast(_T, _make(make, placed, mesh))


@eqx.filter_jit
def _make(make: Callable[..., Any], given: tuple[Any, ...], mesh: Mesh) -> Any:
    return constrain(make(*given), mesh)


def divide(whole: Shaped[np.ndarray, "batch ..."], mesh: Mesh) -> Shaped[Array, "batch ..."]:
    """An array that each host has, divided over all devices along its first axis."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)


def divide_batch(batch: Batch, mesh: Mesh) -> Batch:
    """**Arguments:**

    - `batch`: this host's part of each array, as `find_share` says. What is divided or traced stays as it is.
    - `mesh`: the devices.

    **Returns:**

    The arrays of the batch of all hosts, divided over all devices along their first axis.
    """
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

    def put(array: Any) -> Any:
        return array if _is_placed(array) else jax.make_array_from_process_local_data(sharding, np.asarray(array))

    return {name: put(array) for name, array in batch.items()}


def _is_placed(array: object) -> bool:
    return isinstance(array, Tracer) or find_mesh(array) is not None


def find_mesh(tree: Any) -> Mesh | None:
    """The mesh over which a model is divided; `None` if it is not."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding):
            return cast(Mesh, leaf.sharding.mesh)
    return None


def use_mesh(mesh: Mesh | None) -> AbstractContextManager[object]:
    """In this context, what is compiled gathers the blocks of an encoder where it needs them."""
    return nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def collect(tree: _T) -> _T:
    """Copies a model that is divided over devices to the memory of each host.

    **Arguments:**

    - `tree`: a model or a state, on each of several hosts.

    **Returns:**

    The same with NumPy arrays, as `vitrail.save` takes it.
    """

    def copy(leaf: Any) -> Any:
        return np.array(replicate(leaf)) if eqx.is_array(leaf) else leaf

    return jax.tree.map(copy, tree)


def replicate(array: Any) -> Any:
    """An array that is divided over devices, whole on each of them."""
    mesh = find_mesh(array)
    return array if mesh is None else jax.device_put(array, NamedSharding(mesh, PartitionSpec()))
