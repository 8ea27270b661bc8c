"""What lies beside a checkpoint: each setting is read, or is an error; none is passed over."""

import dataclasses
import json
import math
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import ml_dtypes
import numpy as np
import pytest
from checkpoint_cases import Case, drawn, load_cases, published, tensors_of
from safetensors.numpy import save_file

import vitrail
from vitrail import CheckpointError, Preprocess
from vitrail.images import CLIP
from vitrail.weights import LAYOUTS
from vitrail.weights.formats import open_source
from vitrail.weights.layouts import Checkpoint, FilesBeside, find_settings

CASES = load_cases()
TIMM = CASES["timm vit_tiny_patch16_224"]
HF = CASES["transformers ViTForImageClassification"]


def beside(case: Case, folder: Path, settings: dict[str, Any], **tensors: np.ndarray) -> Path:
    """The checkpoint of a case with other settings, and some of its tensors others."""
    path = published(case, folder)
    (folder / "config.json").write_text(json.dumps((case.settings or {}) | settings))
    save_file({**tensors_of(case), **tensors}, path)
    return path


# Positions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "arguments", "grid", "covers"),
    [
        (81, {"img_size": [32, 40]}, (8, 10), True),  # also the square of nine
        (81, {"img_size": [36, 36]}, (9, 9), False),
        (80, {"img_size": [32, 40]}, (8, 10), False),
        (81, {"no_embed_class": True}, (9, 9), False),
        (17, {"no_embed_class": False}, (4, 4), True),
        (17, {}, (4, 4), True),
        (16, {}, (4, 4), False),
    ],
)
def test_a_table_of_positions_is_read_as_the_settings_have_it(
    rows: int, arguments: dict[str, Any], grid: tuple[int, int], covers: bool, tmp_path: Path
) -> None:
    settings = {"model_args": {"num_heads": 2, **arguments}, "pretrained_cfg": {}}
    table = drawn("pos_embed", (1, rows, 16))
    model = vitrail.load(beside(TIMM, tmp_path, settings, pos_embed=table))
    assert model.config.grid == grid
    assert isinstance(model.backbone.position, vitrail.LearnedPosition)
    assert (model.backbone.position.class_token is not None) == covers
    assert np.array_equal(model.backbone.position.patches.reshape(-1, 16), table[0, int(covers) :])


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        (HF, {"image_size": 384}),
        (HF, {"image_size": 10**9}),
        (TIMM, {"model_args": {"num_heads": 2, "img_size": 32}}),
    ],
    ids=["384", "10**9", "timm"],
)
def test_an_image_size_that_the_positions_deny_is_an_error(
    case: Case, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"has positions for 16 patches, but the image size of \d+ pixels"):
        vitrail.load(beside(case, tmp_path, settings))


