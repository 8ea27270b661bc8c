"""The tokenizer that a library wrote beside a checkpoint of an image and a text tower.

Source: open_clip 3.3.0 `tokenizer.py`, `factory.py`; transformers 5.23.0 `tokenization_utils_tokenizers.py` and the
modules `clip`, `siglip`, `siglip2`.
"""

import json
import zlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

from ..._check import describe_value, join_names
from ...systems import MAX_VOCABULARY, Cleaning, TokenizerConfig, make_clip_vocabulary, pack_vocabulary
from .._errors import CheckpointError
from ._checkpoint import Checkpoint
from ._layout import Settings
from ._tokenizer_files import OPEN_CLIP_CLEANING, TOKENIZER, TOKENIZER_SETTINGS

_MERGES: Final = "merges.txt"
_TOKENS: Final = "vocab.json"
_OPENAI: Final = ("bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt")
_NUM_MERGES: Final = 49152 - 256 - 2
"""How many of the merges in OpenAI's file CLIP has."""
_OPEN_CLIP_CLEANING: Final[Mapping[str, Cleaning]] = {theirs: ours for ours, theirs in OPEN_CLIP_CLEANING.items()}
_LOWERCASE: Final = {"type": "Lowercase"}

_Tokenizer = dict[str, Any]
"""The object of a `tokenizer.json`."""


@contextmanager
def _blame_tokenizer(checkpoint: Checkpoint) -> Generator[None]:
    """Turns any error of files that are not those of a tokenizer into one that names them."""
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(
            f"the tokenizer beside {checkpoint.path} must be one that the library tokenizers writes, got an error: "
            f"{error}"
        ) from error


def find_clip_tokenizer(checkpoint: Checkpoint, context: int) -> TokenizerConfig | None:
    """Reads the tokenizer of Hugging Face's CLIP: lower case, padded with the end of the text.

    **Returns:**

    The tokenizer; `None` if there is none beside the weights.

    **Raises:** `CheckpointError` if a file is not one of a tokenizer, or has settings that vitrail does not know.
    """
    with _blame_tokenizer(checkpoint):
        if (tokenizer := _read_tokenizer(checkpoint)) is None:
            return None
        return _make_config(checkpoint, tokenizer, context, pad="<|endoftext|>")


def find_siglip_tokenizer(checkpoint: Checkpoint, context: int) -> TokenizerConfig | None:
    """Reads the tokenizer of Hugging Face's SigLIP, which is always in lower case and without punctuation and padded
    with the end of the text, or that of SigLIP 2, which is Gemma's in lower case.

    **Returns:** **Raises:** as `find_clip_tokenizer`.
    """
    with _blame_tokenizer(checkpoint):
        if (tokenizer := _read_tokenizer(checkpoint)) is None:
            return None
        settings = _read_settings(checkpoint)
        if not isinstance(tokenizer["model"]["vocab"], list):  # not SentencePiece's unigrams, which have scores
            tokenizer = _prepend(tokenizer, _LOWERCASE)
            return _make_config(checkpoint, tokenizer, context, pad="<pad>")
        if settings.get("do_lower_case") is False:
            raise CheckpointError(
                f"do_lower_case beside {checkpoint.path} must be true, as published SigLIP has it, got false: pass "
                "part='image' for the image tower alone"
            )
        end = _read_name(settings.get("eos_token")) or "</s>"
        # By characters as SentencePiece does, where the library goes by what looks like one letter.
        tokenizer = _prepend(tokenizer, {"type": "NFKC"}) | {
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True},
            "post_processor": _make_template(checkpoint, tokenizer, end),
        }
        return _make_config(checkpoint, tokenizer, context, pad="</s>", clean="siglip")


