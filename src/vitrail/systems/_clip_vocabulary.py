"""The tokenizers of CLIP, made of its merges."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

_WORDS: Final = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_WORDS_IN_ANY_CASE: Final = r"'[s\u017f]|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""Python ignores the case, and a long s is an s then."""
_END: Final = "</w>"


def make_clip_vocabulary(merges: Sequence[str], *, tokens: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Makes the object of a `tokenizer.json` of CLIP's merges.

    **Arguments:**

    - `merges`: the pairs of parts that are joined, in this order; each with a space between them.
    - `tokens`: the ids of all tokens, as Hugging Face's `vocab.json` has them, whose tokenizer puts texts in lower case
        itself. `None` for the order of OpenAI's and open_clip's, whose texts are cleaned before.

    **Returns:**

    What JSON makes of such a file.

    **Raises:** `ValueError` if the tokens do not have those that begin and end a text.
    """
    ours = _number_tokens(merges) if tokens is None else tokens
    start, end = _find_ends(ours)
    words = _WORDS_IN_ANY_CASE if tokens is None else _WORDS
    split = {"type": "Split", "pattern": {"Regex": words}, "behavior": "Removed", "invert": True}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    space = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    normalise = {"type": "Sequence", "normalizers": [{"type": "NFC"}, space, {"type": "Lowercase"}]}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special: list[dict[str, Any]] = [{"id": ours[token], "content": token} | plain for token in (start, end)]
    ends = {"sep": [end, ours[end]], "cls": [start, ours[start]], "trim_offsets": False, "add_prefix_space": False}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": end,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": _END,
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": dict(ours),
        "merges": list(merges),
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None if tokens is None else normalise,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, to_bytes]},
        "post_processor": {"type": "RobertaProcessing"} | ends,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model,
    }


def _number_tokens(merges: Sequence[str]) -> dict[str, int]:
    """The ids of OpenAI's: each byte, each byte at the end of a word, each merge, and the two that begin and end a
    text."""
    letters = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    # The other bytes are written as letters from 256 on.
    symbols = [chr(byte) for byte in letters] + [chr(0x100 + n) for n in range(256 - len(letters))]
    joined = [merge.replace(" ", "") for merge in merges]
    names = [*symbols, *(symbol + _END for symbol in symbols), *joined, "<start_of_text>", "<end_of_text>"]
    return {name: number for number, name in enumerate(names)}


def _find_ends(tokens: Mapping[str, int]) -> tuple[str, str]:
    """The tokens that begin and end a text.

    **Raises:** `ValueError` if there are none.
    """
    for pair in (("<|startoftext|>", "<|endoftext|>"), ("<start_of_text>", "<end_of_text>")):
        if all(token in tokens for token in pair):
            return pair
    raise ValueError("the tokens must have '<|startoftext|>' and '<|endoftext|>', as CLIP's have")