def test_positions_that_are_no_square_want_an_image_size(tmp_path: Path) -> None:
    settings = {"model_args": {"num_heads": 2}, "pretrained_cfg": {}}
    with pytest.raises(CheckpointError, match="has 13 positions, which is not a square number"):
        vitrail.load(beside(TIMM, tmp_path, settings, pos_embed=drawn("pos_embed", (1, 14, 16))))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("timm vit_tiny_patch16_224", {"model_args": {"num_heads": math.inf}}, "'num_heads' beside .* must divide 16"),
        ("transformers Siglip2VisionModel", {"patch_size": 0}, "describes a model that cannot be built"),
        *(
            (
                "transformers DINOv3ViTModel",
                {"rope_theta": base},
                "model.safetensors describes a model .* base must be",
            )
            for base in (math.nan, 0.0, -3.0)
        ),
    ],
)
def test_a_number_that_cannot_be_is_named(name: str, settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    for read in (vitrail.load, vitrail.model_card):
        with pytest.raises(CheckpointError, match=message):
            read(beside(CASES[name], tmp_path, {"pretrained_cfg": {}, **settings}))


@pytest.mark.parametrize(
    ("name", "settings", "unread"),
    [
        ("timm vit_tiny_patch16_224", {"n_heads": 2, "num_heads": 2}, "'n_heads'"),
        (
            "timm vit_tiny_patch16_224",
            {"num_heads": 2, "image_size": 384, "hidden_act": "gelu"},
            "'hidden_act', 'image_size'",
        ),
        (
            "transformers ViTModel",
            {"num_attention_heads": 2, "layer_norm_eps": 1e-6, "layer_norm_epsilon": 1e-6},
            "'layer_norm_epsilon'",
        ),
        ("Meta DINOv2 mlp", {"num_heads": 2, "patch_size": 14}, "'patch_size'"),
    ],
)
def test_a_setting_that_nothing_reads_is_named_where_it_was_typed(
    name: str, settings: dict[str, Any], unread: str, tmp_path: Path
) -> None:
    path = published(CASES[name], tmp_path)
    for read in (vitrail.load, vitrail.model_card):
        with pytest.raises(ValueError, match=rf"reads from this file, got {unread}: it reads .*'num_\w*heads'"):
            read(path, config=settings)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert vitrail.load(path).config.size.num_heads == 2  # a library writes much that is for others


@pytest.mark.parametrize("heads", [1, 4])
def test_heads_that_dinov3s_periods_deny_are_an_error(heads: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must have 'rope_embed\.periods' as"):
        vitrail.load(published(CASES["Meta DINOv3"], tmp_path), config={"num_heads": heads})


# open_clip -------------------------------------------------------------------------------------------------------

OPEN_CLIP = CASES["open_clip gelu"]
VISION = {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 4}


def open_clip(folder: Path, vision: dict[str, Any], case: Case = OPEN_CLIP, prefix: str = "", **others: Any) -> Path:
    """A folder as open_clip publishes it."""
    tensors = {prefix + name: array for name, array in tensors_of(case).items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    whole = {
        "model_cfg": {"embed_dim": 5, "vision_cfg": vision, "text_cfg": {"heads": 2}, "quick_gelu": False},
        **others,
    }
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    return folder


def test_a_folder_of_open_clips_is_the_same_model(tmp_path: Path) -> None:
    model = vitrail.load(open_clip(tmp_path, VISION), part="image")
    (tmp_path / "plain").mkdir()
    plain = vitrail.load(published(OPEN_CLIP, tmp_path / "plain"), part="image", **OPEN_CLIP.options)
    config = dataclasses.replace(plain.config, preprocess=model.config.preprocess)
    assert eqx.tree_equal(model, dataclasses.replace(plain, config=config))


@pytest.mark.parametrize(
    "setting",
    [{"attentional_pool": True}, {"pos_embed_type": "sin_cos_2d"}, {"surprise": 1}],
    ids=str,
)
def test_a_vision_tower_of_open_clips_that_is_not_known_is_named(setting: dict[str, Any], tmp_path: Path) -> None:
    (name,) = setting
    with pytest.raises(CheckpointError, match=rf"open_clip_config.json has '{name}' as .* in its 'vision_cfg'"):
        vitrail.load(open_clip(tmp_path, VISION | setting))
    nothing = {name: None, "pool_type": "tok", "norm_kwargs": {}}
    assert vitrail.load(open_clip(tmp_path, VISION | nothing), part="image").config.pool == "cls"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pool_type": "none"}, "must have a 'pool_type' of 'tok', 'avg', got 'none'"),
        ({"norm_kwargs": {"bias": False}}, "must have 'norm_kwargs' with 'eps' alone beside it, got {'bias': False}"),
        ({"act_kwargs": {"approximate": "sin"}}, "'hidden_act' must be .*, got 'gelu' and 'sin'"),
    ],
    ids=str,
)
def test_a_value_of_open_clips_that_is_not_known_is_named(
    setting: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        vitrail.load(open_clip(tmp_path, VISION | setting))


@pytest.mark.parametrize("width", [0, "64"])
def test_a_head_width_that_cannot_be_is_named(width: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="describes a model that cannot be built"):
        vitrail.load(open_clip(tmp_path, VISION | {"head_width": width}))


def test_preprocessing_of_open_clips_that_is_no_object_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="describes a model that cannot be built"):
        vitrail.load(open_clip(tmp_path, VISION, preprocess_cfg=5))


NUMBERS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Preprocess("cover", "bicubic", *CLIP)),
        ({"preprocess_cfg": {}}, Preprocess("cover", "bicubic", *CLIP)),
        (
            {"preprocess_cfg": {**NUMBERS, "resize_mode": "squash", "interpolation": "bilinear"}},
            Preprocess("squash", "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        ),
        ({"preprocess_cfg": {"resize_mode": "longest"}}, Preprocess("border", "bicubic", *CLIP, border="black")),
        ({"preprocess_cfg": {"resize_mode": "longest", "fill_color": 9}}, None),
        (
            {"preprocess_cfg": {"interpolation": "random"}},
            Preprocess("cover", "bicubic", *CLIP),
        ),  # as open_clip evaluates
    ],
)
def test_the_pictures_of_open_clip_are_prepared_as_it_says(given: Any, expected: Any, tmp_path: Path) -> None:
    assert vitrail.model_card(open_clip(tmp_path, VISION, **given)).config.preprocess == expected
    tower = {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"}
    folder = open_clip(tmp_path, tower | {"image_size": 16}, CASES["timm vit_base_patch16_siglip_224"], "visual.trunk.")
    whole = json.loads((folder / "open_clip_config.json").read_text())
    (folder / "open_clip_config.json").write_text(json.dumps(whole | given))
    layout = LAYOUTS["timm"].image
    assert layout is not None
    with open_source(folder) as source, ExitStack() as opened:
        settings = find_settings(source.path, FilesBeside(source, opened))
        checkpoint = Checkpoint(source, layout, {**settings, "model_args": {"num_heads": 2}})
        config = layout.read_config(checkpoint)
    assert config.encoder.activation == "gelu"
    assert config.preprocess == expected
    assert settings["model_args"] == {"img_size": 16}


# Channels --------------------------------------------------------------------------------------------------------

GREY = np.asarray([[[0], [51]], [[102], [255]]], np.uint8)


def with_channels(case: Case, channels: int) -> Case:
    """A case whose patch embedding reads another number of channels."""
    shapes = {
        name: (shape[0], channels, *shape[2:])
        if name.endswith(("patch_embed.proj.weight", "projection.weight"))
        else shape
        for name, shape in case.shapes.items()
    }
    return dataclasses.replace(case, shapes=shapes)


def timm_settings(mean: list[float], std: list[float]) -> dict[str, Any]:
    return {
        "pretrained_cfg": {"interpolation": "bicubic", "crop_mode": "squash", "crop_pct": 1, "mean": mean, "std": std}
    }


@pytest.mark.parametrize(
    ("channels", "mean", "std", "expected"),
    [
        (1, [0.2], [0.4], ((0.2,), (0.4,))),
        (1, [0.5, 0.5, 0.5], [0.25, 0.25, 0.25], ((0.5,), (0.25,))),
        (3, [0.2], [0.4], ((0.2, 0.2, 0.2), (0.4, 0.4, 0.4))),
        (3, [0.2], [0.4, 0.5, 0.6], ((0.2, 0.2, 0.2), (0.4, 0.5, 0.6))),
        (1, [0.4, 0.5, 0.6], [0.4], None),  # which of the three is for grey, nothing says
        (3, [0.4, 0.5], [0.4], None),
        (4, [0.5], [0.25], ((0.5,) * 4, (0.25,) * 4)),
        (4, [0.4, 0.5, 0.6, 0.7], [0.5], ((0.4, 0.5, 0.6, 0.7), (0.5,) * 4)),
        (4, [0.4, 0.5, 0.6], [0.5, 0.6, 0.7], None),
    ],
)
def test_a_mean_of_one_number_counts_for_every_channel(
    channels: int, mean: list[float], std: list[float], expected: Any, tmp_path: Path
) -> None:
    timm = beside(with_channels(TIMM, channels), tmp_path / "timm", timm_settings(mean, std))
    hugging_face = published(with_channels(HF, channels), tmp_path / "hf")
    processor = {"size": {"height": 16, "width": 16}, "image_mean": mean, "image_std": std}
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(processor))
    for path in (timm, hugging_face):
        card = vitrail.model_card(path)
        assert card.config.channels == channels
        found = card.config.preprocess
        assert (None if found is None else (found.mean, found.std)) == expected
        if expected is not None:
            picture = np.repeat(np.repeat(GREY, 8, 0), 8, 1)
            pixels = card.preprocess(picture if channels in (1, 3) else picture.reshape(16, 16, 1).repeat(channels, 2))
            assert pixels.shape == (16, 16, channels)
            places = np.asarray(pixels)[::8, ::8]
            np.testing.assert_allclose(places, (GREY / 255 - np.asarray(expected[0])) / expected[1], atol=1e-6)
            assert eqx.filter_jit(vitrail.load(path))(pixels).shape == (5,)


