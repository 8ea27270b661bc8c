"""Models on disk: what is saved comes back to the bit, and what is not whole is not taken for whole."""

import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import image_for, run, small_config, small_model
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import vitrail
from vitrail import POOLS

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "changes",
    [
        *({"pool": name} for name in POOLS if POOLS.get_entry(name).origins == ("vitrail",)),
        {"pool": "gap"},
        {"pool": POOLS.configure("attention", num_queries=3, num_heads=2), "norm_order": "pool_norm"},
        {"pool": "cls", "num_registers": 2, "position": "rope", "head": "mlp"},
        {"head": "none", "num_classes": None, "patch": "conv_stem", "position": "factorized"},
        {"encoder": vitrail.EncoderOptions(qk_norm=True, layer_scale=0.1, pre_norm=True, activation="swiglu")},
    ],
    ids=str,
)
def test_a_model_comes_back_to_the_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    model = small_model(**changes)
    vitrail.save(model, tmp_path / "model.safetensors")
    loaded = vitrail.load(tmp_path / "model.safetensors")
    assert eqx.tree_equal(loaded, model)
    assert loaded.config == model.config
    image = image_for(model)
    assert np.array_equal(run(loaded, image), run(model, image))


def test_the_file_holds_every_array_by_its_path_and_the_configuration(tmp_path: Path) -> None:
    model = small_model(pool="abmil")
    vitrail.save(model, str(tmp_path / "m"))
    arrays = load_file(tmp_path / "m")
    assert np.array_equal(
        arrays["backbone.encoder.stack.attention.qkv.weight"], model.backbone.encoder.stack.attention.qkv.weight
    )
    assert np.array_equal(arrays["readout.pool.score.weight"], model.readout.pool.score.weight)  # type: ignore[attr-defined]
    assert len(arrays) == len(jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    with safe_open(tmp_path / "m", framework="numpy") as file:
        assert vitrail.ViTConfig.from_json(file.metadata()["config"]) == model.config


def test_how_a_model_is_computed_is_not_in_its_file(tmp_path: Path) -> None:
    model = small_model()
    other = model.with_execution(vitrail.Execution(compute_dtype="bfloat16", scan=False, remat="blocks"))
    vitrail.save(model, tmp_path / "m")
    vitrail.save(other, tmp_path / "other")
    headers: list[dict[str, str]] = []
    for name in ("m", "other"):
        with safe_open(tmp_path / name, framework="numpy") as file:
            headers.append(file.metadata())
    assert headers[0] == headers[1]
    assert eqx.tree_equal(vitrail.load(tmp_path / "other"), model)
    assert eqx.tree_equal(vitrail.load(tmp_path / "m", execution=other.backbone.execution), other)


def test_arrays_that_do_not_lie_in_order_come_back_right(tmp_path: Path) -> None:
    model = small_model()
    weight = np.asfortranarray(np.asarray(model.readout.head.linear.weight))  # type: ignore[attr-defined]
    turned = eqx.tree_at(lambda m: m.readout.head.linear.weight, model, weight)
    vitrail.save(turned, tmp_path / "m")
    assert eqx.tree_equal(vitrail.load(tmp_path / "m"), model)


def test_a_configuration_with_code_is_not_saved(tmp_path: Path) -> None:
    model = small_model(pool=functools.partial(vitrail.MeanPool))
    with pytest.raises(ValueError, match=r"pool must be a registered name"):
        vitrail.save(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: eqx.tree_at(lambda n: n.readout.pool, m, vitrail.GeMPool(16)),
            r"has the arrays 'readout.pool.log_power'",
        ),
        (
            lambda m: eqx.tree_at(lambda n: n.backbone.patch.bias, m, jnp.zeros(8)),
            r"'backbone.patch.bias' as float32\[8\].*\[16\]",
        ),
        (lambda m: jax.tree.map(lambda x: x.astype(jnp.bfloat16), m), r"'backbone.patch.weight' as bfloat16.*float32"),
        (
            lambda m: eqx.tree_at(lambda n: n.readout.head.linear.bias, m, None),
            r"lacks the arrays 'readout.head.linear.bias'",
        ),
    ],
)
def test_a_model_that_is_not_what_its_configuration_says_is_not_saved(
    change: Callable[[Any], Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        vitrail.save(change(small_model()), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = small_model(), small_model(seed=1)
    vitrail.save(first, tmp_path / "m")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        vitrail.save(second, tmp_path / "m")
    assert eqx.tree_equal(vitrail.load(tmp_path / "m"), first)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_model_in_a_larger_file_is_read_by_its_prefix_and_configuration(tmp_path: Path) -> None:
    student, teacher = small_model(), small_model(seed=1)
    names = {"student.": student, "teacher.": teacher}
    for name, model in names.items():
        vitrail.save(model, tmp_path / f"{name}safetensors")
    tensors = {n + k: v for n in names for k, v in load_file(tmp_path / f"{n}safetensors").items()}
    save_file(tensors, tmp_path / "both.safetensors")
    for prefix, model in names.items():
        given: dict[str, Any] = {"prefix": prefix, "config": model.config}
        assert eqx.tree_equal(vitrail.load(tmp_path / "both.safetensors", **given), model)
        card = vitrail.model_card(tmp_path / "both.safetensors", **given)
        assert (card.layout, card.missing, len(card.ignored)) == ("vitrail", (), len(tensors) // 2)
    with pytest.raises(vitrail.CheckpointError, match=r"vitrail's own, with its configuration in the header or as con"):
        vitrail.load(tmp_path / "both.safetensors", prefix="student.")
    wider = small_config(size=vitrail.EncoderSize(dim=8, depth=2, num_heads=2, mlp_dim=24))
    with pytest.raises(vitrail.CheckpointError, match=r"layout 'vitrail', has 'backbone.*which does not fit"):
        vitrail.load(tmp_path / "both.safetensors", prefix="student.", config=wider)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"/nowhere is not a folder: make it before writing .*/nowhere/m"):
        vitrail.save(small_model(), tmp_path / "nowhere" / "m")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        vitrail.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"<!doctype html><title>404</title>",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: (2**63).to_bytes(8, "little") + data[8:],
        lambda data: data[:9] + b"}" + data[10:],
    ],
)
def test_a_file_that_is_not_safetensors_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    vitrail.save(small_model(), tmp_path / "m")
    (tmp_path / "m").write_bytes(damage((tmp_path / "m").read_bytes()))
    with pytest.raises(vitrail.CheckpointError, match=r"/m is not a valid safetensors file"):
        vitrail.load(tmp_path / "m")


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    vitrail.save(small_model(), tmp_path / "m")
    data = bytearray((tmp_path / "m").read_bytes())
    data[-3] ^= 1
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(vitrail.CheckpointError, match=r"/m is damaged: the array '.*' differs from what was saved"):
        vitrail.load(tmp_path / "m")


def test_a_flipped_bit_in_the_header_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The outline of a configuration is the same every time, and most of what a load takes.
    make_outline = functools.cache(vitrail.weights._native.make_outline)
    monkeypatch.setattr("vitrail.weights._native.make_outline", make_outline)
    size = vitrail.EncoderSize(dim=2, depth=1, num_heads=1, mlp_dim=1)
    vitrail.save(small_config(size=size).build(key=KEY), tmp_path / "m")
    data = bytearray((tmp_path / "m").read_bytes())
    for place in range(0, 8 + int.from_bytes(data[:8], "little"), 5):  # all bits take minutes; this is each of eight
        data[place] ^= 1 << place % 8
        (tmp_path / "m").write_bytes(data)
        with pytest.raises(vitrail.CheckpointError, match="/m "):
            vitrail.load(tmp_path / "m")
        data[place] ^= 1 << place % 8


def test_a_configuration_that_was_edited_is_found(tmp_path: Path) -> None:
    vitrail.save(small_model(), tmp_path / "m")
    data = (tmp_path / "m").read_bytes()
    for old, new in ((b"1e-06", b"3e-06"), (b'"num_heads\\": 2', b'"num_heads\\": 4'), (b'"gelu\\"', b'"relu\\"')):
        assert old in data
        (tmp_path / "m").write_bytes(data.replace(old, new))
        for read in (vitrail.load, vitrail.model_card):
            with pytest.raises(vitrail.CheckpointError, match="/m is damaged: its header differs from what was saved"):
                read(tmp_path / "m")


def test_the_card_of_a_file_of_ours_says_what_it_has_not(tmp_path: Path) -> None:
    vitrail.save(small_model(pool="cls"), tmp_path / "m")

    def change(arrays: dict[str, np.ndarray], header: dict[str, str]) -> None:
        del arrays["backbone.patch.bias"]
        arrays |= {"more": np.zeros(3), "backbone.norm.bias": np.zeros(16)}

    rewritten(tmp_path / "m", change)
    card = vitrail.model_card(tmp_path / "m")
    wrong = "'backbone.norm.bias' as float64[16], but its configuration needs float32[16]"
    assert (card.missing, card.unknown) == ((wrong, "'backbone.patch.bias'"), ("more",))
    for given in ({"layout": "timm"}, {"config": {}}):
        with pytest.raises(ValueError, match="layout, config and prefix must be None"):
            vitrail.model_card(tmp_path / "m", **given)  # type: ignore[arg-type]


def rewritten(path: Path, change: Callable[[dict[str, np.ndarray], dict[str, str]], None]) -> None:
    """A saved file, changed as another vitrail would write it: with a digest that is right."""
    with safe_open(path, framework="numpy") as file:
        header = file.metadata()
    arrays = load_file(path)
    change(arrays, header)
    if header.keys() >= {"kind", "config", "plugins", "sha256"}:
        covered = json.dumps([header[name] for name in ("kind", "config", "plugins", "sha256")])
        header["header_sha256"] = hashlib.sha256(covered.encode()).hexdigest()
    save_file(arrays, path, metadata=header)


def config_with(header: dict[str, str], **changes: Any) -> None:
    header["config"] = json.dumps(json.loads(header["config"]) | changes)


def encoder_with(header: dict[str, str], **changes: Any) -> None:
    config_with(header, encoder=json.loads(header["config"])["encoder"] | changes)


def size_with(header: dict[str, str], **changes: Any) -> None:
    config_with(header, size=json.loads(header["config"])["size"] | changes)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a, h: h.clear(), vitrail.CheckpointError, "has no layout that vitrail knows.*are vitrail's own"),
        (
            lambda a, h: h.update(format="pt"),
            vitrail.CheckpointError,
            "has no layout that vitrail knows.*are vitrail's own",
        ),
        (
            lambda a, h: h.update(format="vitrail 99"),
            vitrail.CheckpointError,
            "must have the format 'vitrail 2', got 'vitrail 99'",
        ),
        (lambda a, h: h.update(kind="song"), vitrail.CheckpointError, "must be one of 'vit'.*, got 'song'"),
        (lambda a, h: h.pop("kind"), vitrail.CheckpointError, "must have 'kind', 'config', .* in its header"),
        (
            lambda a, h: h.update(config="{"),
            vitrail.CheckpointError,
            "has a header that this vitrail cannot read",
        ),
        (lambda a, h: h.update(sha256="3"), vitrail.CheckpointError, "digests must be a JSON object"),
        (lambda a, h: h.update(sha256="{}"), vitrail.CheckpointError, "is damaged"),
        (lambda a, h: config_with(h, colour=3), vitrail.CheckpointError, "has no field 'colour'"),
        (
            lambda a, h: config_with(h, pool="nothing"),
            vitrail.UnknownPartError,
            "/m needs a part that is missing: there is no pool 'nothing'",
        ),
        (lambda a, h: encoder_with(h, colour=3), vitrail.CheckpointError, "has no field 'colour'"),
        (
            lambda a, h: encoder_with(h, activation="no"),
            vitrail.CheckpointError,
            "/m has a header that this vitrail cannot read: [^\\n]*'no'[^\\n]*$",
        ),
        (lambda a, h: size_with(h, depth=10**19), vitrail.CheckpointError, "/m describes a model that cannot be built"),
        (lambda a, h: size_with(h, num_heads=0), vitrail.CheckpointError, "/m (describes a|has a header that)"),
        (
            lambda a, h: config_with(h, position={"name": "rope", "options": {"base": -1.0}}),
            vitrail.CheckpointError,
            "/m describes a model that cannot be built: base must be",
        ),
        (
            lambda a, h: config_with(h, pool={"name": "gem", "options": {"colour": 3}}),
            vitrail.CheckpointError,
            "/m describes a model that cannot be built: .*'colour'",
        ),
        (lambda a, h: config_with(h, num_classes=6), vitrail.CheckpointError, r"'readout.head.linear.bias' as float32"),
        (lambda a, h: a.pop("backbone.norm.bias"), vitrail.CheckpointError, "lacks the arrays 'backbone.norm.bias'"),
        (lambda a, h: a.update(more=np.zeros(3)), vitrail.CheckpointError, "has the arrays 'more'"),
        (
            lambda a, h: a.update({"backbone.norm.bias": np.zeros(16)}),
            vitrail.CheckpointError,
            r"'backbone.norm.bias' as float64\[16\].*needs float32\[16\]",
        ),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(
    change: Callable[[Any, Any], None], error: type[Exception], message: str, tmp_path: Path
) -> None:
    vitrail.save(small_model(), tmp_path / "m")
    rewritten(tmp_path / "m", change)
    with pytest.raises(error, match=message):
        vitrail.load(tmp_path / "m")


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(vitrail.CheckpointError, match=r"has no 'model\.safetensors'"):
        vitrail.load(tmp_path)


def test_a_loaded_model_is_a_model_like_any_other(tmp_path: Path) -> None:
    vitrail.save(small_config().build(key=KEY), tmp_path / "m")
    loaded = vitrail.load(tmp_path / "m")
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
    gradient = eqx.filter_grad(lambda model: run(model, image_for(model)).sum())(loaded)
    assert jnp.any(gradient.backbone.patch.weight != 0)  # type: ignore[attr-defined]


def test_a_pickle_of_pytorchs_wants_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("vitrail._extras.find_spec", lambda name: None)
    (tmp_path / "m.pt").write_bytes(b"")
    with pytest.raises(
        ImportError, match=r"torch is not installed, it is part of the extra 'torch': run pip install .*\[torch\]'"
    ):
        vitrail.convert_torch(tmp_path / "m.pt", tmp_path / "m.safetensors")
