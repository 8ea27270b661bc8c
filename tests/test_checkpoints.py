"""Checkpoints of other libraries: what those gave when the fixtures were made, and Flax now."""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import stat
import subprocess
import sys
import textwrap
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import flax_vit
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_cases import TOLERANCE, differences, differences_of, image_of, load_cases, published, tensors_of
from helpers import image_for, prefix_of, run, small_model
from safetensors import safe_open
from safetensors.numpy import load_file
from system_cases import load_system_cases

import vitrail
from vitrail import CheckpointError
from vitrail.weights import LAYOUTS, Layout

CASES = load_cases()


def image_layout(name: str) -> Layout[Any]:
    """The layout of that name, of a system that of its image model."""
    return LAYOUTS[name].image or LAYOUTS[name]


@pytest.fixture(scope="module")
def load_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], vitrail.ViT]:
    """Publishes and loads the image model of the case of a name, once."""

    @functools.cache
    def load(name: str) -> vitrail.ViT:
        path = published(CASES[name], tmp_path_factory.mktemp("checkpoint"))
        return vitrail.load(path, part="image", **CASES[name].options)

    return load


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_gives_the_numbers_of_its_library(name: str, load_case: Callable[[str], vitrail.ViT]) -> None:
    found = differences_of(CASES[name], load_case(name))
    assert max(found.values()) <= TOLERANCE, found


WRITABLE = {name: case for name, case in CASES.items() if image_layout(case.layout).export is not None}


@pytest.mark.parametrize("name", WRITABLE)
def test_a_layout_is_written_back_to_the_bit(
    name: str, tmp_path: Path, load_case: Callable[[str], vitrail.ViT]
) -> None:
    case, model = WRITABLE[name], load_case(name)
    vitrail.save(model, tmp_path / "again", layout=case.layout)  # type: ignore[arg-type]
    layout = image_layout(case.layout)
    written, given = load_file(tmp_path / "again/model.safetensors"), tensors_of(case)
    written, given = ({short(layout, key): array for key, array in each.items()} for each in (written, given))
    assert written.keys() <= given.keys()
    assert all(layout.reason_to_ignore(key) for key in given.keys() - written.keys())
    assert all(np.array_equal(array, given[key]) for key, array in written.items())
    again = vitrail.load(tmp_path / "again")
    assert with_exact_crop(again.config) == with_exact_crop(model.config)
    assert all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(again), jax.tree.leaves(model), strict=True))


def with_exact_crop(config: vitrail.ViTConfig) -> vitrail.ViTConfig:
    """A configuration whose images are cropped by whole pixels, as Hugging Face's files say it."""
    if config.preprocess is None:
        return config
    crop = config.image_size[0] / config.preprocess.compute_scaled_size(config.image_size)[0]
    return dataclasses.replace(config, preprocess=dataclasses.replace(config.preprocess, crop=crop))


def short(layout: Layout[Any], name: str) -> str:
    """A name without what the layout leaves out: a model with a head has it, and its backbone alone has not."""
    return name.removeprefix(next((prefix for prefix in layout.prefixes if name.startswith(prefix)), ""))


@pytest.mark.parametrize("name", flax_vit.CASES)
def test_a_flax_checkpoint_gives_the_numbers_of_flax(name: str, tmp_path: Path) -> None:
    case = flax_vit.CASES[name]()
    found = differences(case, published(case, tmp_path))
    assert max(found.values()) <= TOLERANCE, found


def test_blocks_that_big_vision_stacks_are_the_same_model(tmp_path: Path) -> None:
    case = flax_vit.CASES["big_vision tok"]()
    plain = vitrail.load(published(case, tmp_path))
    tensors = tensors_of(case)
    blocks = [{k.partition("_0/")[2]: a for k, a in tensors.items() if "encoderblock_0/" in k}]
    blocks.append({k.partition("_1/")[2]: a for k, a in tensors.items() if "encoderblock_1/" in k})
    stacked = {f"Transformer/encoderblock/{k}": np.stack([block[k] for block in blocks]) for k in blocks[0]}
    rest = {k: a for k, a in tensors.items() if "encoderblock" not in k}
    whole = {f"params/img/{k}": a for k, a in (rest | stacked).items()}
    np.savez(tmp_path / "stacked.npz", **whole)
    assert eqx.tree_equal(vitrail.load(tmp_path / "stacked.npz"), plain)
    np.savez(tmp_path / "more.npz", **whole, **{"step": np.zeros(3, np.float32)})
    card = vitrail.model_card(tmp_path / "more.npz", prefix="params/img/")
    assert (card.ignored, card.unknown) == ({"step": "not under the prefix 'params/img/'"}, ())


