"""How a contender is run: once for all libraries of JAX, once for those of PyTorch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from cases import LEARNING_RATE, WEIGHT_DECAY, Case


class Program(NamedTuple):
    """A contender, ready to be called."""

    place: Callable[[np.ndarray, np.ndarray], Any]
    """Puts images (channels last) and labels where and how the library wants them."""
    run: Callable[[Any], Any]
    """One forward pass, which gives the logits, or one training step, which gives the loss; over when it returns."""


def jax_program(
    case: Case,
    model: Any,
    forward: Callable[[Any, Any], Any],
    step: Callable[[Any, Any, Any, Any], tuple[Any, Any, Any]],
    state: Any,
    *,
    channels_first: bool = False,
) -> Program:
    """`forward(model, images)` gives logits, `step(model, state, images, labels)` a model, a state and a loss."""
    import jax

    held = [model, state]

    def place(images: np.ndarray, labels: np.ndarray) -> Any:
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if channels_first else images
        return jax.block_until_ready(jax.device_put((images, labels)))

    def run(placed: Any) -> Any:
        images, labels = placed
        if case.mode == "forward":
            return jax.block_until_ready(forward(held[0], images))
        *held[:], loss = step(*held, images, labels)
        return jax.block_until_ready((loss, held))[0]

    return Program(place, run)


def cross_entropy(logits: Any, labels: Any) -> Any:
    """The mean loss, as optax has it."""
    import jax.numpy as jnp
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()


def adamw() -> Any:
    """The optimiser of all JAX contenders."""
    import optax

    return optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)


def in_dtype(model: Any, dtype: str) -> Any:
    """The model with its arrays in the dtype to compute in; what is trained stays in float32."""
    import equinox as eqx
    import jax

    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, model)


def equinox_program(
    case: Case, model: Any, apply: Callable[..., Any], *, lose: Callable[..., Any] | None = None, **options: Any
) -> Program:
    """An Equinox model, run as Equinox's documentation does; `apply(model, image)` gives the logits of one. The loss is
    their cross-entropy, or `lose(model, images, labels)`."""
    import equinox as eqx
    import jax

    optimiser = adamw()

    def logits_of(model: Any, images: Any) -> Any:
        return jax.vmap(lambda image: apply(model, image))(images)

    def classify(model: Any, images: Any, labels: Any) -> Any:
        return cross_entropy(logits_of(model, images), labels)

    @eqx.filter_jit(donate="all")
    def step(model: Any, state: Any, images: Any, labels: Any) -> tuple[Any, Any, Any]:
        loss, gradient = eqx.filter_value_and_grad(lose or classify)(model, images, labels)
        updates, state = optimiser.update(gradient, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, loss

    state = optimiser.init(eqx.filter(model, eqx.is_inexact_array)) if case.mode != "forward" else None
    return jax_program(case, model, eqx.filter_jit(logits_of), step, state, **options)


def torch_program(case: Case, model: Any, *, compiled: bool) -> Program:
    """A PyTorch module that takes images, channels first, and gives logits; that of MAE gives its loss."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).train(case.mode != "forward")
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    half = torch.autocast(device.type, torch.bfloat16, enabled=case.dtype == "bfloat16")
    classify = torch.compile(model) if compiled else model

    def place(images: np.ndarray, labels: np.ndarray) -> Any:
        channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return torch.from_numpy(channels_first).to(device), torch.from_numpy(labels).long().to(device)

    def finished(result: Any) -> Any:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return result

    def run(placed: Any) -> Any:
        images, labels = placed
        if case.mode == "forward":
            with torch.inference_mode(), half:
                return finished(classify(images))
        optimiser.zero_grad(set_to_none=True)
        with half:
            out = classify(images).float()
            loss = out if case.mode == "mae" else torch.nn.functional.cross_entropy(out, labels)
        loss.backward()
        optimiser.step()
        return finished(loss.detach())

    return Program(place, run)
