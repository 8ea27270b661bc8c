"""Image and text in one space: the text tower, similarities, the configuration, and files that are not as they say."""

import copy
import dataclasses
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_cases import image_of
from helpers import randomise, run
from safetensors.numpy import load_file, save_file
from system_cases import SystemCase, load_system_cases

import vitrail
from vitrail import CheckpointError, EncoderOptions, EncoderSize, ImageText, ImageTextConfig, TextConfig, TextTower
from vitrail.cli import main
from vitrail.systems import TEXT_POOLINGS

SIZE = EncoderSize(dim=16, depth=2, num_heads=2, mlp_dim=24)
CASES = {
    name: case
    for name, case in load_system_cases().items()
    if case.layout.endswith(("clip", "siglip", "timm", "aimv2"))
}
TOKENS = np.asarray([18, 3, 7, 19, 0, 0, 0, 0])


def text_config(**changes: Any) -> TextConfig:
    """A small text tower, of CLIP."""
    usual = {"vocabulary": 20, "context": 8, "size": SIZE, "embed_dim": 6, "pooling": "largest_id"}
    return TextConfig(**{**usual, **changes})


def config_of(text: TextConfig | None = None, *, has_bias: bool = False, **changes: Any) -> ImageTextConfig:
    """A small CLIP."""
    usual = {
        "image_size": (16, 16),
        "patch_size": (4, 4),
        "size": SIZE,
        "num_classes": 6,
        "pool": "cls",
        "patch": vitrail.PATCHES.configure("conv", bias=False),
        "head": vitrail.HEADS.configure("linear", bias=False),
        "encoder": EncoderOptions(pre_norm=True, norm_eps=1e-5),
    }
    image = vitrail.ViTConfig(**{**usual, **changes})
    text = text_config(encoder=EncoderOptions(norm_eps=1e-5)) if text is None else text
    return ImageTextConfig(image=image, text=text, has_bias=has_bias)


def build(config: Any) -> Any:
    """A model with every array random."""
    return randomise(lambda: config.build(key=jax.random.key(0)))


@pytest.fixture(scope="module")
def model() -> ImageText:
    return build(config_of(has_bias=True))


def tower(**changes: Any) -> TextTower:
    config = text_config(**changes)
    return randomise(lambda: TextTower(config, key=jax.random.key(0)))


# The text tower --------------------------------------------------------------------------------------------------


def test_a_causal_tower_does_not_see_what_follows_the_end() -> None:
    causal, both = tower(), tower(causal=False)
    padded = np.asarray([18, 3, 7, 19, 1, 2, 3, 4])
    short = TOKENS[:4]
    np.testing.assert_allclose(run(causal, padded), run(causal, TOKENS), atol=1e-6)
    np.testing.assert_allclose(run(causal, short), run(causal, TOKENS), atol=1e-6)
    assert np.abs(run(both, padded) - run(both, TOKENS)).max() > 1e-2


@pytest.mark.parametrize("causal", [False, True])
def test_what_a_mask_leaves_out_is_not_seen(causal: bool) -> None:
    model, mask = tower(causal=causal, pooling="end_of_text", end_of_text=7), np.arange(8) < 4
    np.testing.assert_allclose(run(model, TOKENS, mask=mask), run(model, TOKENS[:4]), atol=1e-6)
    first = np.arange(8) > 0
    assert np.abs(run(model, TOKENS, mask=first) - run(model, TOKENS)).max() > 1e-3


def test_a_pooling_takes_the_token_that_its_name_says() -> None:
    tokens = np.asarray([5, 19, 7, 19, 7, 0])
    places = {name: int(find(jnp.asarray(tokens), 7)) % 6 for name, find in TEXT_POOLINGS.items()}
    assert places == {"end_of_text": 2, "largest_id": 1, "last": 5, "first": 0}
    for name, place in places.items():
        end = 7 if name == "end_of_text" else None
        model = tower(causal=False, pooling=name, end_of_text=end, embed_dim=None)
        x = model.norm(model.encoder(model.embedding[tokens] + model.positions[:6]))
        np.testing.assert_allclose(run(model, tokens), x[place], atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros(9, int), "tokens must be 1 to 8 ids, the context of the text tower, got 9: cut the text"),
        (np.zeros(0, int), "tokens must be 1 to 8 ids, .*, got 0"),
        (np.asarray([1, 20]), r"tokens must be ids in \[0, 20\), the vocabulary of the text tower, got 1 to 20"),
        (np.asarray([-1, 2]), r"got -1 to 2: use the tokenizer that belongs to the model"),
    ],
)
def test_tokens_that_do_not_fit_are_named(tokens: Any, message: str, model: ImageText) -> None:
    with pytest.raises(ValueError, match=message):
        model.embed_text(tokens)


