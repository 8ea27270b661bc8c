"""A model as a PyTree: what other libraries do to one."""

import copy
import functools
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import image_for, run, small_config, small_model

import vitrail
from vitrail import HEADS, POOLS, EncoderOptions

KEY = jax.random.key(0)
KINDS: dict[str, dict[str, Any]] = {
    "mean": {},
    "everything before the patches": {"pool": "cls", "num_registers": 2},
    "registers alone": {"num_registers": 2, "position": "factorized"},
    "swiglu": {"encoder": EncoderOptions(activation="swiglu", layer_scale=0.1, qk_norm=True, pre_norm=True)},
    **{name: {"encoder": EncoderOptions(activation=name)} for name in vitrail.ACTIVATIONS},
    "mlp head": {"head": HEADS.configure("mlp", activation="relu")},
    "tanh head": {"head": HEADS.configure("linear", activation="tanh")},
    "attention pool": {"pool": POOLS.configure("attention", activation="gelu_tanh")},
    "cait": {"pool": "cait", "norm_order": "pool_norm"},
    "windows and a neck": {"windows": vitrail.WindowOptions(2, relative_grid=(2, 3)), "neck_dim": 8},
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_array_has_size_zero(kind: str) -> None:
    """orbax refuses to save one, Muon divides by zero, and the largest number of none is an error."""
    assert all(leaf.size for leaf in jax.tree.leaves(eqx.filter(small_model(**KINDS[kind]), eqx.is_array)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_pickled_and_copied_and_has_the_structure_of_its_copies(kind: str) -> None:
    model = small_model(**KINDS[kind])
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        assert jax.tree.structure(other) == jax.tree.structure(model)
        assert eqx.tree_equal(other, model)
    # What an average of weights is made by:
    average = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, copy.deepcopy(model), model)
    assert eqx.tree_equal(average, model, rtol=1e-5)
    twin = model.config.build(key=KEY)
    assert jax.tree.structure(twin) == jax.tree.structure(model)


def test_a_model_goes_to_another_process(tmp_path: Path) -> None:
    model = small_model(pool="attention", num_registers=1)
    image = image_for(model)
    (tmp_path / "model").write_bytes(pickle.dumps((model, np.asarray(image))))
    program = (
        "import pickle, sys, jax; model, image = pickle.load(open(sys.argv[1], 'rb'));"
        "twin = model.config.build(key=jax.random.key(0));"
        "assert jax.tree.structure(twin) == jax.tree.structure(model);"
        "print(*map(float, model(image)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model")], capture_output=True, text=True, check=True
    )
    np.testing.assert_allclose([float(x) for x in done.stdout.split()], run(model, image), rtol=1e-5, atol=1e-5)


def test_the_number_of_blocks_cuts_nothing_out_of_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = small_model().blocks
    monkeypatch.setattr(type(blocks), "__getitem__", lambda self, index: pytest.fail("a block was cut out"))
    assert len(small_model().blocks) == 2


def test_a_resized_model_with_a_pool_that_depends_on_the_grid_is_saved(tmp_path: Path) -> None:
    model = small_model(pool="weighted")
    larger = model.resized((16, 20))
    pool: Any = larger.readout.pool
    assert pool.scores.shape == larger.config.grid == (4, 5)
    expected = jax.image.resize(model.readout.pool.scores, (4, 5), "linear")  # type: ignore[attr-defined]
    np.testing.assert_allclose(pool.scores, expected, rtol=1e-6)
    vitrail.save(larger, tmp_path / "model.safetensors")
    assert eqx.tree_equal(vitrail.load(tmp_path / "model.safetensors"), larger)


@pytest.mark.parametrize("pool", ["mean", "cls", POOLS.configure("cls", num_tokens=3)], ids=str)
def test_the_distilled_head_wants_two_tokens(pool: Any) -> None:
    with pytest.raises(ValueError, match=r"two tokens .* use pool=POOLS.configure\('cls', num_tokens=2\)"):
        small_model(pool=pool, head="distilled", num_registers=2)


def test_the_distilled_head_goes_with_the_pool_that_its_error_names() -> None:
    model = small_model(pool=POOLS.configure("cls", num_tokens=2), head="distilled", num_registers=1)
    assert run(model, image_for(model)).shape == (5,)


@pytest.mark.parametrize(
    "changes",
    [*KINDS.values(), {"position": "rope"}, {"position": "factorized", "pool": "weighted"}, {"patch": "conv_stem"}],
    ids=[*KINDS, "rope", "factorized and weighted", "conv_stem"],
)
def test_numpy_leaves_are_leaves(changes: dict[str, Any]) -> None:
    """As `jax.device_get` returns them, and as a user puts them in by `eqx.tree_at`."""
    model = small_model(**changes)
    plain, image = jax.device_get(model), image_for(model)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(plain))
    expected = run(model, image)
    for logits in (plain(image), run(plain, image), vitrail.compile(plain)(image[None])[0]):
        np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=2e-5)
    assert eqx.tree_equal(plain.blocks[1], model.blocks[1])
    larger, expected_larger = (m.resized((16, 20)) for m in (plain, model))
    assert eqx.tree_equal(larger, expected_larger)
    other, expected_other = (vitrail.replace(m, pool="max", num_classes=3, key=KEY) for m in (plain, model))
    assert eqx.tree_equal(other, expected_other)


def test_execution_changes_on_numpy_leaves() -> None:
    model = small_model(pool="cls", num_registers=1)
    other = jax.device_get(model).with_execution(vitrail.Execution(scan=False))
    assert eqx.tree_equal(other, model.with_execution(vitrail.Execution(scan=False)))


def test_a_partial_in_a_configuration_is_equal_to_its_copies() -> None:
    """It is a static field of the model, so the structure of a copy depends on it."""
    config = small_config(pool=functools.partial(vitrail.TopKPool, k=2))
    model = config.build(key=KEY)
    again = small_config(pool=functools.partial(vitrail.TopKPool, k=2)).build(key=KEY)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), again):
        assert jax.tree.structure(other) == jax.tree.structure(model)
        assert eqx.tree_equal(jax.tree.map(lambda a, b: (a + b) / 2, other, model), model)
    assert config != small_config(pool=functools.partial(vitrail.TopKPool, k=3))


@pytest.mark.parametrize("changed", ["pool", "rotation"])
def test_a_model_that_its_configuration_does_not_describe_is_not_saved(changed: str, tmp_path: Path) -> None:
    """Another model would be loaded, without a word."""
    model = small_model(pool="cls", position="rope")
    if changed == "pool":
        model = eqx.tree_at(lambda m: m.readout.pool, model, vitrail.MeanPool(16))
    else:
        rope = vitrail.RotaryPosition(head_dim=8, rule="dinov3")
        model = eqx.tree_at(lambda m: m.backbone.position, model, rope)
    with pytest.raises(ValueError, match="a part or a setting that its configuration does not describe"):
        vitrail.save(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_gradients_have_the_structure_of_the_model() -> None:
    model = small_model(pool="cls")
    gradient = eqx.filter_grad(lambda m, x: jnp.sum(m(x)))(model, image_for(model))
    assert jax.tree.structure(gradient) == jax.tree.structure(eqx.filter(model, eqx.is_inexact_array))
