"""A kind of model that the room of weights has never seen, of two towers: a file of ours, and a layout, read it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import vitrail
from vitrail import CheckpointError
from vitrail.weights import LAYOUTS, Configuration, Layout, read_model, save
from vitrail.weights._configuration import KINDS
from vitrail.weights.layouts import Checkpoint, Export, Library, Rule, map_block, map_names


@dataclasses.dataclass(frozen=True)
class Two:
    """Encoders of two depths."""

    dim: int
    depths: tuple[int, int]

    def build(self, *, key: Any) -> "TwoTowers":
        return TwoTowers(self, key)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> "Two":
        values = json.loads(text)
        return Two(values["dim"], tuple(values["depths"]))


class TwoTowers(eqx.Module):
    towers: tuple[vitrail.Encoder, vitrail.Encoder]
    scale: jax.Array
    config: Two = eqx.field(static=True)

    def __init__(self, config: Two, key: Any):
        keys = jax.random.split(key)
        sizes = [vitrail.EncoderSize(config.dim, depth, 1, 2 * config.dim) for depth in config.depths]
        first, second = (
            vitrail.Encoder(size, options=vitrail.EncoderOptions(), init=vitrail.TRUNC_NORMAL, key=key)
            for size, key in zip(sizes, keys, strict=True)
        )
        self.towers = first, second
        self.scale = jax.random.normal(keys[0], (1,))
        self.config = config


def configure(checkpoint: Checkpoint) -> Two:
    dim = checkpoint.get_shape("a.0.fc1.weight", 2)[1]
    return Two(dim, (checkpoint.count_blocks("a.{i}.fc1.weight"), checkpoint.count_blocks("b.{i}.fc1.weight")))


def rules(config: Two) -> tuple[Rule, ...]:
    names = {"norm1": "n1", "qkv": "qkv", "project": "out", "norm2": "n2", "hidden": "fc1", "out": "fc2"}
    return (
        *map_block("a.{i}.", **names, ours="towers.0.stack."),
        *map_block("b.{i}.", **names, ours="towers.1.stack."),
        map_names("scale", "scale"),
    )


TOY = Layout(
    name="toy",
    title="a toy",
    library=Library("nobody"),
    read_config=configure,
    rules=rules,
    signature=("a.0.fc1.weight", "b.0.fc1.weight"),
    export=Export(find_misreading=lambda written, read: "" if written == read else "it is another"),
)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> TwoTowers:
    """A model of two towers, whose kind and whose layout are each one line of a table."""
    kinds: dict[str, type[Configuration]] = {**KINDS, "two": Two}
    monkeypatch.setattr("vitrail.weights._configuration.KINDS", kinds)
    for module in ("vitrail.weights.layouts._table", "vitrail.weights._save"):
        monkeypatch.setattr(f"{module}.LAYOUTS", {**LAYOUTS, "toy": TOY})
    return Two(8, (2, 3)).build(key=jax.random.key(0))


def test_a_file_of_ours_holds_any_kind(model: TwoTowers, tmp_path: Path) -> None:
    save(model, tmp_path / "m")
    assert eqx.tree_equal(read_model(tmp_path / "m"), model)


def test_a_layout_makes_any_kind(model: TwoTowers, tmp_path: Path) -> None:
    save(model, tmp_path / "m", layout="toy")  # type: ignore[arg-type]
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    assert [file.name for file in (tmp_path / "m").iterdir()] == ["model.safetensors"]  # a toy has no config.json
    assert tensors["b.2.fc2.weight"].shape == (8, 16)
    assert eqx.tree_equal(read_model(tmp_path / "m"), model)
    assert eqx.tree_equal(read_model(tmp_path / "m", config=model.config), model)
    save_file(tensors | {"b.1.fc1.bias": np.zeros(3, np.float32)}, tmp_path / "m" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'toy', has 'b\.1\.fc1\.bias' as F32\[3\].*'towers\.1\.stack\.mlp"):
        read_model(tmp_path / "m")


def test_what_is_for_a_vit_says_what_it_got(model: TwoTowers, tmp_path: Path) -> None:
    save(model, tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"/m must hold a ViT, got a TwoTowers: read it with"):
        vitrail.load(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"/m must hold a ViT to have a card, got a Two"):
        vitrail.model_card(tmp_path / "m")


def test_a_kind_that_is_in_no_table_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be one of 'vit', got Two\(dim=8"):
        save(Two(8, (1, 1)).build(key=jax.random.key(0)), tmp_path / "m")
    assert not list(tmp_path.iterdir())