def test_a_mean_that_is_a_number_is_read(tmp_path: Path) -> None:
    path = published(HF, tmp_path)
    processor = {"size": {"height": 16, "width": 16}, "image_mean": 0.2, "image_std": 0.4}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = vitrail.model_card(path).config.preprocess
    assert found == Preprocess("squash", "bilinear", (0.2,) * 3, (0.4,) * 3, half_pixel="down")


def test_what_is_known_of_a_family_follows_the_channels_of_the_model(tmp_path: Path) -> None:
    grey = published(with_channels(HF, 1), tmp_path)
    assert vitrail.model_card(grey).config.preprocess == Preprocess(
        "squash", "bilinear", (0.5,), (0.5,), half_pixel="down"
    )
    deit = beside(with_channels(HF, 1), tmp_path, {"model_type": "deit"})  # whose mean is that of colours
    assert vitrail.model_card(deit).config.preprocess is None


# Pools, towers, activations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["prr", "map", 7])
@pytest.mark.parametrize("name", ["timm vit_tiny_patch16_224", "timm vit_small_patch16_dinov3"])
def test_a_pool_of_timms_that_is_not_known_is_named(name: str, pool: object, tmp_path: Path) -> None:
    arguments = {key: value for key, value in (CASES[name].settings or {})["model_args"].items() if "pool" not in key}
    for settings in ({"model_args": arguments | {"global_pool": pool}}, {"global_pool": pool, "model_args": arguments}):
        with pytest.raises(CheckpointError, match=rf"'global_pool' beside .* must be one of .*, got {pool!r}"):
            vitrail.load(beside(CASES[name], tmp_path, settings))


