"""Checkpoints of other libraries: what those gave when the fixtures were made, and Flax now."""

import json
from pathlib import Path
from typing import Any

import flax_vit
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_cases import TOLERANCE, Case, case_from, differences, drawn, image_of, published, tensors_of
from safetensors.numpy import load_file

import vitrail
from vitrail.weights._checkpoint import Layout
from vitrail.weights._layouts import LAYOUTS

FIXTURES = Path(__file__).parent / "fixtures"

with np.load(FIXTURES / "checkpoints.npz") as _file:
    _ARRAYS = dict(_file)


def _cases() -> dict[str, Case]:
    kept: dict[str, Any] = json.loads((FIXTURES / "checkpoints.json").read_text())
    return {
        name: case_from(values, {k.removeprefix(f"{name}/"): a for k, a in _ARRAYS.items() if k.startswith(f"{name}/")})
        for name, values in kept.items()
    }


CASES = _cases()


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_gives_the_numbers_of_its_library(name: str, tmp_path: Path) -> None:
    found = differences(CASES[name], published(CASES[name], tmp_path))
    assert max(found.values()) <= TOLERANCE, found


WRITABLE = {name: case for name, case in CASES.items() if LAYOUTS[case.layout].written_prefix is not None}


@pytest.mark.parametrize("name", WRITABLE)
def test_a_layout_is_written_back_to_the_bit(name: str, tmp_path: Path) -> None:
    case = WRITABLE[name]
    model = vitrail.load(published(case, tmp_path), **case.options)
    vitrail.save(model, tmp_path / "again.safetensors", layout=case.layout)  # type: ignore[arg-type]
    written, layout, given = load_file(tmp_path / "again.safetensors"), LAYOUTS[case.layout], tensors_of(case)
    written, given = ({short(layout, key): array for key, array in each.items()} for each in (written, given))
    assert written.keys() <= given.keys()
    assert all(layout.reason(key) for key in given.keys() - written.keys())
    assert all(np.array_equal(array, given[key]) for key, array in written.items())


def short(layout: Layout, name: str) -> str:
    """A name without what the layout leaves out: a model with a head has it, and its backbone alone has not."""
    return name.removeprefix(next((prefix for prefix in layout.prefixes if name.startswith(prefix)), ""))


def flax_case(pool: str, **options: Any) -> tuple[Case, flax_vit.ViT, dict[str, Any]]:
    module = flax_vit.ViT(pool, **options)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    names = {name: tuple(a.shape) for name, a in flax_vit.flat(shapes).items()}
    params = flax_vit.nested({name: drawn(name, shape) for name, shape in names.items()})
    outputs = module.apply({"params": params}, jnp.asarray(image_of((16, 16)))[None])
    layout = "vision_transformer" if module.old else "big_vision"
    return (
        Case(layout, names, None, {(16, 16): {k: np.asarray(v) for k, v in outputs.items()}}, npz=True),
        module,
        params,
    )


@pytest.mark.parametrize(
    ("pool", "options"),
    [
        ("tok", {}),
        ("gap", {}),
        ("map", {"num_classes": None}),
        ("tok", {"old": True}),
        ("tok", {"old": True, "pre_logits": 8}),
        ("gap", {"num_classes": None}),
    ],
    ids=str,
)
def test_a_flax_checkpoint_gives_the_numbers_of_flax(pool: str, options: dict[str, Any], tmp_path: Path) -> None:
    case, _, _ = flax_case(pool, **options)
    found = differences(case, published(case, tmp_path))
    assert max(found.values()) <= TOLERANCE, found
