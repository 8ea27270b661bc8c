"""Image towers of other families and of larger models of transformers: found by their prefix, equal in numbers."""

import functools
import json
from pathlib import Path
from typing import Any
from unittest import mock

import equinox as eqx
import numpy as np
import pytest
import torch
from checkpoint_cases import TOLERANCE, image_of
from checkpoint_oracle import PICTURE, WIDTHS, batch, open_clip, randomise, transformers
from safetensors.torch import save_file
from systems_image_text import OPEN_TEXT
from timm_oracle import timm

import vitrail

IMAGE = image_of((16, 16))
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 99}
TOWER = {**WIDTHS, **PICTURE}
SAM = {"num_hidden_layers": 3, "mlp_dim": 24, "output_channels": 6, "window_size": 3, "global_attn_indexes": [1]}


def compare(found: Any, expected: torch.Tensor) -> float:
    reference = expected.detach().numpy()
    assert found.shape == reference.shape
    return float(np.abs(np.asarray(found) - reference).max() / np.abs(reference).max())


# By the class: its configuration, what is changed in it, and where the output is.
TOWERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "ChineseCLIPVisionModel": ("ChineseCLIPVisionConfig", {}, "pooled"),
    "MetaClip2VisionModel": ("MetaClip2VisionConfig", {}, "pooled"),
    "AltCLIPVisionModel": ("AltCLIPVisionConfig", {}, "pooled"),
    "CLIPSegVisionModel": ("CLIPSegVisionConfig", {}, "pooled"),
    "GitVisionModel": ("GitVisionConfig", {}, "tokens"),
    "FlavaImageModel": ("FlavaImageConfig", {}, "tokens"),
    "Idefics3VisionTransformer": ("Idefics3VisionConfig", {}, "tokens"),
    "SamHQVisionModel": ("SamHQVisionConfig", SAM, "tokens"),
}


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_of_another_family_is_equal(name: str, tmp_path: Path) -> None:
    config, options, output = TOWERS[name]
    module = {"Idefics3VisionTransformer": "idefics3"}.get(name)
    where = transformers if module is None else getattr(transformers.models, module)
    model = randomise(getattr(where, name)(getattr(where, config)(**{**TOWER, **options})))
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        found = model(batch(IMAGE))
    ours = vitrail.load(tmp_path, part="image")
    if output == "pooled":
        assert compare(ours.readout.pool(ours.backbone(IMAGE)), found.pooler_output[0]) <= TOLERANCE
    else:
        tokens = found.last_hidden_state[0]
        assert (
            compare(
                ours.backbone(IMAGE).sequence,
                tokens.reshape(-1, tokens.shape[-1]) if tokens.ndim == 2 else tokens.flatten(1).T,
            )
            <= TOLERANCE
        )


def clip_tower() -> dict[str, Any]:
    return {**TOWER, "model_type": "clip_vision_model"}


# By the class: its configuration and what it holds, and where the tower is in it.
WHOLE: dict[str, tuple[str, dict[str, Any], str]] = {
    "LlavaForConditionalGeneration": (
        "LlavaConfig",
        {"vision_config": clip_tower(), "text_config": {**TEXT, "model_type": "llama"}},
        "vision_tower",
    ),
    "PaliGemmaForConditionalGeneration": (
        "PaliGemmaConfig",
        {
            "vision_config": {**TOWER, "model_type": "siglip_vision_model", "projection_dim": 16},
            "text_config": {**TEXT, "model_type": "gemma", "head_dim": 8, "num_key_value_heads": 1},
        },
        "vision_tower",
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_tower_within_a_larger_model_is_found(name: str, tmp_path: Path) -> None:
    config, options, attribute = WHOLE[name]
    model = randomise(getattr(transformers, name)(getattr(transformers, config)(**options)))
    model.save_pretrained(tmp_path)
    tower = getattr(model.model, attribute)
    with torch.no_grad():
        found = tower(batch(IMAGE))
    ours, card = vitrail.load(tmp_path, part="image"), vitrail.model_card(tmp_path, part="image")
    assert set(card.ignored.values()) & {
        f"not under the prefix {prefix!r}" for prefix in ("vision_tower.", "model.vision_tower.")
    }
    expected = tower.post_layernorm(found.last_hidden_state)[0] if "Llava" in name else found.last_hidden_state[0]
    assert compare(ours.backbone(IMAGE).sequence, expected) <= TOLERANCE


def test_both_towers_of_clip_within_clipseg_are_equal(tmp_path: Path) -> None:
    text = {**TEXT, "bos_token_id": 97, "eos_token_id": 98, "max_position_embeddings": 6}
    decoder = {"projection_dim": 12, "extract_layers": [0, 1], "reduce_dim": 8, "decoder_num_attention_heads": 2}
    config = transformers.CLIPSegConfig(text_config=text, vision_config=TOWER, **decoder)
    model = randomise(transformers.CLIPSegForImageSegmentation(config))
    model.save_pretrained(tmp_path)
    tokens, ours = np.array([97, 5, 7, 98, 98, 98]), vitrail.load(tmp_path)
    with torch.no_grad():
        texts = model.clip.get_text_features(input_ids=torch.tensor(tokens)[None]).pooler_output[0]
        image = model.clip.get_image_features(batch(IMAGE)).pooler_output[0]
    assert compare(ours.embed_text(tokens), texts / texts.norm()) <= TOLERANCE
    assert compare(ours.embed_image(IMAGE), image / image.norm()) <= TOLERANCE
    assert set(vitrail.model_card(tmp_path).ignored.values()) == {"not under the prefix 'clip.'"}


@pytest.mark.parametrize(("kind", "size"), [("CLIP", 256), ("CustomTextCLIP", 224)])
def test_a_naflex_tower_of_open_clip_is_equal(kind: str, size: int, tmp_path: Path) -> None:
    """Its table of positions is for 256 pixels."""
    vision = {"timm_model_name": "naflexvit_base_patch16_gap", "timm_pool": "avg", "image_size": size}
    whole = {"embed_dim": 6, "vision_cfg": {**vision, "timm_proj": "linear"}, "text_cfg": OPEN_TEXT}
    create = functools.partial(timm.create_model, embed_dim=48, depth=2)
    with mock.patch.object(open_clip.timm_model.timm, "create_model", create):
        model = randomise(getattr(open_clip, kind)(**whole))
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    said = {"model_cfg": whole, "preprocess_cfg": {"resize_mode": "squash"}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(said))
    ours, image, texts = vitrail.load(tmp_path), image_of((size, size)), np.arange(8)
    with torch.no_grad():
        found = model.encode_image(batch(image), normalize=True)[0]
        assert (
            compare(ours.embed_text(texts), model.encode_text(torch.tensor(texts)[None], normalize=True)[0])
            <= TOLERANCE
        )
    assert compare((ours if size == 256 else ours.resized(size)).embed_image(image), found) <= TOLERANCE
    preprocess = ours.config.image.preprocess
    assert (None if preprocess is None else preprocess.fit) == ("squash" if size == 256 else None)


def test_what_timms_wrapper_writes_is_timms_model(tmp_path: Path) -> None:
    arguments = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    config = transformers.TimmWrapperConfig(architecture="vit_tiny_patch16_224", num_labels=5, model_args=arguments)
    model = randomise(transformers.TimmWrapperForImageClassification(config))
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(batch(IMAGE)).logits[0]
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "timm_wrapper"
    assert compare(eqx.filter_jit(vitrail.load(tmp_path))(IMAGE), expected) <= TOLERANCE
