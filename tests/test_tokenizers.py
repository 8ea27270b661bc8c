"""Tokenizers against what the original libraries make of hard texts, and files that are none."""

import copy
import dataclasses
import gzip
import importlib.util
import json
import pickle
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from text_models import FROZEN, load_frozen, make_model, write_model

import vitrail
from vitrail import CheckpointError, MissingExtraError, TokenizerConfig


def is_apart(family: str, text: str) -> bool:
    """Whether a text may become other tokens: see `oracles/test_tokenizers.py`. The file of SigLIP is without its table
    of characters here, which knows of blocks, and of characters that are not seen."""
    unseen = any(unicodedata.category(character) in ("Cc", "Cf") for character in text)
    says_nothing = not any(character.isalnum() for character in text)
    return family == "hf_siglip" and (unseen or says_nothing or "▁" in text or "<unk>" in text or text == "x" * 300)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, vitrail.ImageText]:
    """The model of each family, loaded with its tokenizer."""
    return {
        family: vitrail.load(write_model(family, tmp_path_factory.mktemp("m") / "model")) for family in load_frozen()[0]
    }


def config_of(model: vitrail.ImageText) -> TokenizerConfig:
    assert model.config.tokenizer is not None
    return model.config.tokenizer


@pytest.mark.parametrize("family", list(load_frozen()[0]))
def test_texts_become_the_tokens_of_the_original(family: str, models: dict[str, vitrail.ImageText]) -> None:
    model = models[family]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the text .* has more than .* tokens")
        found = model.tokenize(FROZEN)
    expected = load_frozen()[1][family]
    assert found.dtype == np.int32
    assert found.shape == expected.shape == (len(FROZEN), model.config.text.context)
    wrong = {
        text for text, ours, theirs in zip(FROZEN, found, expected, strict=True) if not np.array_equal(ours, theirs)
    }
    assert not {text for text in wrong if not is_apart(family, text)}
    assert sum(not is_apart(family, text) for text in FROZEN) >= 44


def test_a_tokenizer_is_plain_values_that_travel_with_the_model(
    models: dict[str, vitrail.ImageText], tmp_path: Path
) -> None:
    model = models["hf_clip"]
    config = config_of(model)
    assert (config.context, config.pad_side, config.clean) == (77, "right", "none")
    assert len(repr(config)) < 200
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), dataclasses.replace(config)):
        assert other == config
        assert hash(other) == hash(config)
    assert config != dataclasses.replace(config, pad_id=0)
    assert config.build() is dataclasses.replace(config).build()  # built once
    assert vitrail.ImageTextConfig.from_json(model.config.to_json()) == model.config
    vitrail.save(model, tmp_path / "m.safetensors")
    again: vitrail.ImageText = vitrail.load(tmp_path / "m.safetensors")
    assert again.config == model.config
    assert np.array_equal(again.tokenize("a photo of a cat"), model.tokenize("a photo of a cat"))


def test_one_text_is_a_batch_of_one(models: dict[str, vitrail.ImageText]) -> None:
    tokens = models["hf_clip"].tokenize(["a cat", "a dog"])
    assert np.array_equal(models["hf_clip"].tokenize("a dog"), tokens[1:])


@pytest.mark.parametrize("family", ["openai_clip", "hf_siglip 2"])
def test_a_text_that_is_cut_keeps_its_end_and_is_said_so(family: str, models: dict[str, vitrail.ImageText]) -> None:
    model = models[family]
    end = model.tokenize("a")[0].max() if family == "openai_clip" else 1
    short = "a cat"
    with pytest.warns(
        UserWarning, match=r"the text 'zebra quilt .*'\.\.\. \(1,500 characters\) has more than \d+ tokens"
    ):
        tokens = model.tokenize([short, "zebra quilt " * 125])
    assert tokens[1, -1] == end
    assert end not in tokens[1, :-1]
    with pytest.warns(UserWarning, match=r"and 1 more of 3 texts has more than"):
        model.tokenize(["zebra quilt " * 125, short, "quilt zebra " * 99])


def test_a_text_that_just_fits_is_not_cut(models: dict[str, vitrail.ImageText]) -> None:
    tokens = models["openai_clip"].tokenize("a " * 75)
    assert np.all(tokens != 0)
    with pytest.warns(UserWarning, match="more than 77 tokens"):
        assert np.array_equal(models["openai_clip"].tokenize("a " * 76), tokens)