def test_sines_and_cosines_that_big_vision_does_not_store_are_known(tmp_path: Path) -> None:
    case = flax_vit.CASES["big_vision gap"]()
    tensors = {name: array for name, array in tensors_of(case).items() if name != "pos_embedding"}
    np.savez(tmp_path / "m.npz", **tensors)
    model = vitrail.load(tmp_path / "m.npz", config={"image_size": 16})
    assert isinstance(model.backbone.position, vitrail.SinCos2DPosition)
    table = model.backbone.position.compute_table((4, 4), 16)[None]
    expected = flax_vit.ViT("gap", positions=table).apply(
        {"params": flax_vit.nested(tensors)}, jnp.asarray(image_of((16, 16)))[None]
    )
    np.testing.assert_allclose(model(image_of((16, 16))), expected["logits"], atol=1e-5)


# What the model is to end with -----------------------------------------------------------------------------------

VIT = CASES["transformers ViTForImageClassification"]


def test_a_loaded_model_takes_another_pool_head_and_size(tmp_path: Path) -> None:
    path, key = published(VIT, tmp_path), jax.random.key(0)
    whole = vitrail.load(path)
    model = vitrail.load(path, pool="attention", num_classes=7, image_size=(24, 32), key=key)
    assert eqx.filter_jit(model)(image_of((24, 32))).shape == (7,)
    assert eqx.tree_equal(model.backbone.encoder, whole.backbone.encoder)
    assert prefix_of(model.backbone).shape == (1, 16)  # the class token that it learned with stays
    features = vitrail.load(path, num_classes=None)
    assert features.config.head == "none"
    assert eqx.filter_jit(features)(image_of((16, 16))).shape == (16,)
    finer = vitrail.load(path, image_size=16, patch_size=2)
    assert finer.config.grid == (8, 8)
    vitrail.save(model, tmp_path / "ours.safetensors")
    assert eqx.tree_equal(vitrail.load(tmp_path / "ours.safetensors"), model)


def test_weights_that_would_be_new_want_a_key(tmp_path: Path) -> None:
    path = published(VIT, tmp_path)
    assert vitrail.load(path, pool="max").config.pool == "max"
    with pytest.raises(ValueError, match=r"need a key for new weights.*'readout.head.linear"):
        vitrail.load(path, num_classes=7)


def test_layout_and_config_can_be_given(tmp_path: Path) -> None:
    path = published(VIT, tmp_path)
    config = vitrail.load(path).config
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    for given in (config, tmp_path / "other.json", str(tmp_path / "other.json"), VIT.settings):
        assert vitrail.load(path, layout="hf_vit", config=given).config == config
    with pytest.raises(vitrail.CheckpointError, match=r"of the layout 'hf_vit', has 'embeddings.*does not fit"):
        vitrail.load(path, config=dataclasses.replace(config, image_size=(32, 32)))
    with pytest.raises(ValueError, match=r"layout must be one of 'timm', .* got 'keras'$"):
        vitrail.load(path, layout="keras")
    with pytest.raises(ValueError, match=r"got 'hf_vti' \(did you mean 'hf_vit'\?\)$"):
        vitrail.load(path, layout="hf_vti")
    vitrail.save(vitrail.load(path, config=config), tmp_path / "ours.safetensors")
    with pytest.raises(ValueError, match="must be None for a file of vitrail's own"):
        vitrail.load(tmp_path / "ours.safetensors", layout="hf_vit")


