"""`vitrail.verify`: what it says of trained, fresh, half-loaded and broken models."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_cases import load_cases, published, tensors_of
from safetensors.numpy import load_file, save_file
from system_cases import load_system_cases

import vitrail
from vitrail.cli import main
from vitrail.weights._statistics import is_fresh, measure_structure

SIZE = vitrail.EncoderSize(dim=64, depth=3, num_heads=2, mlp_dim=96)
TIMM = load_cases()["timm vit_tiny_patch16_224"]


def trained(matrix: Any, seed: int) -> Any:
    """A matrix with what training leaves: rows of unlike lengths and a few strong directions."""
    random = np.random.RandomState(seed)
    rows, cols = matrix.shape
    strong = random.standard_normal((rows, 2)) @ random.standard_normal((2, cols)) * 0.03
    return jnp.asarray(matrix * random.uniform(0.5, 2, (rows, 1)) + strong, jnp.float32)


@pytest.fixture(scope="module")
def fresh() -> vitrail.ViT:
    size = {"image_size": (32, 32), "patch_size": (4, 4), "size": SIZE, "num_classes": 10, "pool": "cls"}
    return vitrail.ViTConfig(**size).build(key=jax.random.key(0))


@pytest.fixture(scope="module")
def model(fresh: vitrail.ViT) -> vitrail.ViT:
    """A model that looks trained."""

    def change(keys: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(keys)
        if not hasattr(leaf, "ndim"):
            return leaf
        seed = len(name)
        if "position" in name and leaf.ndim == 3:
            rows, cols = np.mgrid[:8, :8] / 8
            waves = np.random.RandomState(0).standard_normal((2, 64))
            return jnp.asarray(np.cos(rows[..., None] * waves[0] + cols[..., None] * waves[1]), jnp.float32)
        if leaf.ndim == 3:
            return jnp.stack([trained(part, seed + i) for i, part in enumerate(leaf)])
        if leaf.ndim == 4:
            return trained(leaf.reshape(len(leaf), -1), seed).reshape(leaf.shape)
        if leaf.ndim == 2 and min(leaf.shape) > 10:
            return trained(leaf, seed)
        return leaf + 0.1 * jax.random.normal(jax.random.key(seed), leaf.shape)

    return jax.tree_util.tree_map_with_path(change, fresh)


def verdicts(path: Path, **options: Any) -> dict[str, tuple[str, str]]:
    return {check.name: (check.verdict, check.words) for check in vitrail.verify(path, **options).checks}


def change_array(model: vitrail.ViT, name: str, change: Any) -> Any:
    def visit(keys: Any, leaf: Any) -> Any:
        found = jax.tree_util.keystr(keys, simple=True, separator=".")
        return jnp.asarray(change(np.array(leaf))) if found == name else leaf

    return jax.tree_util.tree_map_with_path(visit, model)


def test_a_trained_model_is_what_it_claims(
    model: vitrail.ViT, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.safetensors"
    vitrail.save(model, path, licence="mit")
    assert main(["verify", str(path), "--dtype", "bfloat16"]) == 0
    said = capsys.readouterr().out
    assert "pass  licence     mit\n" in said
    assert "pass  execution   bfloat16: " in said
    assert "fail" not in said
    assert said.endswith(f"{path} is the model that it claims to be (1 to know, 1 not checked)\n")
    found = verdicts(path, execution=vitrail.Execution(attention=7))
    assert found["execution"][0] == "pass"
    assert {name for name, (verdict, _) in found.items() if verdict != "pass"} == {"preprocess", "original"}


def test_a_fresh_model_is_not_trained(fresh: vitrail.ViT, tmp_path: Path) -> None:
    vitrail.save(fresh, tmp_path / "m.safetensors")
    found = verdicts(tmp_path / "m.safetensors")
    assert found["trained"][0] == "fail"
    assert "it is not trained" in found["trained"][1]
    assert found["positions"][0] == "warn"
    assert main(["verify", str(tmp_path / "m.safetensors")]) == 1


STACK = "backbone.encoder.stack."


def fill_fresh(stack: np.ndarray) -> np.ndarray:
    stack[1] = 0.02 * np.random.RandomState(0).standard_normal(stack[1].shape)
    return stack


def copy_block(stack: np.ndarray) -> np.ndarray:
    stack[2] = stack[0]
    return stack


@pytest.mark.parametrize(
    ("name", "change", "check", "words"),
    [
        (f"{STACK}mlp.hidden.weight", fill_fresh, "trained", "mlp.hidden.weight of block 1"),
        (f"{STACK}attention.qkv.weight", copy_block, "blocks", "block 2 is block 0"),
        (f"{STACK}mlp.out.weight", lambda stack: stack * [[[1]], [[0]], [[1]]], "filled", "(0 throughout)"),
        (f"{STACK}mlp.out.weight", lambda stack: stack * [[[1]], [[np.nan]], [[1]]], "finite", "of block 1"),
        (f"{STACK}mlp.out.weight", lambda stack: stack * [[[1]], [[200]], [[1]]], "spread", "1.9e+02 times"),
    ],
)
def test_what_is_wrong_is_named(
    name: str, change: Any, check: str, words: str, model: vitrail.ViT, tmp_path: Path
) -> None:
    changed = change_array(model, name, lambda array: change(array).astype(np.float32))
    vitrail.save(changed, tmp_path / "m.safetensors")
    verdict, said = verdicts(tmp_path / "m.safetensors")[check]
    assert verdict == ("warn" if check == "spread" else "fail")
    assert words in said


def test_norms_of_a_block_that_was_not_loaded_are_named(model: vitrail.ViT, tmp_path: Path) -> None:
    for norm in ("norm1", "norm2"):
        for part, value in (("weight", 1.0), ("bias", 0.0)):

            def reset(array: np.ndarray, value: float = value) -> np.ndarray:
                array[1] = value
                return array

            model = change_array(model, f"{STACK}{norm}.{part}", reset)
    vitrail.save(model, tmp_path / "m.safetensors")
    assert verdicts(tmp_path / "m.safetensors")["trained"] == (
        "fail",
        "as in a fresh model, and so not loaded or not trained: block 1 of backbone.encoder",
    )


def test_a_damaged_or_incomplete_file_fails(model: vitrail.ViT, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    vitrail.save(model, path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert "is damaged" in verdicts(path)["file"][1]
    case = published(TIMM, tmp_path / "timm")
    tensors = load_file(case)
    del tensors["norm.bias"]
    save_file(tensors, case)
    found = verdicts(case)
    assert found["layout"][0] == "fail"
    assert "'norm.bias'" in found["layout"][1]
    with pytest.raises(OSError, match="nowhere"):
        vitrail.verify(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["transformers ViTMAEForPreTraining", "Meta Sam", "transformers CLIPModel"])
def test_systems_compute(name: str, tmp_path: Path) -> None:
    case = load_system_cases()[name]
    found = verdicts(case.publish(tmp_path), **case.options)
    assert found["execution"][0] == "pass"
    assert found["outputs"][0] == "pass"
    assert found["trained"] == ("skip", "all matrices are too small to tell")


def test_half_precision_and_no_settings_are_said(tmp_path: Path) -> None:
    case = dataclasses.replace(TIMM, settings=None)
    path = published(case, tmp_path)
    save_file({name: array.astype(np.float16) for name, array in tensors_of(case).items()}, path)
    found = verdicts(path, config={"num_heads": 2})
    assert found["dtypes"][0] == "warn"
    assert "in float16: verified as float32" in found["dtypes"][1]
    assert "global_pool token" in found["settings"][1]


@pytest.mark.parametrize("draw", ["normal", "uniform", "xavier"])
def test_any_fresh_matrix_is_fresh_and_a_few_steps_end_it(draw: str) -> None:
    random = np.random.RandomState(1)
    for shape in ((64, 49), (192, 64), (384, 384), (96, 1000)):
        matrix = random.uniform(-1, 1, shape) if draw == "uniform" else random.standard_normal(shape)
        matrix = matrix * (2 / sum(shape)) ** 0.5 if draw == "xavier" else 0.02 * matrix
        assert is_fresh(matrix.astype(np.float32))
        direction = np.outer(*(random.standard_normal(side) for side in shape))
        assert not is_fresh(matrix + 2 * matrix.std() * direction / min(shape) ** 0.5)


def test_neighbours_are_alike_only_in_a_table_with_structure() -> None:
    table = np.random.RandomState(0).standard_normal((14, 14, 32))
    alike, deviations = measure_structure(table)
    assert abs(alike) < 0.03
    assert abs(deviations) < 4
    smooth = np.cumsum(np.cumsum(table, axis=0), axis=1)
    assert measure_structure(smooth)[0] > 0.8