@pytest.mark.parametrize(
    ("arguments", "pool"),
    [
        ({"global_pool": "avg"}, "mean"),
        ({"global_pool": "max"}, "max"),
        ({"global_pool": "avgmax"}, "mean_max"),
        ({"global_pool": ""}, "none"),
        ({"global_pool": "avg", "pool_include_prefix": True}, vitrail.POOLS.configure("mean", include_prefix=True)),
        ({"global_pool": "token", "pool_include_prefix": True}, "cls"),
    ],
)
def test_the_pool_of_timms_arguments_is_read(arguments: dict[str, Any], pool: Any, tmp_path: Path) -> None:
    """The oracles compare the numbers."""
    path = beside(TIMM, tmp_path, {"model_args": (TIMM.settings or {})["model_args"] | arguments})
    model = vitrail.load(path)
    assert model.config.pool == pool
    vitrail.save(model, tmp_path / "written", layout="timm")
    assert eqx.tree_equal(vitrail.load(tmp_path / "written"), model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"act_layer": "mish"}, "'act_layer' beside .* must be one of .*, got 'mish'"),
        ({"norm_layer": "groupnorm"}, "'norm_layer' beside .* must be 'layernorm' or 'rmsnorm', got 'groupnorm'"),
        (
            {"global_pool": "max", "pool_include_prefix": True},
            "'pool_include_prefix' beside .* must be false for .*'max'",
        ),
        ({"scale_mlp": True}, "'scale_mlp', which vitrail does not know"),
        ({"final_norm": False}, "'final_norm' beside .* must be True for these tensors, got False"),
        ({"proj_bias": False}, "'proj_bias' beside .* must be True for these tensors, got False"),
        ({"scale_attn_norm": True}, "'scale_attn_norm' beside .* must be False for these tensors, got True"),
        ({"pos_embed": "none"}, "'pos_embed', which vitrail does not know"),
        ({"block_fn": "ResPostBlock"}, "'block_fn', which vitrail does not know"),
        ({"norm_layer": "layernorm"}, "'norm_layer' beside .* must be that of AIMv2, got 'layernorm'"),
        ({"act_layer": "gelu"}, "'act_layer' beside .* must be that of AIMv2, got 'gelu'"),
    ],
)
def test_an_argument_of_timms_that_changes_the_model_is_named(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    case = CASES["timm aimv2_large_patch14_224"] if "AIMv2" in message else TIMM
    with pytest.raises(CheckpointError, match=message):
        vitrail.load(beside(case, tmp_path, {"model_args": (case.settings or {})["model_args"] | arguments}))


def test_arguments_of_timms_that_are_its_own_change_nothing(tmp_path: Path) -> None:
    plain = vitrail.load(published(TIMM, tmp_path / "plain"))
    usual = {
        "scale_attn_norm": False,
        "pos_embed": "learn",
        "final_norm": True,
        "norm_layer": "layernorm",
        "proj_bias": True,
    }
    path = beside(TIMM, tmp_path, {"model_args": (TIMM.settings or {})["model_args"] | usual})
    assert eqx.tree_equal(vitrail.load(path), plain)


# Without settings ------------------------------------------------------------------------------------------------


def bare(name: str, folder: Path, *, without: tuple[str, ...] = ()) -> Path:
    """The tensors of a case alone, as they are downloaded without the settings beside them."""
    folder.mkdir(exist_ok=True)
    tensors = {key: array for key, array in tensors_of(CASES[name]).items() if not key.startswith(without or ("-",))}
    save_file(tensors, folder / "weights.safetensors")
    return folder / "weights.safetensors"


@pytest.mark.parametrize(
    ("name", "without", "message"),
    [
        ("timm vit_tiny_patch16_224", (), r"how many heads .*config=\{'num_heads': \.\.\.\}"),
        (
            "timm vit_tiny_patch16_224",
            ("head",),
            "whether timm, MAE or DINO wrote it, .* pass layout='mae' or layout='dino'",
        ),
        ("timm vit_tiny_patch16_224", ("pos_embed",), "has no 'pos_embed', .*config=.*{'pos_embed': 'none'}"),
        ("timm vit_tiny_patch16_224", ("pos_embed", "head"), "has no 'pos_embed', .*config=.*{'pos_embed': 'none'}"),
        ("timm eva_giant_patch14_224", (), "which tokens its pool reads, .*'avg'} for EVA and DINOv3, .*'token'}"),
        ("timm vit_small_patch16_dinov3_qkvb", (), "which tokens its pool reads, .*'token'} for EVA-CLIP and LingBot"),
        ("transformers CLIPVisionModel", (), "which activation its CLIP has, .*'quick_gelu'} for OpenAI's"),
        ("transformers ViTModel", (), "the eps of its norms, .*1e-12} for ViT, DeiT and MAE, .*1e-6} for MSN"),
        ("transformers DeiTModel", (), r"how many heads .*config=\{'num_attention_heads': \.\.\.\}"),
    ],
)
def test_a_file_without_settings_that_published_models_share_is_asked_about(
    name: str, without: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    path = bare(name, tmp_path, without=without)
    for read in (vitrail.load, vitrail.model_card):
        with pytest.raises(CheckpointError, match=message):
            read(path)


def test_a_backbone_with_one_register_is_asked_about(tmp_path: Path) -> None:
    """Google's own names of TIPSv2's MLP are those of DINOv2, which has four registers."""
    tensors = tensors_of(CASES["transformers Tipsv2VisionModel"])
    for name in list(tensors):
        tensors[name.replace("c_fc", "fc1").replace("c_proj", "fc2")] = tensors.pop(name)
    path, config = tmp_path / "model.safetensors", {"num_attention_heads": 2}
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"whether it is DINOv2 or TIPSv2, .* pass layout='hf_tipsv2'"):
        vitrail.load(path, config=config)
    expected = vitrail.load(path, config=config, layout="hf_tipsv2")
    text = {"text_encoder.ln_final.weight": np.ones(3, np.float32)}
    save_file({f"vision_encoder.{name}": array for name, array in tensors.items()} | text, path)
    assert eqx.tree_equal(vitrail.load(path, config=config), expected)


@pytest.mark.parametrize(
    ("name", "config", "assumed"),
    [
        ("timm vit_tiny_patch16_224", {"num_heads": 2}, {"architecture": "a plain ViT's", "global_pool": "token"}),
        (
            "timm vit_tiny_patch16_224 without positions",
            {"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": 2, "pos_embed": ""}},
            {"img_size": 224},
        ),
        ("timm vit_small_patch16_dinov3", {"num_heads": 2}, {"global_pool": "avg"}),
        ("timm eva_giant_patch14_224", {"num_heads": 2, "global_pool": "token"}, {}),
        ("transformers CLIPVisionModel", {"num_attention_heads": 2, "hidden_act": "gelu"}, {"layer_norm_eps": 1e-5}),
        (
            "transformers DeiTModel",
            {"num_attention_heads": 2},
            {"layer_norm_eps": 1e-12, "hidden_act": "gelu", "pooler_act": "tanh"},
        ),
        (
            "transformers ViTModel",
            {"num_attention_heads": 2, "model_type": "vit_msn"},
            {"layer_norm_eps": 1e-6, "hidden_act": "gelu", "pooler_act": "tanh"},
        ),
    ],
)
def test_what_is_taken_without_settings_stands_in_the_card(
    name: str, config: dict[str, Any], assumed: dict[str, object], tmp_path: Path
) -> None:
    card = vitrail.model_card(bare(name, tmp_path), config=config)
    assert {key: value for key, value in card.assumed.items() if key != "preprocess"} == assumed