def test_a_model_that_a_layout_has_no_name_for_is_not_written(tmp_path: Path) -> None:
    model = vitrail.load(published(VIT, tmp_path), pool="gem", key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"pool='gem' would be read back as pool='cls'"):
        vitrail.save(model, tmp_path / "m", layout="hf_vit")
    for unknown in ("mae", "TIMM"):  # one that is read but not written, and one that there is not
        with pytest.raises(ValueError, match=rf"^layout must be one of 'vitrail', 'timm', .*, got '{unknown}'$"):
            vitrail.save(model, tmp_path / "m", layout=unknown)  # type: ignore[arg-type]
    dinov3 = vitrail.load(published(CASES["transformers DINOv3ViTModel"], tmp_path / "d"))
    trained = eqx.tree_at(
        lambda m: m.backbone.encoder.stack.attention.qkv.bias, dinov3, replace_fn=lambda bias: bias + 1
    )
    with pytest.raises(ValueError, match=r"qkv.bias' must be zero where this layout does not store it"):
        vitrail.save(trained, tmp_path / "m", layout="hf_dinov3")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        ("timm", {"position": "sincos2d"}, "has no 'pos_embed'"),
        ("timm", {"position": "rope"}, "has no 'pos_embed'"),
        ("timm", {"pool": "sum"}, "'global_pool' beside .* got 'sum'"),
        (
            "timm",
            {"encoder": vitrail.EncoderOptions(norm_eps=1e-5)},
            "norm_eps=1e-05 would be read back as norm_eps=1e-06",
        ),
        ("timm", {"encoder": vitrail.EncoderOptions(pre_norm=True)}, "would be read back as .*norm_eps=1e-05"),
        (
            "timm_eva",
            {"encoder": vitrail.EncoderOptions(qkv_bias=False)},
            "it would be read back as timm's VisionTransformer",
        ),
        ("hf_vit", {"position": "sincos2d"}, "lacks the tensor .* position='sincos2d'"),
        ("hf_vit", {"patch": "conv_stem"}, "'backbone.patch.*' has no name there"),
        ("hf_vit", {"pool": "mean", "class_token": True}, "pool='mean' would be read back as pool='cls'"),
        ("hf_vit", {"norm_order": "pool_norm"}, "norm_order='pool_norm' would be read back as norm_order='norm_pool'"),
        ("hf_dinov2", {}, "has no layout|would be read back as"),
        (
            "hf_dinov2",
            {"encoder": vitrail.EncoderOptions(layer_scale=1.0)},
            "pool='cls' would be read back as pool='cls_mean'",
        ),
        ("hf_vit", {"num_registers": 2}, "has positions for 17 patches, .* with num_registers=2, class_token"),
        (
            "hf_clip",
            {"encoder": vitrail.EncoderOptions(pre_norm=True)},
            r"patch='conv' would be read back as patch='conv\(bias=False\)'\. Save",
        ),
    ],
    ids=str,
)
def test_a_model_that_would_be_read_as_another_is_not_written(
    layout: Any, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = small_model(**{"image_size": (16, 16), "pool": "cls", **changes})
    with pytest.raises(ValueError, match=message):
        vitrail.save(model, tmp_path / "m", layout=layout)
    assert not list(tmp_path.iterdir())


PRE_NORM = vitrail.EncoderOptions(pre_norm=True, norm_eps=1e-5)
NO_BIAS = vitrail.PATCHES.configure("conv", bias=False)
OBLONG = {"image_size": (12, 20)}
GATED = vitrail.EncoderOptions(activation="swiglu", layer_scale=1.0)
SCALED = vitrail.EncoderOptions(layer_scale=1.0)
MAP = vitrail.POOLS.configure("attention", num_heads=2, mlp_dim=24)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COVER, PAD = (vitrail.Preprocess(fit, "bicubic", *IMAGENET) for fit in ("cover", "pad"))  # type: ignore[arg-type]
NONE: dict[str, Any] = {"head": "none", "num_classes": None}


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        ("timm", {"encoder": PRE_NORM}, "patch embedding has a bias there unless pre_norm is set, got pre_norm=True"),
        ("timm", {"patch": NO_BIAS}, "patch embedding has a bias there unless pre_norm is set, got pre_norm=False"),
        (
            "timm",
            {"encoder": dataclasses.replace(PRE_NORM, activation="swiglu"), "patch": NO_BIAS},
            "a gated MLP has neither a pre_norm nor",
        ),
        ("timm", {"pool": MAP}, "the MLP of the attention pool is that of a block there, got mlp_dim=24"),
        ("timm", {"preprocess": PAD}, r"preprocess=Preprocess\(fit='pad', .* would be read back as preprocess=None"),
        ("timm", {"preprocess": PAD, **OBLONG}, "preprocess=.*'pad'.* would be read back as preprocess=None"),
        ("hf_vit", {"preprocess": COVER, **OBLONG}, "preprocess=.*'cover'.* would be read back as preprocess=None"),
        ("hf_vit", {"preprocess": PAD, **OBLONG}, "images that are not square are squashed there, got .*'pad'"),
        ("hf_vit", {"num_registers": 1, "class_token": False, "pool": "mean"}, "distillation token or a pooler needs"),
        ("hf_vit", {"classes": ("a", "", "b", "c", "d")}, r"classes=\('a', '', .* would be read back as classes=None"),
        (
            "hf_vit",
            {"head": vitrail.HEADS.configure("linear", activation="tanh"), "class_token": False, "pool": "mean"},
            "distillation token or a pooler needs a class token there",
        ),
        (
            "hf_dinov2",
            {"encoder": GATED, **NONE},
            "mlp_dim must be one that a whole mlp_ratio gives for dim=16, got 20",
        ),
        (
            "hf_dinov2",
            {"encoder": SCALED, **NONE},
            "mlp_dim must be one that a whole mlp_ratio gives for dim=16, got 20",
        ),
        (
            "hf_dinov2",
            {"encoder": SCALED, "size": vitrail.EncoderSize(16, 1, 2, 32), **NONE, **OBLONG},
            "image_size must be square there, got 12 x 20",
        ),
        ("hf_clip", {"encoder": PRE_NORM, "patch": NO_BIAS, **NONE, **OBLONG}, "image_size must be square there"),
        (
            "hf_clip",
            {"encoder": PRE_NORM, "patch": NO_BIAS, **NONE, "patch_size": (4, 8)},
            "patch_size must be square there, got 4 x 8",
        ),
        ("hf_siglip", {"pool": "mean", "class_token": False, **OBLONG}, "image_size must be square there"),
        (
            "hf_sam",
            {
                **OBLONG,
                **NONE,
                "pool": "none",
                "class_token": False,
                "neck_dim": 6,
                "position": vitrail.POSITIONS.configure("learned", covers_prefix=False),
                "size": vitrail.EncoderSize(16, 2, 2, 32),
                "windows": vitrail.encoder.WindowOptions(size=2, global_blocks=(1,), relative_grid=(3, 5)),
            },
            "image_size must be square there",
        ),
    ],
    ids=str,
)
def test_a_model_that_a_library_cannot_build_is_not_written(
    layout: Any, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    usual = {"image_size": (16, 16), "pool": "cls", "size": vitrail.EncoderSize(16, 1, 2, 20)}
    model = small_model(**{**usual, **changes})
    with pytest.raises(ValueError, match=message):
        vitrail.save(model, tmp_path / "m", layout=layout)
    assert not list(tmp_path.iterdir())


NORMS: dict[str, Any] = {
    "bias": False,
    "norm": "rms",
    "post_norm": True,
    "attention_norm": True,
    "mlp_norm": True,
    "norm_order": "none",
    "neck_dim": 8,
    "windows": vitrail.WindowOptions(2),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("layout", ["hf_vit", "hf_dinov2"])
def test_an_option_that_a_layout_does_not_know_is_named(layout: Any, name: str, tmp_path: Path) -> None:
    is_dinov2 = layout == "hf_dinov2"
    options = vitrail.EncoderOptions(layer_scale=1.0 if is_dinov2 else None)
    of_encoder = {name: NORMS[name]} if hasattr(options, name) else {}
    model = small_model(
        **{"image_size": (16, 16), "class_token": is_dinov2 and name not in ("windows", "neck_dim"), **NONE},
        encoder=dataclasses.replace(options, **of_encoder),
        **({} if of_encoder else {name: NORMS[name]}),
    )
    with pytest.raises(
        ValueError, match=rf"{name}[ =].*would be read back as|'backbone.neck|of a model with .*class_token=False"
    ):
        vitrail.save(model, tmp_path / "m", layout=layout)


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        ("hf_vit", {"head": vitrail.HEADS.configure("linear", bias=True)}),
        ("hf_vit", {"preprocess": COVER, "classes": ("a", "b", "ü", "d", "e")}),
        ("timm", {"preprocess": dataclasses.replace(COVER, crop=0.9), "classes": ("a", "b", "ü", "d", "e")}),
        ("timm", {"pool": vitrail.POOLS.configure("gap"), "norm_order": "pool_norm", "class_token": True}),
        ("timm", {"num_registers": 2, "encoder": vitrail.EncoderOptions(layer_scale=0.1)}),
        ("timm", {"dropout": vitrail.Dropout(drop_path=0.2)}),
        ("timm", {"pool": "mean"}),
        ("timm", {"encoder": vitrail.EncoderOptions(activation="relu")}),
    ],
    ids=str,
)
def test_a_model_of_our_own_is_written_for_another_library(
    layout: Any, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = small_model(**{"image_size": (16, 16), "pool": "cls", **changes})
    vitrail.save(model, tmp_path / "m", layout=layout)
    loaded = vitrail.load(tmp_path / "m")
    np.testing.assert_array_equal(run(loaded, image_for(model)), run(model, image_for(model)))
    assert loaded.config.classes == model.config.classes
    has_processor = layout == "hf_vit" and model.config.preprocess is not None
    names = {"model.safetensors", "config.json", *(["preprocessor_config.json"] if has_processor else [])}
    assert {path.name for path in (tmp_path / "m").iterdir()} == names
    photo = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    if model.config.preprocess is not None and loaded.config.preprocess is not None:
        found, expected = (config.preprocess(photo, (16, 16)) for config in (loaded.config, model.config))  # type: ignore[misc]
        np.testing.assert_array_equal(found, expected)


def test_a_folder_is_written_over_and_keeps_nothing_of_the_old_model(tmp_path: Path) -> None:
    first = small_model(image_size=(16, 16), pool="cls", preprocess=COVER)
    second = small_model(image_size=(16, 16), pool="cls", num_classes=7)
    (tmp_path / "README.md").write_text("mine")
    for model in (first, second):
        vitrail.save(model, tmp_path, layout="hf_vit")
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "model.safetensors", "config.json"}
    assert vitrail.load(tmp_path).config.num_classes == 7


