"""What a model costs on this machine."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from ..model import ViT, ViTConfig
from ..weights import model_card
from ._candidates import PoolChoice, find_block
from ._probe import Probe, Standard, classify_batch, compute_features, is_settled, make_probe
from ._tokens import SequenceForm, run_layers

_BATCH: Final = 8
_CALLS: Final = 5
_SECONDS: Final = 2.0
"""After so many seconds a call is not repeated."""
_READOUT_BATCH: Final = 50
_READOUT_CALLS: Final = 30


@dataclass(frozen=True)
class Cost:
    """What a backbone costs up to one block."""

    milliseconds: float
    """The time for an image, in batches of 8: the median of repeated calls."""
    flops: int
    """The floating-point operations of the matrix products for an image, counted as by `ModelCard.flops`."""
    memory: int
    """The bytes of the weights, the images and all that is computed between, of a batch of 8, as the compiler says."""


def measure_backbone(model: ViT, layer: int) -> Cost:
    """Measures a backbone up to one block; the blocks after it do not run."""

    def run(model: ViT, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch layers tokens dim"]:
        def run_one(image: Float[Array, "height width channels"]) -> Float[Array, "layers tokens dim"]:
            return run_layers(model, image, (layer,))

        return jax.vmap(run_one)(images)

    images = jnp.zeros((_BATCH, *model.config.image_size, model.config.channels))
    compiled = cast(Any, eqx.filter_jit(run)).lower(model, images).compile()
    memory = compiled.compiled.memory_analysis()
    _, seconds = _time(lambda: compiled(model, images), _CALLS)
    sizes = (memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes)
    return Cost(1e3 * seconds / _BATCH, count_flops(model, layer), sum(sizes))


def count_flops(model: ViT, layer: int) -> int:
    """The floating-point operations of the matrix products up to one block."""
    config, depth = model.config, find_block(model, layer) + 1
    windows = config.windows
    if windows is not None:
        inside = tuple(block for block in windows.global_blocks if block < depth)
        windows = dataclasses.replace(windows, global_blocks=inside)
    config = dataclasses.replace(config, size=dataclasses.replace(config.size, depth=depth), windows=windows)
    return model_card(cast(ViT, eqx.filter_eval_shape(config.build, key=jax.random.key(0)))).flops


def measure_readout(probe: Probe, sequences: Float32[np.ndarray, "images tokens dim"]) -> float:
    """The milliseconds of a pool and its head for an image, in batches of 50: the median of repeated calls."""
    batch = jnp.asarray(sequences[:_READOUT_BATCH])
    return 1e3 * _time(lambda: classify_batch(probe, batch), _READOUT_CALLS)[1] / len(batch)


def time_probe(
    config: ViTConfig,
    choice: PoolChoice,
    form: SequenceForm,
    sequences: Float32[np.ndarray, "images tokens dim"],
    num_classes: int,
) -> tuple[float, float, float]:
    """The seconds in which a fresh pool and head are compiled, in which they classify an image, and in which they do so
    in training: by the head alone, if the pool is computed once."""
    readout = make_probe(config, choice, num_classes, key=jax.random.key(0))
    features = compute_features(readout, sequences, form)
    probe, batch = Probe(readout, Standard(features), form), jnp.asarray(sequences)
    compiled, whole = _time(lambda: classify_batch(probe, batch), _CALLS)
    if not is_settled(readout, form, sequences[0]):
        return compiled, whole / len(batch), whole / len(batch)
    head, pooled = Probe(readout.head, probe.standard, None), jnp.asarray(features)
    return compiled, whole / len(batch), _time(lambda: classify_batch(head, pooled), _CALLS)[1] / len(batch)


def _time(call: Callable[[], Array], calls: int) -> tuple[float, float]:
    """The seconds of the first call, which compiles, and the median of those after it."""
    seconds: list[float] = []
    while (len(seconds) <= calls and sum(seconds[1:]) < _SECONDS) or len(seconds) < 2:
        started = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - started)
    return seconds[0], statistics.median(seconds[1:])