def test_a_backbone_with_timms_names_is_read_as_its_layout_says(tmp_path: Path) -> None:
    """MAE, DINO and timm resample the positions by three rules. At their own size all three are one model."""
    path = bare("timm vit_tiny_patch16_224", tmp_path, without=("head",))
    rules = {"timm": "torch_bicubic_antialias", "mae": "torch_bicubic", "dino": "dinov2_offset"}
    models: list[vitrail.ViT] = []
    for layout, rule in rules.items():
        config = {"num_heads": 2, **({"architecture": "vit_tiny_patch16_224"} if layout == "timm" else {})}
        model = vitrail.load(path, layout=layout, config=config)
        assert isinstance(model, vitrail.ViT)
        assert dict(model.config.position.options)["resize"] == rule  # type: ignore[union-attr]
        assert (model.config.preprocess is None) == (layout == "timm")
        models.append(model)
    arrays = [list(jax.tree.leaves(eqx.filter(model, eqx.is_array))) for model in models]
    assert all(np.array_equal(a, b) for others in arrays[1:] for a, b in zip(arrays[0], others, strict=True))


@pytest.mark.parametrize(
    ("architecture", "heads"),
    [("vit_tiny_patch16_224", 3), ("vit_small_patch16_224", 6), ("vit_base_patch16_224_in21k", 12)],
)
def test_an_architecture_says_the_heads_of_another_width(architecture: str, heads: int, tmp_path: Path) -> None:
    """timm keeps the number of heads where only the width is an argument."""
    shapes = {name: tuple({16: 48, 24: 72, 48: 144}.get(n, n) for n in shape) for name, shape in TIMM.shapes.items()}
    case = dataclasses.replace(
        TIMM, shapes=shapes, settings={"architecture": architecture, "model_args": {"embed_dim": 48}}
    )
    shapes["pos_embed"], shapes["patch_embed.proj.weight"] = (1, 17, 48), (48, 3, 4, 4)
    card = vitrail.model_card(published(case, tmp_path))
    assert card.config.size.num_heads == heads
    assert not card.missing
    assert "num_heads" not in card.assumed


def test_what_a_described_model_leaves_out_is_the_librarys_own(tmp_path: Path) -> None:
    """transformers gives a ViT whose settings do not say its heads twelve, and a gated DINOv3 GELU."""
    shapes = {name: tuple({16: 48}.get(n, n) for n in shape) for name, shape in HF.shapes.items()}
    shapes["vit.embeddings.patch_embeddings.projection.weight"] = (48, 3, 4, 4)
    settings = {"model_type": "vit", "image_size": 16}
    card = vitrail.model_card(published(dataclasses.replace(HF, shapes=shapes, settings=settings), tmp_path / "vit"))
    assert card.config.size.num_heads == 12
    assert card.assumed["num_attention_heads"] == 12
    gated = CASES["transformers DINOv3ViTModel gated"]
    settings = {key: value for key, value in (gated.settings or {}).items() if key != "hidden_act"}
    with pytest.raises(CheckpointError, match="has a gated MLP, which must have 'silu', got 'gelu'"):
        vitrail.load(published(dataclasses.replace(gated, settings=settings), tmp_path / "dinov3"))


SAM, CLIP_TOWER = CASES["transformers SamVisionModel"], CASES["transformers CLIPVisionModel"]