@pytest.mark.parametrize("text", ["x" * 10**6, "a photo " * 125_000])
def test_a_text_of_a_million_characters_is_cut(text: str, models: dict[str, vitrail.ImageText]) -> None:
    for family in ("openai_clip", "hf_siglip 2"):
        with pytest.warns(UserWarning, match=r"1,000,000 characters"):
            assert models[family].tokenize(text).shape == (1, models[family].config.text.context)


def test_texts_that_are_none_are_errors(models: dict[str, vitrail.ImageText]) -> None:
    model = models["hf_clip"]
    with pytest.raises(ValueError, match="texts must have at least one text, got none"):
        model.tokenize([])
    with pytest.raises(ValueError, match=r"got half of a surrogate pair in 'a \\ud83d cat'"):
        model.tokenize("a \ud83d cat")
    with pytest.raises(TypeError, match="texts"):
        model.tokenize(3)  # type: ignore[arg-type]
    assert models["openai_clip"].tokenize("a \ud83d cat").shape == (1, 77)  # open_clip repairs it


@pytest.mark.parametrize("family", list(load_frozen()[0]))
def test_a_tokenizer_is_written_beside_the_weights_and_read_back(
    family: str, models: dict[str, vitrail.ImageText], tmp_path: Path
) -> None:
    model = models[family]
    layout: Any = family.split()[0]
    vitrail.save(model, tmp_path / "m", layout=layout)
    assert vitrail.load(tmp_path / "m").config == model.config
    vitrail.save(make_model(family), tmp_path / "m", layout=layout)  # one without a tokenizer
    assert vitrail.load(tmp_path / "m").config.tokenizer is None


def test_a_tokenizer_of_open_clip_is_written_as_hugging_faces(
    models: dict[str, vitrail.ImageText], tmp_path: Path
) -> None:
    model, texts = make_model("hf_clip"), ["a photo of a cat", "a Red  Car!", "", "it's 3/4"]
    theirs = config_of(models["openai_clip"])
    vitrail.save(
        dataclasses.replace(model, config=dataclasses.replace(model.config, tokenizer=theirs)),
        tmp_path / "m",
        layout="hf_clip",
    )
    found, expected = (m.tokenize(texts) for m in (vitrail.load(tmp_path / "m"), models["hf_clip"]))
    padded = np.where(np.cumsum(expected == expected[0, -1], axis=1) > 1, 0, expected)
    assert np.array_equal(found, padded)  # open_clip pads with zeros


@pytest.mark.parametrize(
    ("family", "changes", "layout", "message"),
    [
        ("openai_clip", {"clean": "open_clip_whitespace"}, "openai_clip", ""),
        ("openai_clip", {"clean": "siglip"}, "openai_clip", "of its tokenizer, clean='siglip' would be read back as"),
        (
            "openai_clip",
            {"clean": "open_clip_canonicalize"},
            "hf_clip",
            "of its tokenizer, clean=.* would be read back as clean='none'",
        ),
        ("openai_clip", {"pad_side": "left"}, "hf_clip", ""),
        ("hf_clip", {"context": 70}, "hf_clip", "of its tokenizer, context=70 would be read back as context=77"),
        ("hf_clip", {}, "openai_clip", ""),  # other ids pad, which no token of a causal text reads
        (
            "hf_siglip",
            {"clean": "open_clip_lower"},
            "hf_siglip",
            "clean='open_clip_lower' would be read back as clean='siglip'",
        ),
    ],
)
def test_a_tokenizer_that_would_be_read_as_another_is_not_written(
    family: str,
    changes: dict[str, Any],
    layout: Any,
    message: str,
    models: dict[str, vitrail.ImageText],
    tmp_path: Path,
) -> None:
    tokenizer, model = dataclasses.replace(config_of(models[family]), **changes), make_model(layout)
    changed = dataclasses.replace(model, config=dataclasses.replace(model.config, tokenizer=tokenizer))
    if message:
        with pytest.raises(ValueError, match=message):
            vitrail.save(changed, tmp_path / "m", layout=layout)
        return
    vitrail.save(changed, tmp_path / "m", layout=layout)
    found = config_of(vitrail.load(tmp_path / "m"))
    assert all(getattr(found, name) == value for name, value in changes.items())


# Files -----------------------------------------------------------------------------------------------------------


