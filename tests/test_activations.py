"""Looking inside: every intermediate against NumPy, and what an edit of it changes."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_trees_close, image_for, random_array, run, small_model
from reference import ACTIVATIONS, float64, np_layer_norm, np_softmax, numpy_block_weights

import vitrail
from vitrail import EncoderOptions, EncoderSize, Execution

SIZE = EncoderSize(dim=16, depth=3, num_heads=2, mlp_dim=24)
SHAPES = {
    "tokens": (8, 16),
    "queries": (2, 8, 8),
    "keys": (2, 8, 8),
    "values": (2, 8, 8),
    "attention_weights": (2, 8, 8),
    "attention_heads": (2, 8, 8),
    "attention_branch": (8, 16),
    "mlp_hidden": (8, 24),
    "mlp_branch": (8, 16),
}


def model_of(**changes: Any) -> vitrail.ViT:
    """A model with a class token and a register, 8 tokens in all."""
    return small_model(**({"size": SIZE, "pool": "cls", "num_registers": 1} | changes))


def np_intermediates(model: vitrail.ViT, image: Any) -> dict[str, np.ndarray]:
    """All of them, for each block one after the other."""
    options, layers = model.config.encoder, []
    x = float64(model.backbone.embed(image).sequence)
    for block in model.blocks:
        w = numpy_block_weights(block)
        normal = np_layer_norm(x, w["g1"], w["h1"], options.norm_eps)
        q, k, v = (
            np.stack(np.split(normal @ w[f"w{name}"].T + w[f"b{name}"], SIZE.num_heads, axis=1)) for name in "qkv"
        )
        if "gq" in w:
            q = np_layer_norm(q, w["gq"], w["hq"], options.norm_eps)
            k = np_layer_norm(k, w["gk"], w["hk"], options.norm_eps)
        weights = np_softmax(np.einsum("hqd,hkd->hqk", q, k) / np.sqrt(q.shape[-1]))
        heads = np.einsum("hqk,hkd->hqd", weights, v)
        attention = w.get("s1", 1.0) * (np.concatenate(list(heads), axis=1) @ w["wo"].T + w["bo"])
        x = x + attention
        hidden = np_layer_norm(x, w["g2"], w["h2"], options.norm_eps) @ w["w1"].T + w["b1"]
        if options.activation == "swiglu":
            hidden = ACTIVATIONS["silu"](hidden[:, :24]) * hidden[:, 24:]
        else:
            hidden = ACTIVATIONS[options.activation](hidden)
        mlp = w.get("s2", 1.0) * (hidden @ w["w2"].T + w["b2"])
        x = x + mlp
        layers.append((x, q, k, v, weights, heads, attention, hidden, mlp))
    return {name: np.stack([layer[i] for layer in layers]) for i, name in enumerate(SHAPES)}


def test_the_names_are_those_of_the_literal() -> None:
    assert tuple(SHAPES) == vitrail.INTERMEDIATES


@pytest.mark.parametrize("options", [
    {},
    {"qk_norm": True, "activation": "swiglu", "layer_scale": 0.1},
], ids=["default", "options"])  # fmt: skip
@pytest.mark.parametrize("execution", [
    Execution(), Execution(scan=False, remat="blocks"), Execution(attention=3),
], ids=["scanned", "unrolled", "in chunks"])  # fmt: skip
def test_every_intermediate_equals_numpy(options: dict[str, Any], execution: Execution) -> None:
    model = model_of(encoder=EncoderOptions(**options), execution=execution)
    image = image_for(model)
    found = run(model.backbone.activations, image, at=vitrail.INTERMEDIATES)
    expected = np_intermediates(model, image)
    assert found.keys() == expected.keys()
    for name, shape in SHAPES.items():
        assert found[name].shape == (3, *shape), name
        assert_close(found[name], expected[name], tolerance=3e-5)
    np.testing.assert_allclose(found["attention_weights"].sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("layers", [[0, 1, 2], [-1], [2, 0, -3], (1, 1), [0], []])
def test_layers_are_picked_in_the_order_asked_for(layers: Any) -> None:
    model = model_of()
    at = ("tokens", "values")
    every = run(model.backbone.activations, image_for(model), at=at)
    found = run(model.backbone.activations, image_for(model), at=at, layers=tuple(layers))
    for name in at:
        assert_close(found[name], every[name][np.array(layers, int)])


def test_blocks_after_the_last_layer_do_not_run() -> None:
    model = model_of()
    broken = eqx.tree_at(
        lambda m: m.backbone.encoder.stack.mlp.out.bias, model, jnp.full((3, 16), jnp.nan).at[:2].set(0)
    )
    found = run(broken.backbone.activations, image_for(model), at=("tokens",), layers=(1,))
    assert np.isfinite(found["tokens"]).all()
    program = jax.make_jaxpr(lambda x: model.backbone.activations(x, layers=[0]))(image_for(model))
    assert "length=1" in str(program)
    assert "length=3" not in str(program)


def test_forms_and_the_final_norm() -> None:
    model = model_of()
    image = image_for(model)
    get = model.backbone.activations
    names = ("tokens", "keys", "mlp_hidden")
    whole, patches, grid = (run(get, image, at=names, form=form) for form in ("sequence", "patches", "grid"))
    for name in names:
        assert_close(patches[name], whole[name][..., 2:, :])
        assert grid[name].shape == (*whole[name].shape[:-2], 2, 3, whole[name].shape[-1])
        assert_close(grid[name].reshape(patches[name].shape), patches[name])
    normal = run(get, image, norm=True)["tokens"]
    assert_close(normal[-1], run(model.backbone, image).sequence, tolerance=2e-5)
    norm: Any = model.backbone.norm
    assert_close(normal[0], np_layer_norm(float64(whole["tokens"][0]), float64(norm.weight), float64(norm.bias), 1e-6))


@pytest.mark.parametrize(
    ("error", "message", "options", "changes"),
    [
        (ValueError, "no intermediate is called 'logits': use 'tokens', 'queries'", {"at": ("logits",)}, {}),
        (ValueError, "no intermediate is called 'heads'", {"edit": {"heads": lambda value, layer: value}}, {}),
        (ValueError, r"at must be a sequence of names, got 'tokens': pass \('tokens',\)", {"at": "tokens"}, {}),
        (IndexError, r"layers must be in \[-3, 3\), got 3: there are 3 blocks", {"layers": [3]}, {}),
        (IndexError, r"layers must be in \[-3, 3\), got -4", {"layers": [0, -4]}, {}),
        (ValueError, "form must be 'sequence'", {"at": ("attention_weights",), "form": "grid"}, {}),
        (ValueError, "norm=True needs 'tokens' in at", {"at": ("keys",), "norm": True}, {}),
        (ValueError, "got .* no norm and no neck", {"norm": True}, {"norm_order": "pool_norm"}),
        (ValueError, "got .* a norm and a neck", {"norm": True},
         {"neck_dim": 8, "num_registers": 0, "class_token": None, "pool": "mean"}),
        (TypeError, "form", {"form": "NCHW"}, {}),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_an_error(
    error: type[Exception], message: str, options: dict[str, Any], changes: dict[str, Any]
) -> None:
    model = model_of(**changes)
    with pytest.raises(error, match=message):
        model.backbone.activations(image_for(model), **options)


@pytest.mark.parametrize("scan", [True, False])
def test_an_ablated_head_is_a_head_whose_projection_is_zero(scan: bool) -> None:
    model = model_of(execution=Execution(scan=scan))
    image = image_for(model)
    edit = {"attention_heads": lambda value, layer: jnp.where(layer == 1, value.at[0].set(0), value)}
    found = run(lambda m, x: m.backbone(x, edit=edit), model, image)
    weight = model.backbone.encoder.stack.attention.project.weight
    without = eqx.tree_at(
        lambda m: m.backbone.encoder.stack.attention.project.weight, model, weight.at[1, :, :8].set(0)
    )
    assert_close(found.sequence, run(without.backbone, image).sequence, tolerance=2e-5)
    assert np.abs(found.sequence - run(model.backbone, image).sequence).max() > 1e-2


@pytest.mark.parametrize("name", vitrail.INTERMEDIATES)
def test_an_edit_reaches_what_follows_and_nothing_before(name: Any) -> None:
    model, other = model_of(), image_for(model_of(), seed=5)
    image = image_for(model)
    source = run(model.backbone.activations, other, at=(name,))[name]
    patch = {name: lambda value, layer: jnp.where(layer == 1, source[layer], value)}
    found = run(lambda m, x: m.backbone.activations(x, at=(name, "tokens"), edit=patch), model, image)
    plain = run(model.backbone.activations, image, at=(name, "tokens"))
    assert_close(found[name][1], source[1])  # the edited value is the one that is recorded
    assert_close(found["tokens"][0], plain["tokens"][0])
    assert np.abs(found["tokens"][1] - plain["tokens"][1]).max() > 1e-4
    # An edit that changes nothing changes nothing, and one of all tokens makes the rest that of the other image.
    same = run(lambda m, x: m.backbone(x, edit={name: lambda value, layer: value}), model, image)
    assert_trees_close(same, run(model.backbone, image))
    if name == "tokens":
        assert_close(found["tokens"][2], source[2], tolerance=2e-5)


def test_edits_act_in_half_precision_under_vmap_and_grad() -> None:
    model = model_of(execution=Execution(compute_dtype="bfloat16"))
    images = random_array(2, 8, 12, 3)

    def loss(scale: jax.Array, image: jax.Array) -> jax.Array:
        edit = {"attention_weights": lambda value, layer: value * jnp.where(layer == 2, scale, 1)}
        return model.readout(model.backbone(image, edit=edit)).sum()

    slope = run(jax.vmap(jax.grad(loss), in_axes=(None, 0)), jnp.asarray(1.0), images)
    assert slope.shape == (2,)
    assert np.isfinite(slope).all()
    # The difference quotient of the same in float32.
    model = model.with_execution(Execution())
    slope = run(jax.grad(loss), jnp.asarray(1.0), images[0])
    near = [run(loss, jnp.asarray(1.0 + step), images[0]) for step in (0.01, -0.01)]
    np.testing.assert_allclose(slope, (near[0] - near[1]) / 0.02, rtol=0.02)


@pytest.mark.parametrize("edit", [lambda value, layer: 0, lambda value, layer: None])
def test_an_edit_returns_an_array(edit: Any) -> None:
    model = model_of()
    with pytest.raises(ValueError, match=r"the edit of 'values' must return an array, got (int|NoneType)"):
        model.backbone(image_for(model), edit={"values": edit})


@pytest.mark.parametrize("edit", [lambda value, layer: value[:1], lambda value, layer: value.astype(jnp.bfloat16)])
def test_an_edit_keeps_shape_and_dtype(edit: Any) -> None:
    model = model_of()
    with pytest.raises(ValueError, match=r"the edit of 'values' must return shape \(2, 8, 8\) and dtype float32, got"):
        model.backbone(image_for(model), edit={"values": edit})


def test_activations_of_a_subset_come_by_the_encoder() -> None:
    """`encode` takes edits, too, so that they act on tokens that were dropped or masked before."""
    model = model_of(pool="mean", num_registers=0)
    tokens = model.backbone.embed(image_for(model))
    kept = tokens.take(jnp.asarray([4, 1]))
    zero = {"mlp_branch": lambda value, layer: 0 * value, "attention_branch": lambda value, layer: 0 * value}
    found = run(lambda m, t: m.backbone.encode(t, edit=zero), model, kept)
    norm: Any = model.backbone.norm
    expected = np_layer_norm(float64(kept.patches), float64(norm.weight), float64(norm.bias), 1e-6)
    assert_close(found.patches, expected)


def test_everything_is_safe_under_jit_vmap_and_grad() -> None:
    model = model_of()
    images = random_array(3, 8, 12, 3)

    def everything(model: vitrail.ViT, image: jax.Array) -> Any:
        return model(image), model.backbone(image), model.backbone.activations(image, at=vitrail.INTERMEDIATES)

    batched = run(lambda m, xs: jax.vmap(lambda x: everything(m, x))(xs), model, images)
    one_by_one = [run(everything, model, image) for image in images]
    assert_trees_close(batched, jax.tree.map(lambda *xs: jnp.stack(xs), *one_by_one), tolerance=2e-5)

    def loss(image: jax.Array) -> jax.Array:
        out = jax.tree.leaves(everything(model, image))
        return jnp.sum(jnp.stack([jnp.vdot(x, random_array(*x.shape, seed=3)) for x in out]))

    gradient = run(jax.grad(loss), images[0])
    assert jnp.isfinite(gradient).all()
    assert jnp.any(gradient != 0, axis=(0, 1)).all()


def test_a_model_that_nobody_looks_into_is_the_same_program() -> None:
    """No equation is added to the forward pass by what could be recorded or edited."""
    model = model_of()
    tokens = model.backbone.embed(image_for(model)).sequence
    block = model.blocks[0]

    def written_out(x: jax.Array) -> jax.Array:
        attended = block.attention(jax.lax.optimization_barrier(block.norm1(x)))
        x = x + attended
        return x + block.mlp(jax.lax.optimization_barrier(block.norm2(x)))

    def count(function: Any) -> int:
        names = [str(e.primitive) for e in jax.make_jaxpr(function)(tokens).jaxpr.eqns]
        return len([name for name in names if name != "name"])  # which names what a backward pass may keep

    assert count(block) == count(written_out)
    assert dataclasses.replace(model.backbone).execution == Execution()