@pytest.mark.parametrize(
    ("case", "settings", "message"),
    [
        (SAM, {"hidden_act": "mish"}, "'hidden_act' beside .*'mish'"),
        (SAM, {"model_type": "vit"}, "says 'vit'"),
        (SAM, {"model_type": "sam", "vision_config": {"model_type": "vit"}}, "says 'vit'"),
        (CLIP_TOWER, {"vision_config": {"model_type": "siglip_vision_model"}}, "says 'siglip_vision_model'"),
        (CLIP_TOWER, {"vision_config": 5}, "'vision_config' beside .* must be an object, got 5"),
        (CLIP_TOWER, {"vision_config_dict": [5]}, r"'vision_config_dict' beside .* must be an object, got \[5\]"),
    ],
)
def test_the_settings_of_a_tower_are_checked(
    case: Case, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        vitrail.load(beside(case, tmp_path, settings))


@pytest.mark.parametrize(("theirs", "ours"), [("gelu_fast", "gelu_tanh"), ("gelu_python", "gelu"), ("swish", "silu")])
def test_another_name_of_an_activation_is_read(theirs: str, ours: str, tmp_path: Path) -> None:
    model = vitrail.load(beside(HF, tmp_path, {"hidden_act": theirs}))
    assert model.config.encoder.activation == ours
    vitrail.save(model, tmp_path / "written", layout="hf_vit")
    assert vitrail.load(tmp_path / "written").config == model.config


def test_sams_activation_is_read(tmp_path: Path) -> None:
    assert vitrail.load(beside(SAM, tmp_path, {"hidden_act": "relu"})).config.encoder.activation == "relu"


def test_timms_sam_may_have_a_classifier_which_is_ignored(tmp_path: Path) -> None:
    case = CASES["timm samvit_base_patch16"]
    extra = {"head.weight": np.zeros((5, 6), np.float32), "head.bias": np.zeros(5, np.float32)}
    assert vitrail.load(beside(case, tmp_path, {}, **extra)).config.head == "none"


# What is computed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tensor", "change"),
    [
        ("Meta DINOv3", "rope_embed.periods", lambda array: 3 * array),
        ("Meta DINOv3", "rope_embed.periods", lambda array: array + np.float32(np.nan)),
        ("timm vit_small_patch16_dinov3_qkvb", "blocks.1.attn.k_bias", lambda array: np.ones(16, np.float32)),
    ],
)
def test_what_vitrail_computes_itself_has_to_be_that(name: str, tensor: str, change: Any, tmp_path: Path) -> None:
    case = CASES[name]
    path = beside(case, tmp_path, {}, **{tensor: change(tensors_of(case).get(tensor))})
    message = rf"must have '{tensor}' as \[.*\], which the layout '.*' computes, got \["
    with pytest.raises(CheckpointError, match=message):
        vitrail.load(path, **case.options)


def test_periods_in_bfloat16_are_near_enough(tmp_path: Path) -> None:
    case = CASES["Meta DINOv3"]
    periods = tensors_of(case)["rope_embed.periods"]
    near = {"rope_embed.periods": (periods * np.float32(1 + 2**-8)).astype(ml_dtypes.bfloat16)}
    path = published(case, tmp_path)
    save_file(tensors_of(case) | near, path)
    assert vitrail.load(path, **case.options).config.size.num_heads == 2


# Names ------------------------------------------------------------------------------------------------------------

DINOV2 = CASES["Meta DINOv2 mlp"]


def renamed(case: Case, path: Path, rename: Callable[[str], str], **others: np.ndarray) -> Path:
    """The tensors of a case by other names, and some more."""
    save_file({rename(name): array for name, array in tensors_of(case).items()} | others, path)
    return path


def chunk(name: str) -> str:
    """The blocks in chunks of one, as Meta's training shards them: `blocks.1.1.norm1.weight`."""
    return re.sub(r"^blocks\.(\d+)\.", r"blocks.\1.\1.", name)


@pytest.mark.parametrize(
    ("case", "rename"),
    [
        (TIMM, lambda name: f"module.{name}"),
        (TIMM, lambda name: f"_orig_mod.{name}"),
        (TIMM, lambda name: f"module._orig_mod.{name}"),
        (TIMM, lambda name: f"model.backbone.{name}"),
        (TIMM, lambda name: f"encoder.{name}"),
        (TIMM, lambda name: name.replace("blocks.0.", "blocks.0._orig_mod.")),
        (TIMM, lambda name: name.replace("blocks.", "_fsdp_wrapped_module.blocks.")),
        (DINOV2, chunk),
        (DINOV2, lambda name: f"teacher.backbone.{chunk(name)}"),
        (DINOV2, lambda name: f"module.backbone._orig_mod.{chunk(name)}"),
        (HF, lambda name: f"module.{name}"),
        (CASES["open_clip gelu"], lambda name: f"module.{name}"),
        (CASES["Meta SAM"], lambda name: f"model.{name}"),
    ],
)
def test_a_model_is_found_under_the_names_of_its_wrappers(
    case: Case, rename: Callable[[str], str], tmp_path: Path
) -> None:
    plain = vitrail.load(published(case, tmp_path), part="image", **case.options)
    path = renamed(case, tmp_path / "model.safetensors", rename)
    assert eqx.tree_equal(vitrail.load(path, part="image", **case.options), plain)


