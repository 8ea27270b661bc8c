"""Tiny models of images and texts, in the files of their libraries, with the frozen tokenizers beside them."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from checkpoint_cases import FIXTURES
from tokenizer_texts import TEXTS

import vitrail
from vitrail.testing import randomise

FROZEN = TEXTS[::3]
SIZE = vitrail.EncoderSize(dim=16, depth=1, num_heads=2, mlp_dim=24)
HALF = vitrail.Preprocess("squash", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
COVER = vitrail.Preprocess("cover", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), half_pixel="down")


@functools.cache
def load_frozen() -> tuple[dict[str, dict[str, str]], dict[str, np.ndarray]]:
    """The files of the small tokenizers, and the tokens of `FROZEN`, by the names of their families."""
    with np.load(FIXTURES / "tokenizers.npz") as file:
        tokens = dict(file)
    return json.loads((FIXTURES / "tokenizers.json").read_text("utf-8")), tokens


@functools.cache
def make_model(family: str, vocabulary: int = 1000) -> vitrail.ImageText:
    """A model of images and texts as a layout has it, without a tokenizer, every parameter random."""
    siglip = family.startswith("hf_siglip")
    encoder = vitrail.EncoderOptions(
        activation="gelu_tanh" if siglip else "quick_gelu", norm_eps=1e-6 if siglip else 1e-5
    )
    rule = "torch_bicubic_antialias" if family == "openai_clip" else "torch_bicubic"
    pool = vitrail.POOLS.configure("attention", activation="gelu_tanh", mlp_dim=24, norm_eps=1e-6, num_heads=2)
    own: dict[str, Any] = (
        {"pool": pool, "head": "none", "class_token": False, "preprocess": HALF}
        if siglip
        else {
            "patch": vitrail.PATCHES.configure("conv", bias=False),
            "pool": "cls",
            "head": vitrail.HEADS.configure("linear", bias=False),
            "num_classes": 12,
            "class_token": True,
            "preprocess": COVER,
        }
    )
    image = vitrail.ViTConfig(
        image_size=(8, 8),
        patch_size=(4, 4),
        size=SIZE,
        position=vitrail.POSITIONS.configure("learned", resize=rule, covers_prefix=True),
        encoder=vitrail.EncoderOptions(activation=encoder.activation, norm_eps=encoder.norm_eps, pre_norm=not siglip),
        **own,
    )
    text = vitrail.TextConfig(
        vocabulary=vocabulary,
        context=64 if siglip else 77,
        size=SIZE,
        embed_dim=16 if siglip else 12,
        projection_bias=siglip,
        causal=not siglip,
        pooling="last" if siglip else "largest_id",
        encoder=encoder,
    )
    config = vitrail.ImageTextConfig(image=image, text=text, has_bias=siglip)
    return randomise(lambda: config.build(key=jax.random.key(0)))


def write_model(family: str, folder: Path, **files: str | None) -> Path:
    """A folder with a model and the tokenizer of a family, of whose files some are others, or not there."""
    layout: Any = family.split()[0]
    vitrail.save(make_model(family), folder, layout=layout)
    for name, text in (load_frozen()[0][family] | {name.replace("__", "."): t for name, t in files.items()}).items():
        if text is not None:
            (folder / name).write_text(text, "utf-8")
    return folder
