"""Splits texts into the token ids that a text tower reads."""

import base64
import dataclasses
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, cast, final

import numpy as np
from jaxtyping import Int32

from .._check import check_positive, warn
from .._extras import require
from ._clean import SURROGATE, Cleaning, clean_text
from ._clip_vocabulary import make_clip_vocabulary

MAX_VOCABULARY: Final = 128 * 2**20
"""The largest text of a vocabulary in bytes. That of Gemma has 34 MB."""
_SHOWN: Final = 60


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Describes a tokenizer by plain values, the vocabulary included. It is saved with the model."""

    vocabulary: str = field(repr=False)
    """The compressed text of a `tokenizer.json`. [`read_tokenizer`][vitrail.read_tokenizer] makes it from a file."""
    context: int
    """The number of tokens of each text. A longer text is cut, but keeps its last token; a shorter text is padded."""
    pad_id: int
    """The id that a text is padded with."""
    pad_side: Literal["right", "left"] = "right"
    """The side on which a text is padded."""
    clean: Cleaning = "none"
    """How a text is cleaned before it becomes tokens: `"none"`; `"siglip"`, in lower case without punctuation; or as
    open_clip does, `"open_clip_whitespace"`, `"open_clip_lower"` or `"open_clip_canonicalize"`."""

    def __post_init__(self) -> None:
        check_positive(context=self.context)
        if self.pad_id < 0:
            raise ValueError(f"pad_id must be a token id, got {self.pad_id}")

    def build(self) -> "Tokenizer":
        """Builds the tokenizer. Equal configurations share one.

        **Returns:**

        A `Tokenizer`.

        **Raises:** `ValueError` if the vocabulary is not valid, or the tokens that it adds to a text do not fit the
        context; `MissingExtraError` if the library tokenizers is not installed.
        """
        return _build(self)


@final
class Tokenizer:
    """Turns texts into token ids with the library tokenizers of Hugging Face. Build it with `TokenizerConfig.build`."""

    config: TokenizerConfig
    """The configuration of the tokenizer."""

    def __init__(self, config: TokenizerConfig):
        """**Arguments:**

        - `config`: the configuration.

        **Raises:** what `TokenizerConfig.build` raises.
        """
        library: Any = require("tokenizers", extra="text")
        text = unpack_vocabulary(config.vocabulary)
        try:
            tokenizer = library.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(
                f"vocabulary must be the text of a tokenizer.json that the library tokenizers {library.__version__} "
                f"reads, got an error: {error}"
            ) from error
        added = cast(int, tokenizer.num_special_tokens_to_add(False))
        if added >= config.context:
            raise ValueError(
                f"context must have room for a text and the {added} tokens that are added to it, got {config.context}"
            )
        tokenizer.no_padding()
        tokenizer.enable_truncation(config.context)
        self.config = config
        self._tokenizer = tokenizer

    @property
    def vocabulary_size(self) -> int:
        """The number of ids: one more than the largest."""
        return max(cast("dict[str, int]", self._tokenizer.get_vocab()).values()) + 1

    @property
    def end_of_text(self) -> int | None:
        """The id that ends each text; `None` if none does."""
        ids: list[int] = self._tokenizer.encode("").ids
        return ids[-1] if ids else None

    def __call__(
        self, texts: str | Sequence[str], *, quiet: bool = False
    ) -> Int32[np.ndarray, "texts {self.config.context}"]:
        """Turns texts into token ids.

        **Arguments:**

        - `texts`: one text or several, as plain sentences. They are cleaned by the rule `config.clean`.
        - `quiet`: whether to leave out the warning if a text is cut.

        **Returns:**

        The token ids of each text, with those that begin and end it, padded or cut to the context. A text that is cut
        gives a warning.

        **Raises:** `ValueError` if there is no text, or if a text is not valid Unicode (half of a surrogate pair).
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise ValueError("texts must have at least one text, got none")
        cleaned = [clean_text(text, self.config.clean) for text in texts]
        for text, clean in zip(texts, cleaned, strict=True):
            if SURROGATE.search(clean):
                raise ValueError(f"texts must be Unicode, got half of a surrogate pair in {_shorten(text)}")
        encoded: list[Any] = self._tokenizer.encode_batch(cleaned)
        if not quiet:
            _warn_of_cuts(texts, [bool(found.overflowing) for found in encoded], self.config.context)
        tokens = np.full((len(texts), self.config.context), self.config.pad_id, np.int32)
        for row, found in zip(tokens, encoded, strict=True):
            start = 0 if self.config.pad_side == "right" else len(row) - len(found.ids)
            row[start : start + len(found.ids)] = found.ids
        return tokens


def read_tokenizer(path: Path | str | None, *, context: int) -> TokenizerConfig:
    """Reads a tokenizer for a text tower with fresh weights.

    **Arguments:**

    - `path`: a `tokenizer.json` of the library tokenizers; `None` for a tokenizer of bytes, which needs no file.
    - `context`: the number of tokens of each text.

    **Returns:**

    The configuration. Texts are padded with the id that ends them, as in CLIP.

    **Raises:** `ValueError` if the file is not a `tokenizer.json`, or adds no token that ends a text;
    `MissingExtraError` if the library tokenizers is not installed.
    """
    try:
        vocabulary = make_clip_vocabulary(()) if path is None else json.loads(Path(path).read_bytes())
        clean: Cleaning = "open_clip_lower" if path is None else "none"
        config = TokenizerConfig(vocabulary=pack_vocabulary(vocabulary), context=context, pad_id=0, clean=clean)
        end = config.build().end_of_text
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} must be a tokenizer.json of the library tokenizers, got an error: {error}") from error
    if end is None:
        raise ValueError(f"{path} must add a token that ends a text, got none: give it a post_processor")
    return dataclasses.replace(config, pad_id=end)


def pack_vocabulary(tokenizer: Mapping[str, Any]) -> str:
    """Compresses the object of a `tokenizer.json` for a `TokenizerConfig`.

    **Arguments:**

    - `tokenizer`: what JSON makes of such a file.

    **Returns:**

    Its text, compressed and written in letters.
    """
    compact = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(compact.encode("utf-8", "surrogatepass"), 6)).decode()


def unpack_vocabulary(vocabulary: str) -> str:
    """The text that `pack_vocabulary` compressed.

    **Raises:** `ValueError` if it is not such a text.
    """
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(base64.b64decode(vocabulary, validate=True), MAX_VOCABULARY)
        if not inflater.eof:
            raise ValueError(f"it is cut off, or has more than {MAX_VOCABULARY:,} bytes")
        return text.decode("utf-8")
    except (ValueError, zlib.error) as error:
        raise ValueError(
            f"vocabulary must be what pack_vocabulary makes of a tokenizer.json, got an error: {error}"
        ) from error


@lru_cache(maxsize=4)
def _build(config: TokenizerConfig) -> Tokenizer:
    return Tokenizer(config)


def _warn_of_cuts(texts: Sequence[str], cut: Iterable[bool], context: int) -> None:
    """Warns once, and names the first of the texts."""
    if which := [text for text, is_cut in zip(texts, cut, strict=True) if is_cut]:
        others = f" and {len(which) - 1:,} more of {len(texts):,} texts" if len(which) > 1 else ""
        warn(
            f"the text {_shorten(which[0])}{others} has more than {context} tokens, the context of the model: what is "
            "behind them is cut off, so shorten it"
        )


def _shorten(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text):,} characters)"