def test_a_model_without_a_tokenizer_loads_and_says_so_when_it_reads_a_text(tmp_path: Path) -> None:
    folder = write_model("hf_clip", tmp_path / "m", vocab__json=None)
    model: vitrail.ImageText = vitrail.load(folder)
    assert model.config.tokenizer is None
    with pytest.raises(ValueError, match=r"must have a tokenizer to read texts, got none: put the tokenizer\.json"):
        model.tokenize("a cat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not JSON", r"tokenizer\.json must be JSON, got an error"),
        ("[1, 2]", r"tokenizer\.json must be a JSON object, got the list"),
        ('{"weights": 1}', r"tokenizer\.json must have a 'model' with a 'vocab'.*got 'weights'"),
        ('{"model": {"vocab": 3}}', r"tokenizer\.json must have a 'model' with a 'vocab'"),
        ("", r"tokenizer\.json must be JSON"),
        ("[" * 100_000, r"tokenizer\.json must be JSON"),
        ('{"model": {"vocab": [1, 2]}}', r"the tokenizer beside .* must be one that the library tokenizers writes"),
        ('{"model": {"vocab": {}}, "added_tokens": [3]}', r"must be one that the library tokenizers writes"),
        ('{"model": {"vocab": {"<|endoftext|>": -4}}}', r"must be one that .* pad_id must be a token id, got -4"),
    ],
)
def test_a_tokenizer_file_that_is_none_is_an_error(content: str, message: str, tmp_path: Path) -> None:
    folder = write_model("hf_clip", tmp_path / "m", tokenizer__json=content)
    with pytest.raises(CheckpointError, match=message):
        vitrail.load(folder)
    assert isinstance(vitrail.load(folder, part="image"), vitrail.ViT)


def test_a_tokenizer_that_the_library_does_not_read_is_an_error_when_it_is_used(tmp_path: Path) -> None:
    content = json.dumps({"model": {"type": "Odd", "vocab": {"<|endoftext|>": 0}}})
    model: vitrail.ImageText = vitrail.load(write_model("hf_clip", tmp_path / "m", tokenizer__json=content))
    with pytest.raises(
        ValueError, match=r"vocabulary must be the text of a tokenizer\.json that the library tokenizers"
    ):
        model.tokenize("a cat")


