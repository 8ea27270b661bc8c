"""LoRA against PEFT, on models of timm and transformers with our weights and adapters copied over."""

import importlib
import itertools
import operator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from checkpoint_oracle import transformers
from timm_oracle import timm

import vitrail
from vitrail import testing

peft = importlib.import_module("peft")
IMAGE = np.random.default_rng(0).normal(size=(32, 32, 3)).astype(np.float32)
SIZE = vitrail.EncoderSize(dim=24, depth=2, num_heads=3, mlp_dim=48)
TARGETS = {
    "timm": {
        "qkv": "blocks.{}.attn.qkv",
        "project": "blocks.{}.attn.proj",
        "hidden": "blocks.{}.mlp.fc1",
        "out": "blocks.{}.mlp.fc2",
    },
    "hf_vit": {
        "q": "vit.layers.{}.attention.q_proj",
        "k": "vit.layers.{}.attention.k_proj",
        "v": "vit.layers.{}.attention.v_proj",
        "project": "vit.layers.{}.attention.o_proj",
    },
}
FIELDS = {"project": "attention.project", "hidden": "mlp.hidden", "out": "mlp.out"}


def layer_of(model: vitrail.ViT, target: str) -> Any:
    """The layer of a target, stacked over the blocks."""
    return operator.attrgetter(FIELDS.get(target, "attention.qkv"))(model.backbone.encoder.stack)


def rows_of(layer: vitrail.Linear, target: str) -> jax.Array:
    """The rows of a weight that are those of a target."""
    return jnp.split(layer.weight, 3, axis=1)["qkv".index(target)] if target in ("q", "k", "v") else layer.weight


def assert_equal(ours: Any, theirs: torch.Tensor) -> None:
    expected = theirs.detach().numpy()
    assert np.abs(np.asarray(ours) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("layout", TARGETS)
def test_adapters_equal_pefts(layout: Any, tmp_path: Path) -> None:
    config = vitrail.ViTConfig(image_size=(32, 32), patch_size=(8, 8), size=SIZE, num_classes=5, pool="cls")
    plain = testing.randomise(lambda: config.build(key=jax.random.key(0)), scale=0.2)
    vitrail.save(plain, tmp_path / "folder", layout=layout)
    original: Any = (
        timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True)
        if layout == "timm"
        else transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "folder")
    )
    blocks = range(SIZE.depth)
    names = {target: [name.format(block) for block in blocks] for target, name in TARGETS[layout].items()}
    options = peft.LoraConfig(r=4, lora_alpha=6, target_modules=[*itertools.chain(*names.values())])
    theirs = peft.get_peft_model(original.eval(), options)
    layers = {(target, i): theirs.base_model.model.get_submodule(names[target][i]) for target in names for i in blocks}
    parts = {place: (layer.lora_A["default"].weight, layer.lora_B["default"].weight) for place, layer in layers.items()}

    ours = vitrail.lora(plain, 4, tuple(names), 6.0, key=jax.random.key(1))
    for (target, i), (a, b) in parts.items():
        adapter, bound = layer_of(ours, target).adapters[target], a.shape[1] ** -0.5
        assert (a.shape, b.shape) == (adapter.a[i].shape, adapter.b[i].shape)
        assert not np.any(adapter.b)
        assert not torch.any(b)
        for drawn in (a.detach().numpy(), adapter.a[i]):
            assert 0.9 * bound < np.abs(drawn).max() <= bound

    rng = np.random.default_rng(0)
    for target in names:
        drawn = jnp.asarray(rng.normal(scale=0.5, size=layer_of(ours, target).adapters[target].b.shape), "float32")
        ours = eqx.tree_at(lambda model, target=target: layer_of(model, target).adapters[target].b, ours, drawn)
    for (target, i), pair in parts.items():
        adapter = layer_of(ours, target).adapters[target]
        for part, array in zip(pair, (adapter.a[i], adapter.b[i]), strict=True):
            part.data.copy_(torch.from_numpy(np.array(array)))

    def compute_loss(model: vitrail.ViT) -> tuple[jax.Array, jax.Array]:
        logits = model(IMAGE)
        return jnp.sum(jnp.square(logits)), logits

    (_, logits), slopes = eqx.filter_jit(eqx.filter_value_and_grad(compute_loss, has_aux=True))(ours)
    found = theirs(torch.from_numpy(IMAGE).permute(2, 0, 1)[None])
    found = found if layout == "timm" else found.logits
    found.square().sum().backward()
    assert_equal(logits, found[0])
    assert np.abs(logits - eqx.filter_jit(plain)(IMAGE)).max() > 0.1
    theirs.merge_adapter()
    merged = vitrail.merge(ours)
    for (target, i), (a, b) in parts.items():
        slope = layer_of(slopes, target).adapters[target]
        assert_equal(slope.a[i], a.grad)
        assert_equal(slope.b[i], b.grad)
        assert_equal(rows_of(layer_of(merged, target), target)[i], layers[target, i].base_layer.weight)