def test_an_id_outside_of_the_vocabulary_is_nan_in_a_compiled_program(model: ImageText) -> None:
    for tokens in ([1, 20, 3], [1, -1, 3]):
        assert np.all(np.isnan(run(model.embed_text, jnp.asarray(tokens))))


@pytest.mark.parametrize("tokens", [np.zeros(4, np.float32), np.zeros((2, 4), int), [1, 2]])
def test_tokens_of_another_kind_are_refused(tokens: Any, model: ImageText) -> None:
    with pytest.raises(vitrail.CallError, match="tokens"):
        model.embed_text(tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": 0}, "vocabulary must be positive"),
        ({"context": 0}, "context must be positive"),
        ({"embed_dim": 0}, "embed_dim must be positive"),
        ({"embed_dim": None, "projection_bias": True}, "projection_bias needs a projection, got embed_dim=None"),
        ({"pooling": "end_of_text"}, "end_of_text must be the id .*, got end_of_text=None"),
        ({"pooling": "end_of_text", "end_of_text": 20}, r"end_of_text must be an id in \[0, 20\), .*got 20"),
        ({"pooling": "end_of_text", "end_of_text": -1}, r"end_of_text must be an id in \[0, 20\), .*got -1"),
        ({"end_of_text": 3}, "and None for the others, got end_of_text=3 and pooling='largest_id'"),
        ({"size": dataclasses.replace(SIZE, num_heads=3)}, "dim must be divisible by num_heads"),
    ],
)
def test_a_text_tower_that_cannot_be_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_config(**changes)


def test_a_tokenizer_pads_with_an_id_of_the_vocabulary() -> None:
    tokenizer = vitrail.TokenizerConfig(vocabulary="", context=8, pad_id=20)
    with pytest.raises(ValueError, match=r"the pad_id of tokenizer must be an id in \[0, 20\), .*got 20"):
        dataclasses.replace(config_of(), tokenizer=tokenizer)


# Both towers -----------------------------------------------------------------------------------------------------


def test_similarities_are_scaled_cosines(model: ImageText) -> None:
    images = jax.vmap(model.embed_image)(jnp.stack([image_of((16, 16)), -image_of((16, 16))]))
    texts = jax.vmap(model.embed_text)(jnp.stack([TOKENS, TOKENS[::-1], TOKENS + 0 * TOKENS]))
    for embeddings in (images, texts):
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), 1, atol=1e-6)
    assert model.bias is not None
    expected = np.exp(model.log_scale) * np.asarray(images) @ np.asarray(texts).T + np.asarray(model.bias)
    np.testing.assert_allclose(model.similarity(images, texts), expected, atol=1e-5)
    np.testing.assert_allclose(model.similarity(images[0], texts), expected[0], atol=1e-5)
    np.testing.assert_allclose(model.similarity(images[1], texts[1]), expected[1, 1], atol=1e-5)


def test_fresh_scales_are_those_of_the_papers() -> None:
    clip, siglip = (config_of(has_bias=has_bias).build(key=jax.random.key(0)) for has_bias in (False, True))
    assert clip.bias is None
    np.testing.assert_allclose(np.exp(clip.log_scale), 1 / 0.07, rtol=1e-6)
    assert siglip.bias == -10
    np.testing.assert_allclose(np.exp(siglip.log_scale), 10, rtol=1e-6)


def test_embeddings_of_two_widths_are_named() -> None:
    with pytest.raises(ValueError, match="image and text must have embeddings of one width, got 6 and 5"):
        config_of(text_config(embed_dim=5)).build(key=jax.random.key(0))
    with pytest.raises(ValueError, match="got 6 and 16"):
        config_of(text_config(embed_dim=None)).build(key=jax.random.key(0))