def find_open_clip_tokenizer(checkpoint: Checkpoint, context: int) -> TokenizerConfig | None:
    """Reads the tokenizer of OpenAI's CLIP, or of open_clip as the settings of its text tower say.

    **Returns:** **Raises:** as `find_clip_tokenizer`.
    """
    with _blame_tokenizer(checkpoint):
        text: Settings = checkpoint.settings.get("text_cfg") or {}
        options = dict(text.get("tokenizer_kwargs") or {})
        named = bool(text.get("hf_tokenizer_name"))
        clean = options.pop("clean", "whitespace" if named else "lower")
        without_separator = bool(options.pop("strip_sep_token", False))
        if clean not in _OPEN_CLIP_CLEANING or options or text.get("tokenizer_mode"):
            raise CheckpointError(
                f"the tokenizer in the settings of {checkpoint.path} must have one of "
                f"{join_names(_OPEN_CLIP_CLEANING)} as 'clean' and no other options, got "
                f"{text.get('tokenizer_kwargs')} and the mode {text.get('tokenizer_mode')!r}: pass part='image' for "
                "the image tower alone"
            )
        if (tokenizer := _read_tokenizer(checkpoint)) is None:
            return None
        if not named:
            tokenizer = _remake_clip(checkpoint, tokenizer)
            return _make_config(checkpoint, tokenizer, context, pad=0, clean=_OPEN_CLIP_CLEANING[clean])
        if without_separator:
            tokenizer = _without_separator(tokenizer)
        return _make_config(checkpoint, tokenizer, context, pad=None, clean=_OPEN_CLIP_CLEANING[clean])


# --- Files --------------------------------------------------------------------------------------------------------


def _read_tokenizer(checkpoint: Checkpoint) -> _Tokenizer | None:
    """Reads a `tokenizer.json`, or makes one of CLIP's merges; `None` if neither is there."""
    if (content := checkpoint.beside.read(TOKENIZER, MAX_VOCABULARY)) is not None:
        return _check_tokenizer(checkpoint, _parse_object(checkpoint, TOKENIZER, content))
    merges, tokens = (checkpoint.beside.read(name, MAX_VOCABULARY) for name in (_MERGES, _TOKENS))
    if merges is not None and tokens is not None:
        lines = _split_lines(checkpoint, _MERGES, merges)
        known = _parse_object(checkpoint, _TOKENS, tokens)
        return _make_clip(checkpoint, _TOKENS, [line for line in lines if not line.startswith("#version")], known)
    for name in _OPENAI:
        if (content := checkpoint.beside.read(name, MAX_VOCABULARY)) is not None:
            lines = _split_lines(checkpoint, name, _inflate(checkpoint, name, content))
            return _make_clip(checkpoint, name, lines[1 : 1 + _NUM_MERGES], None)
    return None


def _check_tokenizer(checkpoint: Checkpoint, found: _Tokenizer) -> _Tokenizer:
    model = found.get("model")
    if not isinstance(model, dict) or not isinstance(cast("_Tokenizer", model).get("vocab"), dict | list):
        raise CheckpointError(
            f"{checkpoint.path.with_name(TOKENIZER)} must have a 'model' with a 'vocab', as the library tokenizers "
            f"writes it, got {join_names(list(found)[:8]) or 'nothing'}"
        )
    return found


def _make_clip(
    checkpoint: Checkpoint, name: str, merges: Sequence[str], tokens: Mapping[str, int] | None
) -> _Tokenizer:
    if not merges or any(len(line.split(" ")) != 2 for line in merges):
        raise CheckpointError(f"the merges beside {checkpoint.path} must be pairs of parts, one pair a line")
    try:
        return make_clip_vocabulary(merges, tokens=tokens)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.path.with_name(name)} must be a vocabulary of CLIP: {error}") from error


def _remake_clip(checkpoint: Checkpoint, tokenizer: _Tokenizer) -> _Tokenizer:
    """The tokenizer of OpenAI and open_clip that has the merges of another one of CLIP."""
    merges: list[Any] = tokenizer["model"].get("merges") or []
    made = _make_clip(checkpoint, TOKENIZER, [m if isinstance(m, str) else " ".join(m) for m in merges], None)
    ours, theirs = made["model"]["vocab"], tokenizer["model"]["vocab"]
    if len(ours) != len(theirs) or any(theirs.get(token) != number for token, number in list(ours.items())[:-2]):
        raise CheckpointError(
            f"{checkpoint.path.with_name(TOKENIZER)} must number its tokens as CLIP does, which open_clip's model of "
            "this name reads: put CLIP's tokenizer.json there"
        )
    return made


def _split_lines(checkpoint: Checkpoint, name: str, content: bytes) -> list[str]:
    try:
        return [line for line in content.decode("utf-8").replace("\r\n", "\n").split("\n") if line]
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{checkpoint.path.with_name(name)} must be text in UTF-8, got an error: {error}"
        ) from error


def _inflate(checkpoint: Checkpoint, name: str, content: bytes) -> bytes:
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        inflater = zlib.decompressobj(wbits=31)
        inflated = inflater.decompress(content, MAX_VOCABULARY)
    except zlib.error as error:
        raise CheckpointError(
            f"{checkpoint.path.with_name(name)} must be a gzip file, got an error: {error}"
        ) from error
    if not inflater.eof:
        raise CheckpointError(
            f"{checkpoint.path.with_name(name)} is cut off, or has more than {MAX_VOCABULARY:,} bytes"
        )
    return inflated