def test_one_of_two_models_is_chosen_by_its_prefix(tmp_path: Path) -> None:
    settings = {"config": {"num_heads": 2}}
    seconds = {f"second.{name}": array + 1 for name, array in tensors_of(DINOV2).items()}
    path = renamed(DINOV2, tmp_path / "both.safetensors", lambda name: f"first.{name}", **seconds)
    for read in (vitrail.load, vitrail.model_card):
        with pytest.raises(
            CheckpointError, match=r"several models, .* '(first|second)\.', '(first|second)\.': pass prefix=, or"
        ):
            read(path, **settings)
        with pytest.raises(ValueError, match=r"prefix must be what some names in .* begin with, got 'ema\.'"):
            read(path, prefix="ema.", **settings)
        with pytest.raises(ValueError, match=r"must end with the dot .*: pass prefix='first\.'"):
            read(path, prefix="first", **settings)
        with pytest.raises(CheckpointError, match=r"Its 2 tensors under 'first\.blocks\.0\.norm1\.' begin with 'bias"):
            read(path, prefix="first.blocks.0.norm1.", **settings)
    plain = vitrail.load(published(DINOV2, tmp_path / "plain"), **DINOV2.options)
    assert eqx.tree_equal(vitrail.load(path, prefix="first.", **settings), plain)
    card = vitrail.model_card(path, prefix="first.", **settings)
    assert {name for name, why in card.ignored.items() if why == "not under the prefix 'first.'"} == seconds.keys()
    vitrail.save(plain, tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match="layout, config and prefix must be None for a file of vitrail's own"):
        vitrail.load(tmp_path / "own.safetensors", prefix="first.")


def test_settings_inside_those_of_a_larger_model_are_read(tmp_path: Path) -> None:
    """As in TrOCR, whose encoder is a ViT."""
    shapes = {f"encoder.{name.removeprefix('vit.')}": shape for name, shape in HF.shapes.items() if "vit." in name}
    settings = {"model_type": "vision-encoder-decoder", "encoder": HF.settings, "decoder": {"model_type": "trocr"}}
    case = dataclasses.replace(HF, shapes=shapes | {"decoder.weight": (3, 3)}, settings=settings)
    model = vitrail.load(published(case, tmp_path))
    assert (model.config.size.num_heads, model.config.head) == (2, "none")
    assert vitrail.model_card(tmp_path).ignored == {"decoder.weight": "not under the prefix 'encoder.'"}


def test_settings_of_a_model_that_is_not_known_are_not_blamed(tmp_path: Path) -> None:
    path = beside(HF, tmp_path, {"model_type": "yolos"})
    with pytest.raises(
        CheckpointError, match=r"says 'yolos', which vitrail does not know: .*config=\{'model_type': 'vit'"
    ):
        vitrail.load(path)


def test_a_dinov3_without_registers_may_have_their_empty_table(tmp_path: Path) -> None:
    case = CASES["transformers DINOv3ViTModel"]
    shapes = {**case.shapes, "embeddings.register_tokens": (1, 0, 16)}
    model = vitrail.load(published(dataclasses.replace(case, shapes=shapes), tmp_path))
    assert model.config.num_registers == 0


def test_open_clips_names_with_timms_settings_have_the_activation_of_the_architecture(tmp_path: Path) -> None:
    for architecture, activation in (
        ("vit_base_patch32_clip_quickgelu_224", "quick_gelu"),
        ("vit_base_patch32_clip_224", "gelu"),
    ):
        case = dataclasses.replace(OPEN_CLIP, settings={"architecture": architecture, "num_heads": 2})
        assert vitrail.load(published(case, tmp_path), part="image").config.encoder.activation == activation


def test_a_file_of_no_layout_names_the_nearest(tmp_path: Path) -> None:
    """All of EVA's names, and a mask token."""
    mask = {"mask_token": np.zeros((1, 1, 16), np.float32)}
    path = renamed(CASES["timm eva_giant_patch14_224"], tmp_path / "masked.safetensors", str, **mask)
    with pytest.raises(
        CheckpointError, match=r"no layout that vitrail knows\. .*nearest layout is '\w+' .*, but the file has"
    ):
        vitrail.load(path)
    save_file({"blocks.0.attn.qkv.weight": np.zeros((3, 1), np.float32)}, path)
    with pytest.raises(CheckpointError, match=r"nearest layout is '\w+' \(.*\), but the file lacks '"):
        vitrail.load(path)
    renamed(TIMM, path, lambda name: f"{'a' if 'patch_embed' in name else 'b'}.{name}")
    with pytest.raises(CheckpointError, match=r"nearest .*, but the file has these names under several prefixes$"):
        vitrail.load(path)


# BEiT ------------------------------------------------------------------------------------------------------------

BEIT = CASES["timm beit_base_patch16_224"]
HF_BEIT = CASES["transformers BeitModel"]
TABLE = "relative_position_bias_table"


