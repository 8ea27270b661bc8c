"""Cleans texts as the published models do before they are split into tokens."""

import html
import re
import string
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache
from html.entities import html5
from types import MappingProxyType
from typing import Final, Literal

Cleaning = Literal["none", "siglip", "open_clip_whitespace", "open_clip_lower", "open_clip_canonicalize"]
"""How a text is cleaned before it is split: not at all, for a tokenizer whose vocabulary says all that is to do; as
Hugging Face's SigLIP does; or by one of the three ways of open_clip, which repair text and its white space, the second
in lower case (CLIP), the third without punctuation too (SigLIP)."""

_ESCAPES: Final = re.compile("\033\\[[\\d;]*[a-zA-Z]")
_C1: Final = re.compile("[\x80-\x9f]")
_ENTITY: Final = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_SINGLE: Final = re.compile("[\u02bc\u2018-\u201b]")
_DOUBLE: Final = re.compile("[\u201c-\u201f]")
_LINES: Final = re.compile("\r\n|[\r\u2028\u2029\x85]")
_PAIR: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
SURROGATE: Final = re.compile("[\ud800-\udfff]")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_CONTROL: Final = dict.fromkeys(
    [*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)]
)
_LIGATURES: Final = {ord(one): unicodedata.normalize("NFKC", one) for one in "ĲĳŉǱǲǳǄǅǆǇǈǉǊǋǌﬀﬁﬂﬃﬄﬆ"} | {
    0xFB05: "\u017ft"
}


def clean_text(text: str, how: Cleaning) -> str:
    """Cleans a text. See `Cleaning`."""
    return _CLEANINGS[how](text)


def _clean_whitespace(text: str) -> str:
    return " ".join(_clean_basically(text).split())


def _clean_lower(text: str) -> str:
    return _clean_whitespace(text).lower()


def _canonicalize(text: str) -> str:
    return " ".join(_clean_basically(text).replace("_", " ").translate(_PUNCTUATION).lower().split())


def _clean_siglip(text: str) -> str:
    # The block is a space of the vocabulary, so a text that begins with a space has two.
    text = ("▁" + text.replace("▁", " ")).lower().translate(_PUNCTUATION)
    return re.sub(r"\s+", " ", text).strip()


_CLEANINGS: Final[Mapping[Cleaning, Callable[[str], str]]] = MappingProxyType(
    {
        "none": str,
        "siglip": _clean_siglip,
        "open_clip_whitespace": _clean_whitespace,
        "open_clip_lower": _clean_lower,
        "open_clip_canonicalize": _canonicalize,
    }
)


def _clean_basically(text: str) -> str:
    """What open_clip does first: ftfy's `fix_text`, then HTML is unescaped twice.

    Everything that ftfy does is here, except for repairing text that was decoded in a wrong encoding (`cafÃ©` for
    `café`): ftfy guesses that from a table of which characters are likely to be neighbours.
    """
    escaped, lines = True, list[str]()
    for line in re.findall("[^\n]*\n|[^\n]+", text):
        escaped = escaped and "<" not in line  # from there on it is HTML, whose entities stay for now
        lines.append(_fix_line(line, escaped))
    return html.unescape(html.unescape("".join(lines))).strip()


def _fix_line(line: str, escaped: bool) -> str:
    """Applies the repairs of ftfy until nothing changes."""
    while True:
        before = line
        if escaped:
            line = _ENTITY.sub(_unescape, line)
        line = _C1.sub(lambda found: _list_windows()[ord(found[0]) - 0x80], line)
        line = line.translate(_LIGATURES).translate(_list_widths())
        line = _SINGLE.sub("'", _DOUBLE.sub('"', line))
        line = _LINES.sub("\n", line)
        line = SURROGATE.sub("\ufffd", _PAIR.sub(_join_surrogates, line))
        line = _ESCAPES.sub("", line).translate(_CONTROL)
        line = unicodedata.normalize("NFC", line)
        if line == before:
            return line


def _unescape(found: re.Match[str]) -> str:
    entity = found[0]
    if not entity.startswith("&#"):
        return _list_entities().get(entity, entity)
    character = html.unescape(entity)
    return entity if ";" in character else character


def _join_surrogates(found: re.Match[str]) -> str:
    return found[0].encode("utf-16", "surrogatepass").decode("utf-16")


@cache
def _list_entities() -> Mapping[str, str]:
    """The named entities that end in a semicolon, and those of small letters in capitals: `&EACUTE;` for `É`."""
    entities = {f"&{name}": character for name, character in html5.items() if name.endswith(";")}
    shouted = {
        f"&{name.upper()}": character.upper()
        for name, character in html5.items()
        if name.endswith(";") and name == name.lower()
    }
    return {name: character for name, character in shouted.items() if html.unescape(name) == name} | entities


@cache
def _list_widths() -> Mapping[int, str]:
    """The usual forms of characters of full and half width."""
    usual = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFFF0)}
    return {0x3000: " "} | {code: form for code, form in usual.items() if form != chr(code)}


@cache
def _list_windows() -> tuple[str, ...]:
    """What Windows has in the places of the 32 upper control characters."""
    return tuple(bytes([code]).decode("cp1252", "replace").replace("\ufffd", chr(code)) for code in range(0x80, 0xA0))