@pytest.mark.parametrize("layout", ["timm", "hf_vit"])
def test_an_interrupted_folder_has_the_old_model_or_is_opened_by_no_library(
    layout: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step of writing ends in `os.fsync`: the save is interrupted in the first, in the second, and so on."""
    old, new = (small_model(image_size=(16, 16), pool="cls", preprocess=COVER, num_classes=n) for n in (3, 7))
    outcomes = list[str]()
    for allowed in range(20):
        vitrail.save(old, tmp_path, layout=layout)
        files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        calls = iter(range(100))

        def interrupt(descriptor: int, calls: Any = calls, allowed: int = allowed, fsync: Any = os.fsync) -> None:
            if next(calls) == allowed:
                raise KeyboardInterrupt
            fsync(descriptor)

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(os, "fsync", interrupt)
            vitrail.save(new, tmp_path, layout=layout)
        if next(calls) <= allowed:
            break
        if {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files:
            outcomes.append("old")
            continue
        try:
            json.loads((tmp_path / "config.json").read_bytes())
            outcomes.append("new")
            assert vitrail.load(tmp_path).config.num_classes == 7
        except json.JSONDecodeError:
            outcomes.append("closed")
            with pytest.raises(CheckpointError, match=r"config\.json must be .* JSON, got .*: save the model again'"):
                vitrail.load(tmp_path)
    assert list(dict.fromkeys(outcomes)) == ["old", "closed", "new"]


@pytest.mark.parametrize("layout", ["timm", "hf_vit"])
def test_the_tensors_of_a_folder_are_not_loaded_without_its_settings(layout: Any, tmp_path: Path) -> None:
    """Four heads of 16 channels: published models have one of 64."""
    size = vitrail.EncoderSize(dim=64, depth=1, num_heads=4, mlp_dim=64)
    model = small_model(image_size=(16, 16), pool="cls", size=size)
    vitrail.save(model, tmp_path, layout=layout)
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata()["format"] == "pt"  # or transformers does not open it
    (tmp_path / "config.json").rename(tmp_path / "elsewhere.json")
    for read in (vitrail.load, vitrail.model_card):
        for path in (tmp_path, tmp_path / "model.safetensors"):
            with pytest.raises(CheckpointError, match=r"model.safetensors must have 'config.json' beside it, which "):
                read(path)
    loaded = vitrail.load(tmp_path, config=tmp_path / "elsewhere.json")
    assert loaded.config.size.num_heads == 4
    np.testing.assert_array_equal(run(loaded, image_for(model)), run(model, image_for(model)))


def test_the_files_of_a_folder_keep_their_modes_and_links(tmp_path: Path) -> None:
    model = small_model(image_size=(16, 16), pool="cls", preprocess=COVER)
    (tmp_path / "files").mkdir()
    (tmp_path / "m").mkdir()
    names = ("model.safetensors", "config.json", "preprocessor_config.json")
    for name in names:
        (tmp_path / "files" / name).touch()
        (tmp_path / "files" / name).chmod(0o640)
        (tmp_path / "m" / name).symlink_to(Path("../files") / name)
    vitrail.save(model, tmp_path / "m", layout="hf_vit")
    for name in names:
        assert (tmp_path / "m" / name).readlink() == Path("../files") / name
        assert stat.S_IMODE((tmp_path / "files" / name).stat().st_mode) == 0o640
    assert vitrail.load(tmp_path / "m").config.preprocess is not None
    vitrail.save(small_model(image_size=(16, 16), pool="cls"), tmp_path / "m", layout="hf_vit")
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"model.safetensors", "config.json"}


@pytest.mark.parametrize("layout", ["timm", "hf_vit"])
def test_a_layout_of_a_library_is_a_folder(layout: Any, tmp_path: Path) -> None:
    model = small_model(image_size=(16, 16), pool="cls")
    (tmp_path / "file").touch()
    for name in ("m.safetensors", "file"):
        with pytest.raises(ValueError, match=rf"path must be a folder for layout='{layout}', .*name the folder"):
            vitrail.save(model, tmp_path / name, layout=layout)
    with pytest.raises(FileNotFoundError, match=r"/nowhere is not a folder: make it before writing .*/nowhere/m"):
        vitrail.save(model, tmp_path / "nowhere" / "m", layout=layout)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


KEPT = {
    "transformers Dinov2Model": "hf_dinov2",
    "transformers Dinov2ForImageClassification": "hf_dinov2",
    "transformers Dinov2WithRegistersModel": "hf_dinov2",
    "transformers DINOv3ViTModel": "hf_dinov3",
    "transformers SiglipForImageClassification": "hf_siglip",
}


@pytest.mark.parametrize("name", KEPT)
def test_what_the_model_does_not_need_is_written_again(name: str, tmp_path: Path) -> None:
    """The file that is written has the tensors of the one that was read, all of them and to the bit."""
    from safetensors.numpy import load_file

    layout: Any = KEPT[name]
    path = published(CASES[name], tmp_path / "read")
    model = vitrail.load(path, part="image")
    vitrail.save(model, tmp_path / "written", layout=layout, keep=tmp_path / "read")
    read, written = load_file(path), load_file(tmp_path / "written" / "model.safetensors")
    needed = {key: array for key, array in read.items() if not key.startswith(("text_model", "logit_"))}
    assert needed.keys() == written.keys()
    assert all(np.array_equal(array, written[key]) for key, array in needed.items())
    settings = json.loads((tmp_path / "written" / "config.json").read_text())
    assert settings.get("use_mask_token", True)
    assert settings.get("vision_config", {}).get("vision_use_head", True)
    again = vitrail.load(tmp_path / "written").config
    assert dataclasses.replace(again, preprocess=model.config.preprocess) == model.config


def test_what_is_kept_has_to_be_there_and_of_the_model(tmp_path: Path) -> None:
    path = published(CASES["transformers Dinov2Model"], tmp_path / "read")
    model = vitrail.load(path)
    assert isinstance(model, vitrail.ViT)
    with pytest.raises(ValueError, match="keep must be None for vitrail's own format"):
        vitrail.save(model, tmp_path / "m.safetensors", keep=path)
    vitrail.save(model, tmp_path / "none", layout="hf_dinov2")
    with pytest.raises(ValueError, match=r"keep must be a file with tensors that .*DINOv2.* has beside this model"):
        vitrail.save(model, tmp_path / "written", layout="hf_dinov2", keep=tmp_path / "none")
    with pytest.raises(ValueError, match=r"keep must be the file that the model is from, .* whose '\S+' is F32"):
        vitrail.save(model.resized(32), tmp_path / "written", layout="hf_dinov2", keep=path)
    assert not (tmp_path / "written").exists()


def test_the_layouts_that_are_written_are_those_that_the_type_names() -> None:
    written = {layout.name for layout in ALL_LAYOUTS if layout.export is not None}
    assert {"vitrail"} | written == set(typing.get_args(vitrail.WritableLayout))


ALL_LAYOUTS = [each for layout in LAYOUTS.values() for each in (layout, layout.image) if each is not None]


@pytest.mark.parametrize("layout", ALL_LAYOUTS, ids=lambda layout: f"{layout.name}-{layout.kind.__name__}")
def test_the_facts_of_a_layout_fit_each_other(layout: Layout[Any]) -> None:
    assert layout.name in LAYOUTS
    assert layout.signature
    assert (layout.image is None) == (layout.kind is vitrail.ViTConfig)
    assert not {*layout.signature, *itertools.chain(*layout.one_of)} & {*layout.foreign}
    assert {pattern for pattern, _ in layout.computed} <= {pattern for pattern, _ in layout.ignored}
    assert layout.preprocess.keys() <= {"", *layout.model_types}
    if layout.library.name == "Hugging Face":
        assert layout.model_types
        assert layout.image is not None or {"layer_norm_eps", "rms_norm_eps"} & layout.usual.keys()


def test_every_case_is_of_one_layout_and_all_layouts_have_one() -> None:
    elsewhere = {"big_vision", "vision_transformer", "dino"} | {case.layout for case in load_system_cases().values()}
    assert {case.layout for case in CASES.values()} | elsewhere == LAYOUTS.keys()


def write_hugging_face_file(path: Path) -> None:
    size = vitrail.EncoderSize(dim=768, depth=6, num_heads=12, mlp_dim=3072)
    config = vitrail.ViTConfig(image_size=(224, 224), patch_size=(16, 16), size=size, pool="cls", num_classes=10)
    outline = eqx.filter_eval_shape(lambda: config.build(key=jax.random.key(0)))
    vitrail.save(jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, leaf.dtype), outline), path, layout="hf_vit")


def write_stacked_file(path: Path) -> None:
    large, whole = {2: 12, 8: 64, 16: 768, 24: 3072}, dict[str, np.ndarray]()
    for name, shape in flax_vit.CASES["big_vision gap, no head"]().shapes.items():
        if "encoderblock_0/" in name:
            name, shape = name.replace("_0/", "/", 1), (6, *(large[n] for n in shape))
        elif "encoderblock" in name:
            continue
        whole[name] = np.full((*shape[:-1], large.get(shape[-1], shape[-1])), 0.1, np.float32)
    with path.open("wb") as file:
        np.savez(file, **whole)


@pytest.mark.parametrize("write", [write_hugging_face_file, write_stacked_file])
def test_loading_takes_little_more_memory_than_the_weights(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "model")
    measured = """
        import einops, jax, vitrail, vitrail.weights
        jax.random.normal(jax.random.key(0), (3,))
        def status(name):
            with open("/proc/self/status") as lines:
                return next(int(line.split()[1]) for line in lines if line.startswith(name))
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
        before = status("VmRSS")
        model = vitrail.load("model")
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model) if hasattr(leaf, "nbytes"))
        print((status("VmHWM") - before) * 1024 / weights)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(measured)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 1.2
