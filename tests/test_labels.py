"""What each array of a model is, and that optimisers which use it treat stacked blocks as separate ones."""

from operator import attrgetter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import builtins, small_config, small_model
from optax import contrib

import vitrail
from vitrail import POOLS, POSITIONS

KEY = jax.random.key(0)


def labels_of(model: Any) -> dict[str, vitrail.ParameterLabel]:
    labels = jax.tree_util.tree_leaves_with_path(vitrail.parameter_labels(model))
    return {jax.tree_util.keystr(path, simple=True, separator="."): label for path, label in labels}


def is_matrix(parameters: Any) -> Any:
    return jax.tree.map(lambda label: label.kind == "matrix", vitrail.parameter_labels(parameters))


def outline(**changes: Any) -> vitrail.ViT:
    return eqx.filter_eval_shape(small_config(**changes).build, key=KEY)


def test_every_array_of_a_model_has_its_kind():
    labels = labels_of(
        outline(
            pool="attention",
            class_token=True,
            num_registers=2,
            patch="conv_stem",
            encoder=vitrail.EncoderOptions(layer_scale=0.1, qk_norm=True, pre_norm=True),
        )
    )
    for name, label in labels.items():
        *path, field = name.split(".")
        if "position" in path:
            expected = "position"
        elif any("norm" in part for part in path):
            expected = "norm"
        elif field in ("class_token", "registers", "queries"):
            expected = "token"
        elif field.startswith("scale"):
            expected = "other"
        else:
            expected = "bias" if field == "bias" else "matrix"
        assert label.kind == expected, name
        assert label.stacked == ("stack" in path), name
        last = small_config().size.depth + 1
        layers = tuple(range(1, last)) if label.stacked else (0,)
        if name.startswith(("readout", "backbone.norm")):
            layers = (last,)
        assert label.layers == layers, name
    assert {label.kind for label in labels.values()} == {"position", "norm", "token", "other", "bias", "matrix"}


@pytest.mark.parametrize(
    "change", [{"pool": p} for p in builtins(POOLS)] + [{"position": p} for p in builtins(POSITIONS)]
)
def test_a_matrix_has_two_axes_or_more_and_a_position_is_named_so(change: dict[str, Any]):
    model = outline(**change)
    shapes = jax.tree.leaves(eqx.filter(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)))
    labels = labels_of(model)
    assert len(labels) == len(shapes)
    for (name, label), shape in zip(labels.items(), shapes, strict=True):
        assert (label.kind == "matrix") == (name.endswith((".weight", ".kernels")) and "norm" not in name), name
        if label.kind == "matrix":
            assert len(shape.shape) >= 2 + label.stacked
        assert (label.kind == "position") == name.startswith("backbone.position")
    if change.get("pool") in ("weighted", "gem", "lse"):
        assert {label.kind for name, label in labels.items() if name.startswith("readout.pool")} == {"other"}


def test_relative_positions_belong_to_their_blocks():
    windows = vitrail.WindowOptions(size=3, global_blocks=(1,), relative_grid=(4, 5))
    labels = labels_of(outline(windows=windows, neck_dim=8))
    label = vitrail.ParameterLabel
    assert labels["backbone.encoder.window_positions.rows"] == label("position", (1,), True)
    assert labels["backbone.encoder.global_positions.cols"] == label("position", (2,), True)
    assert labels["backbone.encoder.stack.mlp.hidden.bias"] == label("bias", (1, 2), True)
    assert labels["backbone.neck.weight"] == label("matrix", (3,), False)


@pytest.mark.parametrize(
    ("position", "own", "shared"),
    [
        ("relative_bias", ("patches", "prefix"), ()),
        (POSITIONS.configure("relative_bias", shared=True), (), ("patches", "prefix")),
        ("rope_mixed", ("frequencies",), ()),
        (POSITIONS.configure("learned_rope", mixed=True), ("rotary.frequencies",), ("learned.patches",)),
    ],
    ids=str,
)
def test_positions_of_each_block_belong_to_their_blocks(position: Any, own: tuple[str, ...], shared: tuple[str, ...]):
    model = outline(position=position)
    for part in (model, model.backbone.position):
        labels = {name.removeprefix("backbone.position."): label for name, label in labels_of(part).items()}
        for names, label in (own, ((1, 2), True)), (shared, ((0,), False)):
            for name in names:
                assert labels[name] == vitrail.ParameterLabel("position", *label)
    for name in own:
        assert attrgetter(name)(model.backbone.position).shape[0] == model.config.size.depth
    assert labels_of(model)["backbone.encoder.stack.mlp.out.bias"].layers == (1, 2)