def _parse_object(checkpoint: Checkpoint, name: str, content: bytes) -> dict[str, Any]:
    try:
        found: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{checkpoint.path.with_name(name)} must be JSON, got an error: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{checkpoint.path.with_name(name)} must be a JSON object, got {describe_value(found)}")
    return cast("dict[str, Any]", found)


def _read_settings(checkpoint: Checkpoint) -> Settings:
    """The settings of a tokenizer. Those of the newer file count where both have one."""
    special, settings = (checkpoint.beside(name) or {} for name in ("special_tokens_map.json", TOKENIZER_SETTINGS))
    return {**special, **settings}


# --- What settings say --------------------------------------------------------------------------------------------


def _make_config(
    checkpoint: Checkpoint, tokenizer: _Tokenizer, context: int, *, pad: str | int | None, clean: Cleaning = "none"
) -> TokenizerConfig:
    """Makes the configuration. `pad` is the id that pads, or the token that does where no setting names one."""
    settings = _read_settings(checkpoint)
    for name, known in (("padding_side", ("right", "left")), ("truncation_side", ("right",))):
        if settings.get(name) not in (None, *known):
            raise CheckpointError(
                f"{name} beside {checkpoint.path} must be {' or '.join(map(repr, known))}, got {settings[name]!r}"
            )
    if not isinstance(pad, int):
        written: Settings = tokenizer.get("padding") or {}
        named = _read_name(settings.get("pad_token")) or _read_name(written.get("pad_token")) or pad
        if named is None:
            raise CheckpointError(f"the settings of the tokenizer beside {checkpoint.path} must name its 'pad_token'")
        pad = _find_id(checkpoint, tokenizer, named)
    return TokenizerConfig(
        vocabulary=pack_vocabulary(tokenizer),
        context=context,
        pad_id=pad,
        pad_side=settings.get("padding_side") or "right",
        clean=clean,
    )


def _read_name(token: object) -> str | None:
    """The name of a special token, which settings write as text or as an object."""
    content = cast("Settings", token).get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else None


def _find_id(checkpoint: Checkpoint, tokenizer: _Tokenizer, token: str) -> int:
    added: list[Settings] = tokenizer.get("added_tokens") or []
    ids = {known.get("content"): known.get("id") for known in added}
    vocabulary: Any = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, list):
        vocabulary = {piece: number for number, (piece, _) in enumerate(cast("list[tuple[str, float]]", vocabulary))}
    found = ids.get(token, vocabulary.get(token))
    if not isinstance(found, int):
        raise CheckpointError(f"the tokenizer beside {checkpoint.path} must have the token {token!r} of its settings")
    return found


def _make_template(checkpoint: Checkpoint, tokenizer: _Tokenizer, end: str) -> dict[str, object]:
    """What adds a token at the end of a text."""
    last = {"SpecialToken": {"id": end, "type_id": 0}}
    one, two = ({"Sequence": {"id": letter, "type_id": 0}} for letter in "AB")
    special = {"id": end, "ids": [_find_id(checkpoint, tokenizer, end)], "tokens": [end]}
    single, pair = [one, last], [one, last, two, last]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {end: special}}


def _without_separator(tokenizer: _Tokenizer) -> _Tokenizer:
    """The tokenizer with the id 0 for the separator that it adds, as open_clip's `strip_sep_token` has it."""
    adds: _Tokenizer = tokenizer.get("post_processor") or {}
    special: dict[str, Any] = adds.get("special_tokens") or {}
    if "[SEP]" in special:
        changed = {"special_tokens": special | {"[SEP]": special["[SEP]"] | {"ids": [0]}}}
    else:
        changed = {"sep": [adds["sep"][0], 0]} if "sep" in adds else {}
    return tokenizer | {"post_processor": adds | changed}


def _prepend(tokenizer: _Tokenizer, *normalizers: Mapping[str, object]) -> _Tokenizer:
    """The tokenizer that normalises a text by these first."""
    before: _Tokenizer | None = tokenizer.get("normalizer")
    if before is not None and before.get("normalizers", [])[: len(normalizers)] == list(normalizers):
        return tokenizer
    rest = [] if before is None else [before]
    return tokenizer | {"normalizer": {"type": "Sequence", "normalizers": [*normalizers, *rest]}}
