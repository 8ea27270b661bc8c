"""What a training step of ViT-g/14 takes on many devices, from XLA: the table on the page on devices.

Nothing is allocated and no step is run: XLA compiles the step for 512 devices that it is told to simulate on this
machine, and says what memory each needs. The bytes that a device receives are those of the collective operations in the
compiled program, a loop counted as often as it runs: `(n - 1) / n` of what it gathers among `n` devices, and twice that
of what it sums, as in a ring.
"""

import dataclasses
import math
import os
import re
from collections.abc import Iterator
from typing import Any

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=512"

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

import vitrail
from vitrail import images, train

ROWS = (
    ("1", None),
    ("8", "data=8"),
    ("8", "fsdp=8"),
    ("64", "data=8,fsdp=8"),
    ("64", "fsdp=64"),
    ("512", "data=64,fsdp=8"),
    ("512", "data=8,fsdp=64"),
)
EACH = 4
"""The number of images of a device."""
RECIPE = train.Recipe(average=0.9999, augmentation=images.Augmentation())
PREPROCESS = images.Preprocess("cover", "bicubic", (0.5,) * 3, (0.5,) * 3)
_COLLECTIVE = re.compile(r" = (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
_SHAPE = re.compile(r"\b(pred|[a-z]+)(\d*)\[([\d,]*)\]")


def compile_step(axes: str | None) -> Any:
    """The compiled step on a mesh."""
    mesh = None if axes is None else train.make_mesh(axes)
    number = EACH if mesh is None else EACH * mesh.size
    recipe = dataclasses.replace(RECIPE, batch_size=number)
    training = train.Training(train.make_objective(recipe, PREPROCESS), recipe, 100, mesh)
    alone = train.Training(training.objective, recipe, 100)

    def begin(key: Any) -> train.TrainState:
        return alone.start(vitrail.vit("g/14", num_classes=1000, key=key), key=key)

    state = eqx.filter_eval_shape(begin, jax.random.key(0))
    shapes = {"image": ((number, 224, 224, 3), jnp.uint8), "label": ((number,), jnp.int32)}
    batch = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}
    if mesh is not None:
        state = jax.tree.map(place, state, train.find_shardings(state, mesh), is_leaf=lambda leaf: leaf is None)
        rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        batch = {name: place(shape, rows) for name, shape in batch.items()}
    arrays, rest = eqx.partition(state, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def step(arrays: Any, batch: Any) -> Any:
        state, metrics = training.step(eqx.combine(arrays, rest), batch)
        return eqx.filter(state, eqx.is_array), metrics

    return jax.jit(step, donate_argnums=0).lower(arrays, batch).compile()


def place(leaf: Any, sharding: Any) -> Any:
    return leaf if sharding is None else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def list_moves(text: str, loops: int = 40) -> Iterator[tuple[str, float]]:
    """The kind of each collective operation, and the bytes that a device receives."""
    for line in text.splitlines():
        if match := _COLLECTIVE.search(line):
            group = count_group(line)
            size = sum(count_bytes(*shape) for shape in _SHAPE.findall(match[1]))
            times = loops if re.search(r'op_name="[^"]*while', line) else 1
            factor = (2 if match[2] == "all-reduce" else 1) * (group - 1) / group if group else 1
            yield match[2], size * factor * times


def count_group(line: str) -> int:
    """Among how many devices: `replica_groups=mesh['a'=8,'b'=64] {'b'}`, a part of an axis, or `[8,64]<=[512]`; 0 where
    each sends to one other."""
    if "source_target_pairs" in line:
        return 0
    if match := re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    match = re.search(r"replica_groups=\[\d+,(\d+)\]", line)
    assert match is not None, line
    return int(match[1])


def count_bytes(kind: str, bits: str, shape: str) -> int:
    number = 1
    for length in filter(None, shape.split(",")):
        number *= int(length)
    return number * (int(bits or 8) // 8)


def main() -> None:
    """Prints the table."""
    print("| devices | mesh | state | whole step | gathered | summed | other |")
    print("|---|---|---|---|---|---|---|")
    for number, axes in ROWS:
        compiled = compile_step(axes)
        memory = compiled.memory_analysis()
        moved = {"all-gather": 0.0, "all-reduce": 0.0, "other": 0.0}
        for kind, size in list_moves(compiled.as_text()):
            moved[kind if kind in moved else "other"] += size
        peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        sizes = (memory.alias_size_in_bytes, peak, *moved.values())
        print(
            f"| {number} | {f'`{axes}`' if axes else 'none'} | {' | '.join(f'{x / 1e9:.2f}' for x in sizes)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