def test_the_model_is_an_ordinary_tree(model: ImageText, tmp_path: Path) -> None:
    assert ImageTextConfig.from_json(model.config.to_json()) == model.config
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert eqx.tree_equal(again, model)
    assert jax.tree.structure(build(model.config)) == jax.tree.structure(model)
    assert all(leaf.size for leaf in jax.tree.leaves(model))
    vitrail.save(model, tmp_path / "m")
    loaded = vitrail.load(tmp_path / "m")
    assert eqx.tree_equal(loaded, model)
    assert vitrail.model_card(tmp_path / "m").kind == "image_text"


def test_both_towers_are_computed_as_they_are_told(model: ImageText) -> None:
    half = model.with_execution(vitrail.Execution(compute_dtype="bfloat16", scan=False))
    for name, given in (("embed_image", image_of((16, 16))), ("embed_text", TOKENS)):
        exact, rough = (run(getattr(each, name), given) for each in (model, half))
        assert exact.dtype == rough.dtype == jnp.float32
        np.testing.assert_allclose(rough, exact, atol=0.05)
        assert np.abs(rough - exact).max() > 1e-5
        dropping, key = model.with_dropout(vitrail.Dropout(rate=0.5)), jax.random.key(1)
        assert np.abs(run(getattr(dropping, name), given, key=key) - exact).max() > 1e-3
        np.testing.assert_allclose(run(getattr(dropping, name), given), exact, atol=1e-6)


