"""A kind of model that the room of weights has never seen, a system of two towers: files of ours and a layout of it."""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import vitrail
from vitrail import CheckpointError
from vitrail.model import JSONConfig
from vitrail.weights import LAYOUTS, Configuration, Layout, read_model, save
from vitrail.weights._configuration import KINDS
from vitrail.weights.layouts import Checkpoint, Export, Library, Rule, map_block, prefix_rules


@dataclasses.dataclass(frozen=True)
class TwoConfig(JSONConfig):
    """An image tower, and an encoder of so many blocks beside it."""

    image: vitrail.ViTConfig
    depth: int

    def build(self, *, execution: Any = vitrail.Execution(), dropout: Any = vitrail.Dropout(), key: Any) -> "Two":
        image_key, beside_key = jax.random.split(key)
        size = dataclasses.replace(self.image.size, depth=self.depth)
        beside = vitrail.Encoder(size, options=vitrail.EncoderOptions(), init=vitrail.TRUNC_NORMAL, key=beside_key)
        image = self.image.build(execution=execution, dropout=dropout, key=image_key)
        return Two(image, beside, self)


class Two(vitrail.systems.AbstractSystem):
    image: vitrail.ViT
    beside: vitrail.Encoder
    config: TwoConfig = eqx.field(static=True)

    def resized(self, image_size: Any, *, patch_size: Any = None) -> "Two":
        image = self.image.resized(image_size, patch_size=patch_size)
        return Two(image, self.beside, dataclasses.replace(self.config, image=image.config))


IMAGE = LAYOUTS["hf_clip"] if LAYOUTS["hf_clip"].image is None else LAYOUTS["hf_clip"].image


def read_config(checkpoint: Checkpoint) -> TwoConfig:
    assert TOY.image is not None
    image = TOY.image.read_config(checkpoint.view(layout=TOY.image))
    return TwoConfig(image, checkpoint.count_blocks("b.{i}.fc1.weight"))


def make_rules(config: TwoConfig) -> tuple[Rule, ...]:
    names = {"norm1": "n1", "qkv": "qkv", "project": "out", "norm2": "n2", "hidden": "fc1", "out": "fc2"}
    image = prefix_rules(IMAGE.rules(config.image), ours="image.", theirs="vision_model.", bare=("visual_projection",))
    return (*image, *map_block("b.{i}.", **names, ours="beside.stack."))


TOY = Layout(
    name="toy",
    title="a toy",
    library=Library("nobody"),
    read_config=read_config,
    rules=make_rules,
    signature=("vision_model.pre_layrnorm.weight", "b.0.fc1.weight"),
    kind=TwoConfig,
    image=dataclasses.replace(IMAGE, name="toy", ignored=((r"b\..*", "the encoder beside it"),), export=None),
    export=Export(
        find_misreading=lambda written, read: "" if written.depth == read.depth else "it is another",
        write_config=lambda config: {
            "hidden_act": config.image.encoder.activation,
            "num_attention_heads": config.image.size.num_heads,
        },
    ),
)
CONFIG = vitrail.ViTConfig(
    image_size=(8, 8),
    patch_size=(4, 4),
    size=vitrail.EncoderSize(64, 2, 1, 128),
    num_classes=5,
    patch=vitrail.PATCHES.configure("conv", bias=False),
    position=vitrail.POSITIONS.configure("learned", resize="torch_bicubic", covers_prefix=True),
    pool="cls",
    head=vitrail.HEADS.configure("linear", bias=False),
    class_token=True,
    norm_order="pool_norm",
    encoder=vitrail.EncoderOptions(activation="quick_gelu", norm_eps=1e-5, pre_norm=True),
)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Two:
    """A system whose kind and whose layout are each one line of a table."""
    kinds: dict[str, type[Configuration]] = {**KINDS, "two": TwoConfig}
    monkeypatch.setattr("vitrail.weights._configuration.KINDS", kinds)
    for module in ("vitrail.weights.layouts._table", "vitrail.weights._save"):
        monkeypatch.setattr(f"{module}.LAYOUTS", {"toy": TOY})
    return TwoConfig(CONFIG, 3).build(key=jax.random.key(0))


def is_same(one: object, other: object) -> bool:
    """Whether two models have the same arrays by the same names."""
    return bool(
        eqx.tree_equal(jax.tree.leaves(eqx.filter(one, eqx.is_array)), jax.tree.leaves(eqx.filter(other, eqx.is_array)))
    )


@pytest.mark.parametrize("layout", ["vitrail", "toy"])
def test_a_file_holds_the_system_or_its_image_model(model: Two, layout: Any, tmp_path: Path) -> None:
    save(model, tmp_path / "m", layout=layout)
    whole: Two = vitrail.load(tmp_path / "m", execution=vitrail.Execution(compute_dtype="bfloat16"))
    assert isinstance(whole, Two)
    assert is_same(whole, model)
    assert whole.image.backbone.execution.compute_dtype == "bfloat16"
    image = vitrail.load(tmp_path / "m", part="image")
    assert type(image) is vitrail.ViT
    assert is_same(image, model.image)
    assert vitrail.load(tmp_path / "m", num_classes=None).config.head == "none"


@pytest.mark.parametrize("layout", ["vitrail", "toy"])
def test_a_card_counts_the_system_or_its_image_model(model: Two, layout: Any, tmp_path: Path) -> None:
    save(model, tmp_path / "m", layout=layout)
    card = vitrail.model_card(tmp_path / "m")
    count = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    assert (card.kind, card.parameters, card.missing, card.unknown) == ("two", count, (), ())
    assert card.config.size == CONFIG.size
    card = vitrail.model_card(tmp_path / "m", part="image")
    count = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model.image, eqx.is_array)))
    assert (card.kind, card.parameters, card.missing, card.unknown) == ("vit", count, (), ())
    assert vitrail.model_card(model).kind == "two"


def test_a_layout_names_what_does_not_fit(model: Two, tmp_path: Path) -> None:
    save(model, tmp_path / "m", layout="toy")  # type: ignore[arg-type]
    assert {file.name for file in (tmp_path / "m").iterdir()} == {"model.safetensors", "config.json"}
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    assert tensors["b.2.fc2.weight"].shape == (64, 128)
    assert is_same(read_model(tmp_path / "m", config=model.config), model)
    with pytest.raises(ValueError, match=r"^layout must be one of 'toy', got 'hf_clip'$"):
        read_model(tmp_path / "m", layout="hf_clip")
    save_file(tensors | {"b.1.fc1.bias": np.zeros(3, np.float32)}, tmp_path / "m" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'toy', has 'b\.1\.fc1\.bias' as F32\[3\].*'beside\.stack\.mlp"):
        read_model(tmp_path / "m", config=model.config)


def test_a_configuration_of_another_kind_is_refused(model: Two, tmp_path: Path) -> None:
    save(model.image, tmp_path / "image")
    save(model, tmp_path / "m", layout="toy")  # type: ignore[arg-type]
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if not name.startswith("b.")}, tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match=r"config must be a ViTConfig for .*one\.safetensors, which .*, got a TwoCon"):
        vitrail.load(tmp_path / "one.safetensors", config=model.config)
    with pytest.raises(ValueError, match=r"model must have a TwoConfig to be written as 'toy', got one with a ViTC"):
        save(model.image, tmp_path / "n", layout="toy")  # type: ignore[arg-type]


def test_a_kind_that_is_in_no_table_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be one of 'vit'.*, got TwoConfig\("):
        save(TwoConfig(CONFIG, 1).build(key=jax.random.key(0)), tmp_path / "m")
    assert not list(tmp_path.iterdir())
