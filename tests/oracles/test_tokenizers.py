"""Tokenizers on two hundred hard texts, and zero-shot classifiers, against the original libraries."""

import functools
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import pytest
import torch
from checkpoint_oracle import open_clip, transformers
from tokenizer_oracle import FAMILIES, encode_hugging_face, encode_open_clip, make_family
from tokenizer_texts import MOJIBAKE, TEXTS

import vitrail

APART = {
    "HF SigLIP": {
        # Of two ways to split that are as probable, SentencePiece and tokenizers take another one.
        "x" * 300,
        "🐱" * 20 + "-trailing-a",
        # An accent at the very beginning.
        "\u0301 lone accent",
        # The original finds its special tokens before it removes their brackets.
        *(text for text in TEXTS if "<unk>" in text),
    }
}
"""The texts that become other tokens, by family."""


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_become_the_tokens_of_the_original(name: str) -> None:
    family = make_family(name)
    model = vitrail.load(family.folder)
    apart = APART.get(name, set())
    texts = [text for text in TEXTS if text not in apart]
    assert len(TEXTS) == 200
    assert len(apart) <= 6
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the text .* has more than .* tokens")
        found = model.tokenize(texts)
    expected = family.encode(texts)
    wrong = [
        text for text, ours, theirs in zip(texts, found, expected, strict=True) if not np.array_equal(ours, theirs)
    ]
    assert not wrong
    assert found.shape == (len(texts), model.config.text.context)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("HF CLIP, tokenizer.json", "hf_clip"),
        ("HF CLIP, vocab.json and merges.txt", "hf_clip"),
        ("open_clip CLIP", "openai_clip"),
        ("open_clip CLIPA", "openai_clip"),
        ("HF SigLIP 2", "hf_siglip"),
        ("HF SigLIP", "hf_siglip"),
    ],
)
def test_a_tokenizer_that_is_written_is_read_by_its_library(name: str, layout: Any, tmp_path: Path) -> None:
    family = make_family(name)
    model = vitrail.load(family.folder)
    vitrail.save(model, tmp_path / "m", layout=layout)
    assert vitrail.load(tmp_path / "m").config.tokenizer == model.config.tokenizer
    if name == "HF SigLIP":
        return  # its library reads a spiece.model
    if layout == "openai_clip":
        encode = functools.partial(encode_open_clip, open_clip.get_tokenizer(f"local-dir:{tmp_path / 'm'}"))
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
        encode = functools.partial(encode_hugging_face, tokenizer, model.config.text.context)
    assert np.array_equal(encode(TEXTS), family.encode(TEXTS))


def test_mojibake_is_left_and_equal_once_it_is_repaired() -> None:
    ftfy = pytest.importorskip("ftfy")
    family = make_family("open_clip CLIP")
    model = vitrail.load(family.folder)
    expected = family.encode(MOJIBAKE)
    assert not np.any(np.all(model.tokenize(MOJIBAKE) == expected, axis=1))
    assert np.array_equal(model.tokenize([ftfy.fix_text(text) for text in MOJIBAKE]), expected)


def test_templates_are_those_of_open_clip() -> None:
    metadata = open_clip.zero_shot_metadata
    for name, theirs in {
        "imagenet": metadata.OPENAI_IMAGENET_TEMPLATES,
        "imagenet_simple": metadata.SIMPLE_IMAGENET_TEMPLATES,
    }.items():
        assert vitrail.TEMPLATES[name] == tuple(template("{}") for template in theirs)
    assert [len(prompts) for prompts in vitrail.TEMPLATES.values()] == [1, 80, 7]


@pytest.mark.parametrize("name", ["open_clip CLIP", "open_clip SigLIP 2"])
@pytest.mark.parametrize("templates", ["photo", "imagenet"])
def test_zero_shot_classifiers_give_the_logits_of_open_clip(name: str, templates: str) -> None:
    family = make_family(name)
    original = open_clip.create_model("local-dir:" + str(family.folder)).eval()
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)
    classes = ["tench", "great white shark", "Crème brûlée", "traffic or street sign"]
    prompts = list(vitrail.TEMPLATES[templates])
    with torch.no_grad():
        weights = open_clip.build_zero_shot_classifier(
            original, lambda texts: torch.from_numpy(family.encode(texts)), classes, prompts
        )
        features = original.encode_image(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), normalize=True)
        logits = original.logit_scale.exp() * features @ weights
        expected = (logits if original.logit_bias is None else logits + original.logit_bias).numpy()
    classifier = vitrail.zero_shot(vitrail.load(family.folder), classes, templates=templates)
    found = np.stack([np.asarray(eqx.filter_jit(classifier)(image)) for image in images])
    assert np.max(np.abs(found - expected)) <= 2e-5 * max(1.0, float(np.max(np.abs(expected))))
