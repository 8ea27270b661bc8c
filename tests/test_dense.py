"""Dense prediction: the maps of the originals, and what a readout and its model promise."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from checkpoint_cases import TOLERANCE, published, tensors_of
from dense_cases import load_dense_cases, map_differences
from safetensors.numpy import load_file

import vitrail
from vitrail import READOUTS, DenseConfig
from vitrail.weights import LAYOUTS

KEY = jax.random.key(0)
CASES = load_dense_cases()
DPT = READOUTS.configure("dpt", layers=(0, 1), widths=(4, 6), scales=(2, 1), fusion_dim=8, hidden_dim=4)
FOUR = READOUTS.configure("linear", layers=(-2, -1), use_class_token=True)


def image_config(**changes: Any) -> vitrail.ViTConfig:
    """A small image model with a class token and a register."""
    fields: dict[str, Any] = {
        "image_size": (8, 12),
        "patch_size": (4, 4),
        "size": vitrail.EncoderSize(dim=16, depth=2, num_heads=2, mlp_dim=24),
        "pool": "cls",
        "head": "none",
        "num_registers": 1,
    }
    return vitrail.ViTConfig(**(fields | changes))


@functools.cache
def dense(readout: Any = DPT, num_classes: int | None = None) -> vitrail.Dense:
    """A model with that readout."""
    return DenseConfig(image=image_config(), readout=readout, num_classes=num_classes).build(key=KEY)


# The originals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_gives_the_map_of_its_library(name: str, tmp_path: Path) -> None:
    found = map_differences(CASES[name], published(CASES[name], tmp_path))
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if LAYOUTS[case.layout].export])
def test_a_layout_is_written_back_to_the_bit(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    layout: Any = case.layout
    model: vitrail.Dense = vitrail.load(published(case, tmp_path), **case.options)
    vitrail.save(model, tmp_path / "again", layout=layout)
    written, given = load_file(tmp_path / "again/model.safetensors"), tensors_of(case)
    ignored = {key for key in given if LAYOUTS[layout].reason_to_ignore(key)}
    assert given.keys() - written.keys() == {key for key in ignored if "auxiliary" in key or "mask_token" in key}
    assert all(np.array_equal(written[key], given[key]) for key in given.keys() - ignored)
    again: vitrail.Dense = vitrail.load(tmp_path / "again")
    assert again.config == model.config
    assert all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(again), jax.tree.leaves(model), strict=True))


def test_the_image_model_is_loaded_alone(tmp_path: Path) -> None:
    for number, (name, case) in enumerate(CASES.items()):
        path = published(case, tmp_path / str(number))
        whole: vitrail.Dense = vitrail.load(path, **case.options)
        options = {k: v for k, v in case.options.get("config", {}).items() if k == "num_heads"}
        alone = vitrail.load(path, part="image", **({"config": options} if options else {}))
        assert type(alone) is vitrail.ViT, name
        assert alone.config == whole.config.image
        assert all(np.array_equal(*p) for p in zip(jax.tree.leaves(alone), jax.tree.leaves(whole.image), strict=True))
