"""The files of a tokenizer, as libraries read them, for a model that is written."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final, cast

from ...systems import Cleaning, ImageTextConfig, TokenizerConfig, make_clip_vocabulary, unpack_vocabulary
from ._layout import Settings
from ._vit import describe_misreading

TOKENIZER: Final = "tokenizer.json"
TOKENIZER_SETTINGS: Final = "tokenizer_config.json"
OPEN_CLIP_CLEANING: Final[Mapping[Cleaning, str]] = {
    "open_clip_whitespace": "whitespace",
    "open_clip_lower": "lower",
    "open_clip_canonicalize": "canonicalize",
}
"""open_clip's names of its ways to clean texts, by ours."""
_ENDS: Final = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}


def write_clip_tokenizer(config: ImageTextConfig) -> Mapping[str, Settings]:
    """The files of Hugging Face's CLIP. open_clip's tokenizer becomes the one with the same merges."""
    known = config.tokenizer
    if known is None:
        return _make_files(None, {}, "")
    tokenizer = _read(known)
    tokens: dict[str, int] = tokenizer["model"]["vocab"]
    if "<end_of_text>" in tokens:
        renamed = {_ENDS.get(token, token): number for token, number in tokens.items()}
        tokenizer = make_clip_vocabulary(tokenizer["model"]["merges"], tokens=renamed)
    return _make_files(known, tokenizer, "CLIPTokenizer" if is_clip(tokenizer) else "PreTrainedTokenizerFast")


def write_siglip_tokenizer(config: ImageTextConfig) -> Mapping[str, Settings]:
    """The files of Hugging Face's SigLIP 2, or those that vitrail reads as SigLIP's, whose own is a `spiece.model`."""
    known = config.tokenizer
    if known is None:
        return _make_files(None, {}, "")
    return _make_files(known, _read(known), "SiglipTokenizer" if known.clean == "siglip" else "Siglip2Tokenizer")


def write_open_clip_tokenizer(config: ImageTextConfig) -> Mapping[str, Settings]:
    """The files beside an `open_clip_config.json`."""
    known = config.tokenizer
    return _make_files(known, {} if known is None else _read(known), "PreTrainedTokenizerFast")


def write_tokenizer_cfg(config: ImageTextConfig) -> Settings:
    """What `text_cfg` says of a tokenizer that is not CLIP's own, and of how texts are cleaned."""
    known = config.tokenizer
    if known is None:
        return {}
    named: Settings = {} if is_clip(_read(known)) else {"hf_tokenizer_name": "tokenizer"}
    clean = OPEN_CLIP_CLEANING.get(known.clean)
    is_usual = clean is None or (not named and clean == "lower")
    return {**named, **({} if is_usual else {"tokenizer_kwargs": {"clean": clean}})}


def find_tokenizer_misreading(written: ImageTextConfig, read: ImageTextConfig) -> str:
    """How the tokenizer would be read as one that makes other tokens of a text; empty if it would not."""
    ours, theirs = written.tokenizer, read.tokenizer
    if ours is None or theirs is None:
        return "" if ours is theirs else "its tokenizer would be lost"
    one, other = _read(ours), _read(theirs)
    if is_clip(one) and is_clip(other) and _list_merges(one) == _list_merges(other):
        # Hugging Face's vocabulary of CLIP is in lower case, open_clip's texts are.
        is_alike = {ours.clean, theirs.clean} == {"none", "open_clip_lower"}
        theirs = dataclasses.replace(theirs, vocabulary=ours.vocabulary, clean=ours.clean if is_alike else theirs.clean)
    if written.text.causal and written.text.pooling != "last":  # no token reads the padding after it
        theirs = dataclasses.replace(theirs, pad_id=ours.pad_id)
    for name in ("context", "pad_side", "clean", "pad_id"):
        wanted, found = getattr(ours, name), getattr(theirs, name)
        if wanted != found:
            return f"of its tokenizer, {describe_misreading(name, wanted, found)}"
    return "" if ours == theirs else "its tokenizer would be read back as one with another vocabulary"


def is_clip(tokenizer: Mapping[str, Any]) -> bool:
    """Whether this is a tokenizer of CLIP, whose byte pairs mark the end of a word."""
    return tokenizer["model"].get("end_of_word_suffix") == "</w>"


def _list_merges(tokenizer: Mapping[str, Any]) -> list[list[str]]:
    merges: list[str | list[str]] = tokenizer["model"]["merges"]
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]


def _read(config: TokenizerConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(unpack_vocabulary(config.vocabulary))
    return found


def _make_files(config: TokenizerConfig | None, tokenizer: Mapping[str, Any], kind: str) -> Mapping[str, Settings]:
    """Both files; empty ones if there is no tokenizer, so that none of another model stays in the folder."""
    if config is None:
        return {TOKENIZER: {}, TOKENIZER_SETTINGS: {}}
    settings = {
        "tokenizer_class": kind,
        "model_max_length": config.context,
        "pad_token": _name_token(tokenizer, config.pad_id),
        "padding_side": config.pad_side,
    }
    return {TOKENIZER: tokenizer, TOKENIZER_SETTINGS: settings}


def _name_token(tokenizer: Mapping[str, Any], number: int) -> str | None:
    """The name of a token."""
    added: list[Settings] = tokenizer.get("added_tokens") or []
    vocabulary: Any = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, list):  # SentencePiece's unigrams, with scores
        vocabulary = {piece: place for place, (piece, _) in enumerate(cast("list[tuple[str, float]]", vocabulary))}
    known: dict[str, int] = vocabulary | {token["content"]: token["id"] for token in added}
    return next((token for token, found in known.items() if found == number), None)