def test_layers_of_equinox_are_known_and_what_a_part_does_not_name_is_other():
    class Part(eqx.Module):
        layers: list[Any]
        scale: jax.Array
        sides: dict[str, eqx.nn.Conv2d]
        words: str = "not a parameter"

    conv = eqx.nn.Conv2d(1, 2, 3, key=KEY)
    labels = labels_of(Part([eqx.nn.Linear(2, 3, key=KEY), eqx.nn.LayerNorm(3)], jnp.ones(2), {"left": conv}))
    assert {name: label.kind for name, label in labels.items()} == {
        "layers.0.weight": "matrix",
        "layers.0.bias": "bias",
        "layers.1.weight": "norm",
        "layers.1.bias": "norm",
        "scale": "other",
        "sides.left.weight": "matrix",
        "sides.left.bias": "bias",
    }


def test_frozen_arrays_do_not_change_the_labels_of_others():
    for encoder in (vitrail.EncoderOptions(), vitrail.EncoderOptions(pre_norm=True)):
        model = small_model(encoder=encoder)
        every = labels_of(model)
        frozen = jax.tree.map(lambda _: False, model)
        for part in ("readout", "backbone.encoder.stack.mlp", "backbone.patch"):
            where = attrgetter(part)
            spec = eqx.tree_at(where, frozen, jax.tree.map(lambda _: True, where(model)))
            some = labels_of(eqx.filter(model, spec))
            assert some == {name: label for name, label in every.items() if name.startswith(part)}
        parameters = eqx.filter(model, eqx.is_inexact_array)
        head = jax.tree.map(lambda label: label.layers == (3,), vitrail.parameter_labels(parameters))
        decay = optax.masked(optax.add_decayed_weights(1.0, mask=is_matrix), mask=head)
        updates = decay.update(jax.tree.map(jnp.zeros_like, parameters), decay.init(parameters), parameters)[0]
        assert np.array_equal(updates.readout.head.linear.weight, model.readout.head.linear.weight)
        assert not jnp.any(updates.backbone.patch.weight)


# In optimisers ---------------------------------------------------------------------------------------------------


def dimensions(parameters: Any) -> Any:
    """As in the documentation: the matrices of the blocks are for Muon, each by itself."""

    def describe(label: vitrail.ParameterLabel) -> Any:
        return contrib.MuonDimensionNumbers(-1, -2) if label.stacked and label.kind == "matrix" else None

    return jax.tree.map(describe, vitrail.parameter_labels(parameters))


def test_muon_treats_the_matrices_of_stacked_blocks_one_by_one():
    parameters = eqx.filter(small_model(), eqx.is_inexact_array)
    gradient = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), parameters)
    optimiser = contrib.muon(1.0, muon_weight_dimension_numbers=dimensions)
    with jax.numpy_dtype_promotion("standard"):
        updates = optimiser.update(gradient, optimiser.init(parameters), parameters)[0]
    stack, given = updates.backbone.encoder.stack, gradient.backbone.encoder.stack
    for update, matrix in zip(stack.mlp.hidden.weight, given.mlp.hidden.weight, strict=True):
        # Orthogonal to the precision of five steps of Newton and Schulz, and of the gradient's singular vectors.
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
        singular = np.diag(left.T @ -np.asarray(update) @ right.T)
        assert singular.min() > 0.5 * singular.max() > 0
    # Biases have two axes in a stack, and are left to Adam, whose first step is the same for all but for the sign.
    step = -np.sign(given.mlp.hidden.bias) * stack.mlp.hidden.bias
    assert step.min() > 0.999 * step.max() > 0


def test_learning_rates_fall_with_the_depth():
    parameters = eqx.filter(small_model(), eqx.is_inexact_array)
    labels = vitrail.parameter_labels(parameters)
    last = max(max(label.layers) for label in jax.tree.leaves(labels))

    def scale(update: Any, label: vitrail.ParameterLabel) -> Any:
        rates = 0.5 ** (last - np.array(label.layers, np.float32))
        return update * rates.reshape(-1, *(1,) * (update.ndim - 1)) if label.stacked else update * rates[0]

    scaled = jax.tree.map(scale, jax.tree.map(jnp.ones_like, parameters), labels)
    assert np.unique(scaled.backbone.patch.weight).tolist() == [0.125]
    assert np.unique(scaled.backbone.encoder.stack.mlp.out.weight[0]).tolist() == [0.25]
    assert np.unique(scaled.backbone.encoder.stack.mlp.out.bias[1]).tolist() == [0.5]
    assert np.unique(scaled.readout.head.linear.weight).tolist() == [1.0]


def test_decay_of_a_mask_by_kind_spares_biases_and_positions():
    parameters = eqx.filter(small_model(), eqx.is_inexact_array)

    optimiser = optax.add_decayed_weights(1.0, mask=is_matrix)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    updates = optimiser.update(zeros, optimiser.init(parameters), parameters)[0]
    assert np.array_equal(
        updates.backbone.encoder.stack.mlp.out.weight, parameters.backbone.encoder.stack.mlp.out.weight
    )
    for part in ("position", "class_token", "norm"):
        assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(getattr(updates.backbone, part)))
    assert not jnp.any(updates.backbone.encoder.stack.mlp.out.bias)
