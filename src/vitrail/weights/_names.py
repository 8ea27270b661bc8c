"""Names of models: paths, short names of the catalogue, and repositories of the Hub."""

import difflib
import functools
import re
from pathlib import Path
from typing import Final

from .._check import join_names
from ._catalogue import PublishedModel, read_catalogue
from ._fetch import HubFile, fetch

_HUB: Final = "hub:"
_MAIN: Final = "model.safetensors"
ENDINGS: Final = (".safetensors", ".npz", ".json", ".bin", ".pt", ".pth", ".ckpt")
"""What the names of files end with: a name with one of them is a path, whether the file is there or not."""


def locate(source: Path | str) -> Path:
    """Finds the file of a model: a path as it is, or the file of a name, which is downloaded.

    **Raises:** `FileNotFoundError` if a text is neither a path nor a name that the catalogue knows; what `fetch`
    raises.
    """
    found = find_model(source)
    return fetch(found) if isinstance(found, HubFile) else found


def find_model(source: Path | str) -> Path | HubFile:
    """Whether a text is a path or a name, and of which file of the Hub. Nothing is downloaded.

    **Raises:** `FileNotFoundError` if it is neither.
    """
    if isinstance(source, Path):
        return source
    if source.startswith(_HUB):
        return resolve_name(source)
    if Path(source).exists() or source.startswith((".", "~", "/")) or "\\" in source:
        return Path(source)
    if (found := _find_name(source)) is None:
        if source.endswith(ENDINGS):
            return Path(source)
        raise FileNotFoundError(
            f"{source!r} is not a file, a folder, or a name in the list of models{_suggest(source)}. A repository of "
            f"the Hub that is not in the list is '{_HUB}owner/name'"
        )
    return found


def is_model_name(text: str) -> bool:
    """Whether a text is a name of the catalogue, or begins with `hub:`, so that `locate` downloads it where there is no
    such file."""
    return text.startswith(_HUB) or _find_name(text) is not None


def resolve_name(name: str, revision: str | None = None) -> HubFile:
    """Reads a name of the catalogue, or `owner/name`, each with a file of it (`owner/name/file`) or a revision
    (`owner/name@revision`).

    **Raises:** `ValueError` if the name is none of these, or the revision is given twice.
    """
    name = name.removeprefix(_HUB)
    if (found := _find_name(name)) is None:
        base, _, written = name.partition("@")
        owner, _, rest = base.partition("/")
        repository, _, file = rest.partition("/")
        if not owner or not repository:
            raise ValueError(
                f"the name of a model must be in the list of models, or a repository of the Hub as 'owner/name', got "
                f"{name!r}{_suggest(name)}"
            )
        found = HubFile(f"{owner}/{repository}", file or None, written or None)
    if revision is None:
        return found
    if found.revision is not None:
        raise ValueError(f"revision must be given once, got {found.revision!r} in {name!r} and {revision!r}")
    return HubFile(found.repository, found.file, revision)


def _find_name(name: str) -> HubFile | None:
    """The file of a name of the catalogue, or one of a repository of it; `None` if it has none of that name."""
    base, _, revision = name.partition("@")
    if (known := _index().get(base)) is not None:
        return HubFile(known.repository, known.file, revision or None)
    owner, repository, file = (*base.split("/", 2), "", "")[:3]
    if file and f"{owner}/{repository}" in _index():
        return HubFile(f"{owner}/{repository}", file, revision or None)
    return None


@functools.cache
def _index() -> dict[str, HubFile]:
    """The files by all their names: the first of two with the same."""
    found: dict[str, HubFile] = {}
    for model in read_catalogue():
        file = HubFile(model.repository, None if model.file == _MAIN else model.file)
        for name in model.names:
            found[name] = file
    for model in read_catalogue():
        for name in _list_library_names(model):
            found.setdefault(name, HubFile(model.repository))
    return found


def _list_library_names(model: PublishedModel) -> tuple[str, ...]:
    """The repository, and for one of timm's the name that timm has for it."""
    timm = model.repository.removeprefix("timm/")
    return (
        (model.repository, timm)
        if model.layout.startswith("timm") and timm != model.repository
        else (model.repository,)
    )


def suggest_names(pattern: str) -> tuple[str, ...]:
    """The names of the catalogue that are nearest to one, or where none is near, the words of names that are: the
    `dinov2` of `dinov2-s/14`. At most three; `*` and `?` do not count."""
    base = re.sub(r"[*?]", "", pattern.partition("@")[0]).lower()
    words = (word for known in _index() for word in re.split(r"[-_./]", known) if len(word) > 2)
    for candidates in (_index(), words):
        lower = {known.lower(): known for known in candidates}
        if near := difflib.get_close_matches(base, lower, n=3, cutoff=0.75):
            return tuple(lower[name] for name in near)
    return ()


def _suggest(name: str) -> str:
    """The nearest names, in words; empty if there are none."""
    near = suggest_names(name)
    return f": the nearest are {join_names(near)}" if near else ""