def test_each_part_learns(model: ImageText) -> None:
    @eqx.filter_jit
    @eqx.filter_grad
    def differentiate(model: ImageText) -> Any:
        return model.similarity(model.embed_image(jnp.asarray(image_of((16, 16)))), model.embed_text(TOKENS))

    gradients = differentiate(model)
    assert all(np.all(np.isfinite(leaf)) and np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_parameters_of_the_text_tower_are_labelled(model: ImageText) -> None:
    labels = vitrail.parameter_labels(model.text)
    kinds = labels.embedding.kind, labels.positions.kind, labels.projection.weight.kind, labels.norm.weight.kind
    assert kinds == ("token", "position", "matrix", "norm")


def test_another_image_size_is_in_the_configuration(model: ImageText) -> None:
    larger = model.resized((20, 32))
    assert larger.config.image.image_size == (20, 32)
    assert jax.tree.structure(larger) == jax.tree.structure(build(larger.config))
    assert run(larger.embed_image, image_of((20, 32))).shape == (6,)


# Files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_image_tower_is_the_same_alone(name: str, tmp_path: Path) -> None:
    path = CASES[name].publish(tmp_path)
    assert vitrail.model_card(path, part="image").config == vitrail.model_card(path).config


@pytest.mark.parametrize("name", ["open_clip timm, projected", "transformers CLIPModel", "own"])
def test_an_embedding_is_not_taken_for_classes(
    name: str, model: ImageText, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "own":
        vitrail.save(model, tmp_path / "model.safetensors")
    path = tmp_path / "model.safetensors" if name == "own" else CASES[name].publish(tmp_path)
    assert vitrail.model_card(path).embeds
    assert main(["predict", str(path), "photo.jpg"]) == 1
    assert "must have a classifier to predict with" in capsys.readouterr().err


def changed(case: SystemCase, folder: Path, settings: dict[str, Any] | None, **tensors: Any) -> Path:
    """A case with other tensors, and with its settings merged with those given; `None` for no settings."""
    path = case.publish(folder)
    ((name, content),) = case.settings.items()
    save_file({key: array for key, array in (case.tensors() | tensors).items() if array is not None}, path)
    if settings is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(json.dumps(content | settings))
    return path


FLAT, WITHIN = CASES["open_clip both towers"], CASES["open_clip SigLIP"]
CLIP = CASES["transformers CLIPModel"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_cfg": {"embed_cls": True}}, "has 'embed_cls' as True in its 'text_cfg', .* part='image'"),
        ({"text_cfg": {"pool_type": "none"}}, "'none' as its text's 'pool_type'"),
        ({"text_cfg": {"heads": 3}}, "'heads' beside .* must divide 8, got 3"),
        ({"text_cfg": {"heads": 2, "norm_kwargs": {"bias": 1}}}, "must have 'norm_kwargs' with 'eps' alone"),
        ({"text_cfg": {"heads": 2, "act_kwargs": {"approximate": "x"}}}, "must be 'gelu', .* got 'gelu' and 'x'"),
    ],
)
def test_a_text_tower_of_open_clips_that_is_not_known_is_named(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model_cfg = FLAT.settings["open_clip_config.json"]["model_cfg"]
    path = changed(FLAT, tmp_path, {"model_cfg": model_cfg | changes})
    with pytest.raises(CheckpointError, match=message):
        vitrail.load(path)
    assert type(vitrail.load(path, part="image")) is vitrail.ViT


def test_without_settings_openais_names_are_openais_tower_and_others_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    path = changed(FLAT, tmp_path / "flat", None)
    heads = {"num_heads": 2, "heads": 2}  # which widths of published models say
    with pytest.raises(CheckpointError, match="does not say which activation its CLIP has"):
        vitrail.load(path, config=heads)
    given = {"hidden_act": "gelu", **heads}
    loaded = vitrail.load(path, config=given)
    (tmp_path / "flat" / "open_clip_config.json").write_text(json.dumps(FLAT.settings["open_clip_config.json"]))
    assert loaded.config.text == vitrail.load(path).config.text
    assumed = vitrail.model_card(path, config=given).assumed
    assert assumed["text_cfg"] == "causal, pooled at the largest id"
    path = changed(WITHIN, tmp_path, None)
    with pytest.raises(CheckpointError, match=r"does not say what its text tower is: put its open_clip_config\.json"):
        vitrail.load(path, config={"architecture": "vit_base_patch16_siglip_224", "hidden_act": "gelu"})


def test_open_clips_settings_can_be_named(tmp_path: Path) -> None:
    path = FLAT.publish(tmp_path)
    expected = vitrail.load(path).config
    (tmp_path / "open_clip_config.json").rename(tmp_path / "other.json")
    assert vitrail.load(path, config=tmp_path / "other.json").config == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "siglip"}, "has the tensors of 'clip', but the config.json beside it says 'siglip'"),
        ({"text_config": 5}, "'text_config' beside .* must be an object, got 5"),
        ({"text_config": {"eos_token_id": [1, 2], "num_attention_heads": 2}}, "'eos_token_id' beside .* whole number"),
        ({"text_config": {"num_attention_heads": 3}}, "'num_attention_heads' beside .* must divide 16, got 3"),
        ({"text_config": {"num_attention_heads": 2, "hidden_act": "mish"}}, "'hidden_act' beside .* 'mish'"),
    ],
)
def test_settings_of_hugging_faces_that_do_not_fit_are_named(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        vitrail.load(changed(CLIP, tmp_path, settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_logit_scale": 0}, "'logit_scale' from 0 to the logarithm of 0, "),
        ({"max_logit_scale": 2.0}, "'logit_scale' from 0 to the logarithm of 2, to which the original cuts it, got"),
        ({"text_config": {"num_attention_heads": 2, "hidden_act": "gelu"}}, "'hidden_act' beside .* must be 'silu'"),
    ],
)
def test_settings_of_aimv2s_that_do_not_fit_are_named(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        vitrail.load(changed(CASES["transformers Aimv2Model"], tmp_path, settings))


def test_a_file_that_lacks_a_part_of_the_text_tower_names_it(tmp_path: Path) -> None:
    lost = "text_model.encoder.layers.1.mlp.fc1.bias"
    with pytest.raises(CheckpointError, match=rf"lacks '{lost}'"):
        vitrail.load(changed(CLIP, tmp_path, {}, **{lost: None}))
    extra = {"text_model.surprise": np.zeros(3, np.float32)}
    with pytest.raises(CheckpointError, match=r"no place for: 'text_model\.surprise'"):
        vitrail.load(changed(CLIP, tmp_path, {}, **extra))


def test_the_clip_within_clipseg_is_a_clip(tmp_path: Path) -> None:
    tensors = {f"clip.{name}": array for name, array in CLIP.tensors().items()}
    decoder = {"decoder.film_mul.bias": np.zeros(3, np.float32)}
    path = changed(CLIP, tmp_path, {"model_type": "clipseg"}, **dict.fromkeys(CLIP.shapes), **tensors, **decoder)
    assert vitrail.load(path).text.config == vitrail.load(CLIP.publish(tmp_path)).text.config


@pytest.mark.parametrize("name", ["CLIPModel", "timm, projected", "timm, projected with a bias, flat"])
def test_the_card_says_that_a_projection_returns_an_embedding(name: str, tmp_path: Path) -> None:
    path = next(case for title, case in CASES.items() if title.endswith(f" {name}")).publish(tmp_path)
    vitrail.save(vitrail.load(path), tmp_path / "own.vitrail")
    for file, part in itertools.product((path, tmp_path / "own.vitrail"), ("image", None)):
        assert vitrail.model_card(file, part=part).embeds  # type: ignore[arg-type]


def test_an_eva_of_open_clips_is_held_to_what_evas_layout_says(tmp_path: Path) -> None:
    eva, block = load_system_cases()["open_clip EVA"], "visual.trunk.blocks.0.attn."
    zeros = {f"{block}k_bias": np.zeros(eva.shapes[f"{block}q_bias"], np.float32)}
    assert isinstance(vitrail.load(changed(eva, tmp_path, {}, **zeros)), vitrail.ImageText)
    with pytest.raises(
        CheckpointError, match=r"attn\.k_bias' as \[0\..*, which the layout 'timm_eva' computes, got \[1"
    ):
        vitrail.load(changed(eva, tmp_path, {}, **{name: array + 1 for name, array in zeros.items()}))
    with pytest.raises(CheckpointError, match=r"timm's 'eva_giant_patch14_224', which may compute something else"):
        vitrail.load(changed(eva, tmp_path, {}, **{f"{block}q_bias": None}))


def test_a_file_with_the_image_tower_alone_is_an_image_model(tmp_path: Path) -> None:
    text = [name for name in CLIP.shapes if name.startswith("text")]
    path = changed(CLIP, tmp_path, {}, **dict.fromkeys([*text, "logit_scale"]))
    assert type(vitrail.load(path)) is vitrail.ViT


def test_scales_may_have_an_axis(tmp_path: Path) -> None:
    whole = vitrail.load(FLAT.publish(tmp_path))
    scale = FLAT.tensors()["logit_scale"].reshape(1)
    again = vitrail.load(changed(FLAT, tmp_path, {}, logit_scale=scale))
    assert eqx.tree_equal(whole, again)


# Writing ---------------------------------------------------------------------------------------------------------

RELU = EncoderOptions(activation="relu", norm_eps=1e-5)


@pytest.mark.parametrize(
    ("layout", "config", "message"),
    [
        ("hf_clip", config_of(has_bias=True), "'bias' has no name there"),
        (
            "hf_clip",
            config_of(text_config(causal=False)),
            "of the text, causal=False would be read back as causal=True",
        ),
        (
            "hf_clip",
            config_of(text_config(pooling="last")),
            r"cannot be built: end_of_text must be an id in \[0, 20\), .*got 49407",
        ),
        (
            "hf_clip",
            config_of(text_config(projection_bias=True)),
            "of the text, projection_bias=True would be read back as projection_bias=False",
        ),
        ("hf_clip", config_of(image_size=(16, 20)), "image_size must be square there, got 16 x 20"),
        ("hf_siglip", config_of(), "'image.backbone.class_token' has no name"),
        (
            "openai_clip",
            config_of(text_config(encoder=RELU)),
            "of the text, activation=.*would be read back as activation=",
        ),
        ("openai_clip", config_of(channels=1), "images have 3 channels there, got 1"),
        ("timm", config_of(), "model must have a ViTConfig to be written as 'timm', got one with a ImageTextConfig"),
    ],
)
def test_what_a_library_cannot_be_is_not_written(layout: Any, config: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        vitrail.save(config.build(key=jax.random.key(0)), tmp_path / "m", layout=layout)
    assert not (tmp_path / "m").exists()


def test_a_folder_of_one_library_becomes_one_of_another(tmp_path: Path) -> None:
    preprocess = vitrail.Preprocess("cover", "bicubic", *vitrail.images.CLIP)
    model = build(config_of(preprocess=preprocess))
    files: dict[Any, set[str]] = {
        "hf_clip": {"config.json", "model.safetensors", "preprocessor_config.json"},
        "openai_clip": {"open_clip_config.json", "model.safetensors"},
    }
    for layout in (*files, *files):
        vitrail.save(model, tmp_path, layout=layout)
        assert {path.name for path in tmp_path.iterdir()} == files[layout]
        assert eqx.tree_equal(jax.tree.leaves(vitrail.load(tmp_path)), jax.tree.leaves(model))
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"must have 'open_clip_config.json' beside it, which vitrail.save wrote"):
        vitrail.load(tmp_path)
    save_file(tensors, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match=r"must be a folder without 'open_clip_model.safetensors', which OpenAI and"):
        vitrail.save(model, tmp_path, layout="openai_clip")