def test_merges_that_are_none_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"merges beside .* must be pairs of parts"):
        vitrail.load(write_model("hf_clip", tmp_path / "1", merges__txt="a b c\n"))
    with pytest.raises(CheckpointError, match=r"vocab\.json must be a vocabulary of CLIP: .*<\|startoftext\|>"):
        vitrail.load(write_model("hf_clip", tmp_path / "2", vocab__json='{"a": 0}'))
    folder = write_model("openai_clip", tmp_path / "3", **{"bpe_simple_vocab_16e6__txt": None})
    (folder / "bpe_simple_vocab_16e6.txt.gz").write_bytes(b"\x1f\x8b\x08 not gzip")
    with pytest.raises(CheckpointError, match=r"txt\.gz must be a gzip file"):
        vitrail.load(folder)
    whole = gzip.compress(load_frozen()[0]["openai_clip"]["bpe_simple_vocab_16e6.txt"].encode())
    (folder / "bpe_simple_vocab_16e6.txt.gz").write_bytes(whole[:-20])
    with pytest.raises(CheckpointError, match=r"txt\.gz is cut off"):
        vitrail.load(folder)
    (folder / "bpe_simple_vocab_16e6.txt.gz").write_bytes(whole)
    assert np.array_equal(vitrail.load(folder).tokenize(FROZEN[:1]), load_frozen()[1]["openai_clip"][:1])


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("hf_siglip 2", {"pad_token": "<none>"}, "must have the token '<none>' of its settings"),
        ("hf_siglip 2", {"padding_side": "top"}, "padding_side beside .* must be 'right' or 'left', got 'top'"),
        ("hf_clip", {"truncation_side": "left"}, "truncation_side beside .* must be 'right', got 'left'"),
        ("hf_siglip", {"do_lower_case": False}, "do_lower_case beside .* must be true"),
    ],
)
def test_settings_of_a_tokenizer_that_are_not_known_are_errors(
    family: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    before = json.loads(load_frozen()[0][family].get("tokenizer_config.json", "{}"))
    folder = write_model(family, tmp_path / "m", tokenizer_config__json=json.dumps(before | settings))
    with pytest.raises(CheckpointError, match=message):
        vitrail.load(folder)


def test_settings_decide_what_pads_and_where(tmp_path: Path) -> None:
    settings = {"pad_token": {"content": "<|startoftext|>"}, "padding_side": "left"}
    folder = write_model("hf_clip", tmp_path / "m", special_tokens_map__json=json.dumps(settings))
    tokens = vitrail.load(folder).tokenize("a cat")[0]
    start = json.loads(load_frozen()[0]["hf_clip"]["vocab.json"])["<|startoftext|>"]
    usual = load_frozen()[0]["hf_clip"]
    expected = vitrail.load(write_model("hf_clip", tmp_path / "n")).tokenize("a cat")[0]
    length = int(np.argmax(expected == expected[-1])) + 1
    assert usual is not None
    assert np.array_equal(tokens, [*[start] * (77 - length), *expected[:length]])


def test_a_tokenizer_of_another_model_is_an_error(tmp_path: Path) -> None:
    model = make_model("hf_clip", vocabulary=300)
    vitrail.save(model, tmp_path / "m", layout="hf_clip")
    for name, text in load_frozen()[0]["hf_clip"].items():
        (tmp_path / "m" / name).write_text(text)
    with pytest.raises(CheckpointError, match=r"pad_id of tokenizer must be an id in \[0, 300\)"):
        vitrail.load(tmp_path / "m")
    (tmp_path / "m" / "tokenizer_config.json").write_text('{"pad_token": "!"}')
    loaded: vitrail.ImageText = vitrail.load(tmp_path / "m")
    with pytest.raises(ValueError, match=r"whose text tower knows 300 tokens, got the id \d+"):
        loaded.tokenize("a cat")
    tokenizer = config_of(loaded)
    with pytest.raises(ValueError, match=r"tokenizer must make at most 77 tokens, .* got 78"):
        dataclasses.replace(loaded.config, tokenizer=dataclasses.replace(tokenizer, context=78))
    with pytest.raises(ValueError, match=r"context must have room for a text and the 2 tokens .* got 2"):
        dataclasses.replace(tokenizer, context=2).build()
    with pytest.raises(ValueError, match="vocabulary must be what pack_vocabulary makes"):
        dataclasses.replace(tokenizer, vocabulary="AAAA").build()


def test_without_the_library_a_model_loads_and_names_the_extra_when_it_reads_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("vitrail._extras.find_spec", lambda name: None if name == "tokenizers" else find(name))
    settings = json.dumps({"bos_token": "<|startoftext|>"})  # another configuration than in the other tests
    model: vitrail.ImageText = vitrail.load(
        write_model("hf_clip", tmp_path / "m", tokenizer_config__json=settings, vocab__json=_renumber())
    )
    with pytest.raises(
        MissingExtraError, match=r"tokenizers is not installed.*extra 'text': run pip install .*\[text\]"
    ):
        model.tokenize("a cat")


def _renumber() -> str:
    tokens = json.loads(load_frozen()[0]["hf_clip"]["vocab.json"])
    return json.dumps(tokens | {"one more": len(tokens)})


def test_a_tokenizer_is_read_for_a_fresh_tower(tmp_path: Path) -> None:
    own = vitrail.read_tokenizer(None, context=12)
    letters = {letter: 64 + ord(letter) - ord("a") for letter in "abcdefghijklmnopqrstuvwxyz"}  # "!" is the first id
    assert (own.build().vocabulary_size, own.build().end_of_text) == (514, 513)
    expected = [512, letters["a"], letters["b"] + 256, letters["c"] + 256, 513]  # the last letter of a word is another
    assert own.build()("AB  c")[0].tolist() == expected + 7 * [513]
    words = {"a": 0, "cat": 1, "[SEP]": 2, "[UNK]": 5}
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="json must add a token that ends a text, got none: give it a post_processor"):
        vitrail.read_tokenizer(path, context=5)
    end = {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["a", 0]}
    path.write_text(json.dumps(content | {"post_processor": end}))
    read = vitrail.read_tokenizer(path, context=5)
    assert (read.build().vocabulary_size, read.pad_id) == (6, 2)
    assert read.build()("a dog")[0].tolist() == [0, 0, 5, 2, 2]
    for wrong in ("{", "{}", "[]"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"tokenizer.json must be a tokenizer.json of the library tokenizers"):
            vitrail.read_tokenizer(path, context=5)


def test_a_cut_text_can_be_cut_without_a_warning(models: dict[str, vitrail.ImageText]) -> None:
    model = models["hf_clip"]
    with pytest.warns(UserWarning, match="has more than"):
        expected = model.tokenize("word " * 100)
    assert np.array_equal(model.tokenize("word " * 100, quiet=True), expected)