@pytest.mark.parametrize(
    ("case", "names"),
    [
        (BEIT, {"pos_embed": (1, 17, 16)}),
        (BEIT, {f"rel_pos_bias.{TABLE}": (52, 2)}),
        (HF_BEIT, {"embeddings.position_embeddings": (1, 17, 16)}),
        (HF_BEIT, {f"encoder.relative_position_bias.{TABLE}": (52, 2)}),
    ],
)
def test_a_beit_has_positions_of_one_kind(case: Case, names: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    path = beside(case, tmp_path, {}, **{name: drawn(name, shape) for name, shape in names.items()})
    with pytest.raises(CheckpointError, match=r"has positions of several kinds, '\S+', '\S+': vitrail loads no BEiT"):
        vitrail.load(path)


def test_a_beit_of_microsoft_has_buffers_and_what_pre_training_needs(tmp_path: Path) -> None:
    """The distances of four rows of four patches are numbered by sevens, and the class token has the last three."""
    index = np.empty((17, 17), np.int64)
    for query, key in np.ndindex(16, 16):
        index[1 + query, 1 + key] = 7 * (query // 4 - key // 4 + 3) + query % 4 - key % 4 + 3
    index[0], index[1:, 0], index[0, 0] = 49, 50, 51
    others = {
        "blocks.0.attn.relative_position_index": index,
        "mask_token": drawn("mask_token", (1, 1, 16)),
        "lm_head.weight": drawn("lm_head.weight", (7, 16)),
        "cls_pt_layers.0.gamma_1": drawn("gamma_1", (16,)),
    }
    model = vitrail.load(renamed(BEIT, tmp_path / "microsoft.safetensors", str, **others))
    settings = vitrail.load(published(BEIT, tmp_path))
    assert all(map(np.array_equal, jax.tree.leaves(model), jax.tree.leaves(settings)))
    assert (model.config.size, model.config.pool) == (settings.config.size, "mean")  # type: ignore[union-attr]
    index[0, 0] = 0
    with pytest.raises(
        CheckpointError, match=r"(?s)must have 'blocks.0.attn.relative_position_index' as .*another model"
    ):
        vitrail.load(renamed(BEIT, tmp_path / "microsoft.safetensors", str, **others))


@pytest.mark.parametrize(
    ("case", "settings", "said"),
    [
        (BEIT, {"model_args": {"img_size": 20}}, "49 distances between patches, which does not fit 5 x 5 patches"),
        (HF_BEIT, {"image_size": 24}, "49 distances between patches, which does not fit 6 x 6 patches"),
        (BEIT, {"model_args": {"swiglu_mlp": True}}, "model_args 'swiglu_mlp', which vitrail does not know"),
    ],
)
def test_settings_that_do_not_fit_a_beit_are_an_error(
    case: Case, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=said):
        vitrail.load(beside(case, tmp_path, settings))


def test_a_beit_of_an_oblong_grid_is_not_what_its_library_reads(tmp_path: Path) -> None:
    """transformers exchanges rows and columns there; timm takes any table for a square one, or one of its own size."""
    tables = {name: drawn(name, (3 * 11 + 3, 2)) for name in HF_BEIT.shapes if name.endswith(TABLE)}
    path = beside(HF_BEIT, tmp_path, {"image_size": [8, 24]}, **tables)
    with pytest.raises(CheckpointError, match="must have positions for a square grid of patches, got the image size"):
        vitrail.load(path)
    model = vitrail.load(published(BEIT, tmp_path / "timm"), image_size=(16, 24))
    for layout, said in (
        ("timm_beit", "square grids alone, got 4 x 6"),
        ("hf_beit", "must have positions for a square grid"),
    ):
        with pytest.raises(ValueError, match=said):
            vitrail.save(model, tmp_path / "written", layout=layout)  # type: ignore[arg-type]


def test_a_beit_without_a_final_norm_is_a_part_of_something_else(tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in HF_BEIT.shapes.items() if not name.startswith("pooler.")}
    with pytest.raises(CheckpointError, match="has a BEiT without a final norm, as a segmenter or DPT reads it"):
        vitrail.load(published(dataclasses.replace(HF_BEIT, shapes=shapes), tmp_path))


def test_a_beit_is_written_with_a_pool_that_timm_has(tmp_path: Path) -> None:
    model = vitrail.load(published(BEIT, tmp_path), pool="max")
    with pytest.raises(ValueError, match="the pool must be 'cls', 'mean' or 'none' there, got 'max'"):
        vitrail.save(model, tmp_path / "written", layout="timm_beit")


@pytest.mark.parametrize(
    ("case", "interpolation"),
    [(HF_BEIT, "bilinear"), (CASES["transformers Data2VecVisionForImageClassification"], "bicubic"), (BEIT, "bicubic")],
)
def test_images_of_a_beit_are_prepared_as_published(case: Case, interpolation: str, tmp_path: Path) -> None:
    """transformers' conversion scripts made the files on the Hub with these."""
    preprocess = vitrail.model_card(published(case, tmp_path)).config.preprocess  # type: ignore[union-attr]
    fit = "squash" if case.layout == "hf_beit" else "cover"
    expected = (fit, interpolation, (0.5,) * 3)
    assert preprocess is not None
    assert (preprocess.fit, preprocess.interpolation, preprocess.mean) == expected


@pytest.mark.parametrize("settings", [{}, {"label_names": list("abcde")}])
def test_the_head_of_perception_encoder_makes_embeddings_unless_its_classes_have_names(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """timm calls the width of the published embedding `num_classes`."""
    case = CASES["timm vit_pe_core_tiny_patch16_384"]
    card = vitrail.model_card(beside(case, tmp_path, settings))
    assert card.embeds == (not settings)
