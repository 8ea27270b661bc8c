"""LoRA: what it computes, what it leaves as it is, and its files."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_trees_close, parameters, random_array, run, small_config, small_model
from safetensors import safe_open

import vitrail
from vitrail import CheckpointError, train
from vitrail.testing import randomise

KEY = jax.random.key(0)
SIZE = vitrail.EncoderSize(dim=16, depth=2, num_heads=2, mlp_dim=24)
IMAGE = small_config(num_classes=None, head="none", class_token=False)
WINDOWS = {
    "pool": "none",
    "head": "none",
    "num_classes": None,
    "neck_dim": 6,
    "windows": vitrail.WindowOptions(size=2, global_blocks=(1,), relative_grid=(2, 3)),
}
ALL = ("q", "k", "v", "qkv", "project", "hidden", "out")
CONFIGS: dict[str, Any] = {
    "vit": small_config(encoder=vitrail.EncoderOptions(activation="swiglu")),
    "vit with windows": small_config(**WINDOWS),
    "mae": vitrail.MAEConfig(image=IMAGE, decoder=vitrail.EncoderSize(8, 1, 2, 8)),
    "image and text": vitrail.ImageTextConfig(
        image=IMAGE, text=vitrail.TextConfig(vocabulary=4, context=2, size=SIZE, end_of_text=3)
    ),
    "dino": vitrail.DINOConfig(image=IMAGE, num_prototypes=4),
    "dense": vitrail.DenseConfig(image=IMAGE),
    "sam": vitrail.SegmentAnythingConfig(
        image=small_config(**{**WINDOWS, "neck_dim": 16, "image_size": (8, 8), "pool": "none"}), num_heads=2
    ),
}


def adapt(name: str, targets: tuple[str, ...] = ALL) -> Any:
    """A model of rank 3 and alpha 6, all of whose numbers are random."""
    config = CONFIGS[name]
    return randomise(lambda: vitrail.lora(config.build(key=KEY), 3, targets, 6.0, key=KEY), scale=0.2)


def add_products(adapted: Any) -> dict[str, np.ndarray]:
    """The weights of the plain model by the names of its arrays, block by block in NumPy."""
    arrays = {name: np.asarray(array, np.float64) for name, array in parameters(adapted).items()}
    plain = {name.replace(".base", ""): array for name, array in arrays.items() if ".adapters" not in name}
    for name, a in arrays.items():
        layer, _, end = name.partition(".adapters")
        if not end.endswith(".a"):
            continue
        b, target = arrays[f"{name.removesuffix('a')}b"], end[2:-4]
        weight = plain[f"{layer}.weight"]
        first = {"k": 1, "v": 2}.get(target, 0) * b.shape[-2]
        rows = weight.reshape(-1, *weight.shape[-2:])[:, first : first + b.shape[-2]]
        for block, (block_a, block_b) in enumerate(
            zip(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]), strict=True)
        ):
            rows[block] += 6.0 / 3 * block_b @ block_a
    return plain


def fill(name: str, arrays: dict[str, np.ndarray]) -> Any:
    """The plain model of a case with these arrays."""

    def get(path: Any, leaf: Any) -> Any:
        return jnp.asarray(arrays.pop(jax.tree_util.keystr(path)), "float32") if eqx.is_array(leaf) else leaf

    filled = jax.tree_util.tree_map_with_path(get, randomise(lambda: CONFIGS[name].build(key=KEY)))
    assert not arrays
    return filled


def compute(model: Any) -> list[jax.Array]:
    """What a model of any kind makes of an image."""
    backbone = model.backbone if isinstance(model, vitrail.ViT) else model.image.backbone
    image = random_array(*backbone.image_size, 3)
    match model:
        case vitrail.MaskedAutoencoder():
            return [model.reconstruct(image, 0.5, noise=random_array(6)).pixels]
        case vitrail.ImageText():
            return [model.embed_image(image), model.embed_text(jnp.asarray([1, 3], "int32"))]
        case vitrail.SegmentAnything():
            tokens, labels = model.image.backbone(image).patch_grid, jnp.asarray([1], "int32")
            return list(model(tokens, jnp.asarray([[3.0, 4.0]]), labels))
        case _:
            return jax.tree.leaves(model(image))


def assert_equal_outputs(actual: list[jax.Array], expected: list[jax.Array]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert float(jnp.max(jnp.abs(one - other)) / jnp.max(jnp.abs(other))) <= 1e-6


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_with_adapters_is_the_plain_one_with_their_products(name: str) -> None:
    adapted = adapt(name)
    expected, merged = fill(name, add_products(adapted)), vitrail.merge(adapted)
    assert merged.config == CONFIGS[name]
    assert_trees_close(merged, expected, tolerance=1e-6)
    assert jax.tree.structure(merged) == jax.tree.structure(expected)
    if name == "dino":  # its adapters are those of its image model, and its head multiplies what is rounded
        return
    outputs = run(compute, expected)
    assert_equal_outputs(run(compute, adapted), outputs)
    assert_equal_outputs(run(compute, merged), outputs)


# What lora makes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain() -> vitrail.ViT:
    return small_model()


@pytest.fixture(scope="module")
def adapted(plain: vitrail.ViT) -> vitrail.ViT:
    """Of rank 3, with random numbers in `B`."""
    model = vitrail.lora(plain, 3, ("q", "v", "out"), key=KEY)

    def draw(label: Any, leaf: Any) -> Any:
        return random_array(*leaf.shape, seed=leaf.size) if label is not None and label.kind == "adapter" else leaf

    return jax.tree.map(draw, vitrail.parameter_labels(model), model, is_leaf=lambda node: node is None)


def test_each_block_has_its_own_a_of_kaiming_and_b_is_zero() -> None:
    model = vitrail.lora(small_config(size=vitrail.EncoderSize(64, 12, 2, 8)).build(key=KEY), key=KEY)
    qkv = model.backbone.encoder.stack.attention.qkv
    assert isinstance(qkv, vitrail.AdaptedLinear)
    assert {name: (adapter.start, adapter.alpha) for name, adapter in qkv.adapters.items()} == {
        "q": (0, 8.0),
        "v": (128, 8.0),
    }
    a = np.stack([np.asarray(adapter.a) for adapter in qkv.adapters.values()])
    assert a.shape == (2, 12, 8, 64)
    assert not any(np.any(adapter.b) for adapter in qkv.adapters.values())
    # torch.nn.init.kaiming_uniform_(a, a=sqrt(5)): the gain is sqrt(2 / 6), the bound sqrt(3 / inputs) of it.
    bound = np.sqrt(2 / 6) * np.sqrt(3 / 64)
    assert 0.99 * bound < np.abs(a).max() <= bound
    assert abs(a.std() / (bound / np.sqrt(3)) - 1) < 0.02
    assert len(np.unique(a)) > 0.99 * a.size


def test_adapters_are_labelled_by_block_and_readouts_have_none() -> None:
    model = vitrail.lora(small_model(pool="attention", num_registers=1), 2, ALL, key=KEY)
    labels = jax.tree_util.tree_leaves_with_path(vitrail.parameter_labels(model))
    found = {jax.tree_util.keystr(path): label for path, label in labels if label.kind == "adapter"}
    assert len(found) == 2 * len(ALL)
    assert all(name.startswith(".backbone.encoder.stack.") and ".adapters[" in name for name in found)
    assert all(label.layers == (1, 2) and label.stacked for label in found.values())


def test_a_model_with_adapters_is_an_ordinary_pytree(plain: vitrail.ViT, adapted: vitrail.ViT) -> None:
    images = random_array(2, 8, 12, 3)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def slope(model: vitrail.ViT) -> jax.Array:
        return jnp.sum(jnp.square(jax.vmap(model)(images)))

    value, slopes = slope(adapted)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(slopes.backbone.encoder.stack.mlp.out.adapters))
    for copied in (pickle.loads(pickle.dumps(adapted)), copy.deepcopy(adapted), jax.device_get(adapted)):
        assert_close(slope(copied)[0], value)
    assert_close(slope(adapted.with_execution(vitrail.Execution(scan=False)))[0], value)
    assert_close(jnp.sum(jnp.square(vitrail.compile(adapted)(images))), value)
    assert vitrail.merge(adapted).config == adapted.config == plain.config
    replaced = vitrail.replace(adapted, pool="max", key=KEY)
    assert_trees_close(vitrail.merge(replaced), vitrail.replace(vitrail.merge(adapted), pool="max", key=KEY))
    assert eqx.tree_equal(
        adapted.blocks[1].mlp.out, jax.tree.map(lambda leaf: leaf[1], adapted.backbone.encoder.stack.mlp.out)
    )


def test_training_changes_adapters_and_what_the_recipe_names(plain: vitrail.ViT, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 12, 3)).astype(np.uint8)
    examples = vitrail.images.Examples(pixels, np.arange(20, dtype=np.int32) % 5)
    data = vitrail.images.Dataset(
        "noise", examples, examples, tuple("abcde"), vitrail.images.measure_preprocess(examples)
    )
    recipe = train.Recipe(epochs=1, batch_size=10, train=("readout.head",))
    model = vitrail.lora(plain, key=KEY)
    trained = train.fit(model, data, recipe, key=KEY, folder=tmp_path / "run")
    before, after = parameters(model), parameters(trained)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    head = {".readout.head.linear.weight", ".readout.head.linear.bias"}
    assert changed == {name for name in before if ".adapters" in name} | head
    saved = vitrail.load(tmp_path / "run" / "last.safetensors")
    assert eqx.tree_equal(saved, vitrail.merge(trained))


# Errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"targets": ("q", "fc1")}, "got 'fc1': it has 'q', 'k', 'v', 'qkv', 'project', 'hidden', 'out'"),
        ({"targets": ()}, "got none: it has 'q'"),
        ({"rank": 0}, "rank must be positive, got 0"),
        ({"alpha": 0.0}, "alpha must be a finite number above zero"),
    ],
)
def test_lora_says_what_is_wrong(plain: vitrail.ViT, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vitrail.lora(plain, key=KEY, **options)


def test_what_has_no_place_for_adapters_and_what_has_some_is_an_error(
    plain: vitrail.ViT, adapted: vitrail.ViT, tmp_path: Path
) -> None:
    path = tmp_path / "file.safetensors"
    with pytest.raises(ValueError, match="it has neither attention nor an MLP"):
        vitrail.lora(plain.readout, key=KEY)
    with pytest.raises(ValueError, match="merge them first"):
        vitrail.lora(adapted, key=KEY)
    for function in (vitrail.merge, lambda model: vitrail.save_adapters(model, path)):
        with pytest.raises(ValueError, match=r"make them with vitrail\.lora"):
            function(plain)
    for layout in ("vitrail", "timm"):
        with pytest.raises(
            ValueError, match=r"vitrail.merge\(model\), or the adapters alone with vitrail.save_adapters"
        ):
            vitrail.save(adapted, path, layout=layout)
    with pytest.raises(ValueError, match="also must name parts of the model, got 'had'"):
        vitrail.save_adapters(adapted, path, also=("readout", "had"))
    assert not path.exists()


# Files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("also", [(), ("readout",), ("readout.head", "norm")])
def test_adapters_come_back_into_their_model(
    plain: vitrail.ViT, adapted: vitrail.ViT, also: tuple[str, ...], tmp_path: Path
) -> None:
    vitrail.save_adapters(adapted, path := tmp_path / "adapters.safetensors", also=also)
    start = vitrail.replace(plain, head="linear", key=KEY) if also else plain
    if "norm" in also:
        start = eqx.tree_at(lambda model: model.backbone.norm.weight, start, jnp.ones(16))
    assert eqx.tree_equal(vitrail.load_adapters(start, path), adapted)
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()["adapters"])["targets"] == ["out", "q", "v"]
        assert set(file.keys()) >= {"backbone.encoder.stack.mlp.out.adapters.out.a"}
    other = vitrail.replace(plain, pool="max", num_classes=3, key=KEY)
    if also:
        with pytest.raises(CheckpointError, match=r"must have 'readout.head.linear.weight' as float32\[3, 16\]"):
            vitrail.load_adapters(other, path)
    else:  # readouts are not what adapters belong to
        assert_trees_close(vitrail.load_adapters(other, path).backbone, adapted.backbone)


def test_a_tower_can_have_adapters_alone(tmp_path: Path) -> None:
    plain = CONFIGS["image and text"].build(key=KEY)
    model = eqx.tree_at(lambda both: both.text, plain, vitrail.lora(plain.text, 2, key=KEY))
    vitrail.save_adapters(model, tmp_path / "file")
    assert eqx.tree_equal(vitrail.load_adapters(plain, tmp_path / "file"), model)
    both = eqx.tree_at(lambda both: both.image, model, vitrail.lora(plain.image, 4, key=KEY))
    with pytest.raises(ValueError, match=r"one rank and alpha, got \[\(2, 2.0\), \(4, 4.0\)\]"):
        vitrail.save_adapters(both, tmp_path / "file")


def test_adapters_of_another_model_and_damaged_files_are_errors(
    plain: vitrail.ViT, adapted: vitrail.ViT, tmp_path: Path
) -> None:
    vitrail.save_adapters(adapted, path := tmp_path / "adapters.safetensors")
    changed = eqx.tree_at(lambda model: model.backbone.norm.bias, plain, jnp.ones(16))
    with pytest.raises(CheckpointError, match="belongs to a model with other weights"):
        vitrail.load_adapters(changed, path)
    with pytest.raises(ValueError, match="merge them first"):
        vitrail.load_adapters(adapted, path)
    with pytest.raises(CheckpointError, match=r"holds adapters alone: load their model, then vitrail.load_adapters"):
        vitrail.load(path)
    vitrail.save(plain, whole := tmp_path / "whole.safetensors")
    with pytest.raises(CheckpointError, match=r"must be a file of vitrail\.save_adapters, got the format 'vitrail 2'"):
        vitrail.load_adapters(plain, whole)
    content = path.read_bytes()
    for place, said in (
        (len(content) - 1, "is damaged: the array"),
        (content.index(b"alpha") + 9, "its header differs"),
    ):
        flipped = bytearray(content)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=said):
            vitrail.load_adapters(plain, path)
