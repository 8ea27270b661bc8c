"""Tar files of images, each with its label or its text: the shards of WebDataset."""

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from jaxtyping import Shaped

from .._check import join_names
from ._dataset import MIN_PER_CLASS
from ._listing import Listing, find_parts, is_text
from ._open import FORMATS
from ._problems import describe_error, raise_problems

_PACKED: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_KINDS: Final = {suffix[1:]: "image" for suffix in FORMATS} | {kind: f".{kind}" for kind in ("cls", "json", "txt")}
"""What is read of a shard, by what the names end with."""
_REGULAR: Final = ord("0")
_MAX_CLASSES: Final = 1_000_000
_STRING: Final = np.dtypes.StringDType()

_Columns = tuple[Shaped[np.ndarray, "..."], ...]
"""Names, spans, labels and texts of pictures in tar files. A label or text that is not there is empty."""


def holds_shards(folder: Path) -> bool:
    """Whether a folder has tar files."""
    return any(folder.glob("[!.]*.tar"))


def list_shards(folder: Path, problems: list[str]) -> tuple[list[Listing], tuple[str, ...]]:
    """Lists the pictures in tar files. Of these the headers are read, the labels and the texts, and no picture.

    **Arguments:**

    - `folder`: has tar files, or `train` and `val` with them.
    - `problems`: what is wrong with tar files and what is in them is added to it.

    **Returns:**

    The pictures to learn from, those held out if they are divided, and the names of the classes.

    **Raises:** `DataError` if there is no picture; what `find_parts` raises.
    """
    roots = find_parts(folder, holds_shards)
    for root in roots:
        if inside := sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            problems.append(f"{root} must have tar files or folders, got both: move {join_names(inside[:5])} elsewhere")
    parts = [_join([_read_shard(root, path, problems) for path in _list_tars(root, problems)]) for root in roots]
    if not all(len(names) for names, *_ in parts):
        raise_problems(problems or [f"{folder} must have tar files with images ({', '.join(FORMATS)}), got none"])
    has_labels, has_texts = (any(np.any(part[place] != "") for part in parts) for place in (2, 3))
    for root, (names, _, labels, texts) in zip(roots, parts, strict=True):
        for has, values, beside in ((has_labels, labels, ".cls"), (has_texts, texts, ".txt")):
            lost = names[values == ""] if has or not (has_labels or has_texts) else names[:0]
            problems.extend(f"{root / os.fsdecode(name)} must have a {beside} beside it, got none" for name in lost)
    classes, numbers = _find_classes(folder, [part[2] for part in parts], problems) if has_labels else ((), {})
    found = [
        Listing(
            root,
            names,
            np.array([numbers.get(label, 0) for label in labels.tolist()], np.int32),
            texts if has_texts else None,
            spans,
        )
        for root, (names, spans, labels, texts) in zip(roots, parts, strict=True)
    ]
    return found, classes


def _list_tars(folder: Path, problems: list[str]) -> list[Path]:
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    problems.extend(
        f"{folder / name} is packed, so its pictures cannot be read one by one: unpack it to a .tar"
        for name in names
        if name.endswith(_PACKED)
    )
    return [folder / name for name in names if name.endswith(".tar")]


def _join(shards: list[_Columns]) -> _Columns:
    empty = np.array([], np.bytes_), np.empty((0, 2), np.int64), np.array([], _STRING), np.array([], _STRING)
    return tuple(np.concatenate(column) for column in zip(empty, *shards, strict=True))


def _read_shard(folder: Path, path: Path, problems: list[str]) -> _Columns:
    """Reads the headers of a tar file, and the labels and texts in it. A picture is known by its place."""
    samples: dict[str, dict[str, Any]] = {}
    try:
        with path.open("rb") as file:
            for member, begin, size in _iterate_members(file):
                above, slash, name = member.rpartition("/")
                stem, _, suffix = name.partition(".")  # as WebDataset divides a name
                kind = _KINDS.get(suffix.lower())
                if kind is None or not stem:
                    continue
                sample = samples.setdefault(above + slash + stem, {})
                if kind in sample:
                    problems.append(f"{path}/{member} must be there once, got another {kind} of that name")
                elif kind == "image":
                    sample |= {"image": member, "span": (begin, size)}
                else:
                    file.seek(begin)
                    sample[kind] = file.read(size)
    except (OSError, tarfile.TarError) as error:
        problems.append(f"{path} must be a whole tar file, got an error: {describe_error(error)}")
    pictures = [(key, sample) for key, sample in samples.items() if "image" in sample]
    for key, sample in samples.items():
        if "image" not in sample:
            problems.append(f"{path}/{key} must have an image beside its {join_names(sample)}, got none")
    shard = path.relative_to(folder)
    said = [_read_beside(f"{path}/{key}", sample, problems) for key, sample in pictures]
    return (
        np.array([os.fsencode(f"{shard}/{sample['image']}") for _, sample in pictures], np.bytes_),
        np.array([sample["span"] for _, sample in pictures], np.int64).reshape(-1, 2),
        np.array([label for label, _ in said], _STRING),
        np.array([text for _, text in said], _STRING),
    )


def _iterate_members(file: io.BufferedReader) -> Iterator[tuple[str, int, int]]:
    """The name of each file in a tar file, where it begins and its size.

    The headers that most libraries write are read here, in an eighth of the time that tarfile takes for all of them.

    **Raises:** `TarError` if the tar file is cut off or damaged.
    """
    with tarfile.open(fileobj=file, mode="r:") as tar:
        member = tar.next()
        while member is not None:
            cast(Any, tar).members.clear()  # it would keep them all
            if member.isreg():
                yield member.name, member.offset_data, member.size
            file.seek(tar.offset)
            header = file.read(512)
            while header[257:263] == b"ustar\0" and header[156] == _REGULAR and header[124] < 128:
                name = b"/".join(part.rstrip(b"\0") for part in (header[345:500], header[:100]) if part[0])
                begin, size = tar.offset + 512, int(header[124:136].strip(b"\0 ") or b"0", 8)
                yield name.decode("utf-8", "surrogateescape"), begin, size
                tar.offset = begin + (size + 511) // 512 * 512
                file.seek(tar.offset)
                header = file.read(512)
            member = tar.next()
        file.seek(tar.offset)
        rest = file.read(2**20)
        if not rest or rest.strip(b"\0"):  # tarfile takes a broken header for the end
            raise tarfile.ReadError(f"there is no end, nor a header, at byte {tar.offset}")


def _read_beside(name: str, sample: dict[str, Any], problems: list[str]) -> tuple[str, str]:
    """The label and the text of a picture. One that is not there is empty."""
    try:
        found: Any = json.loads(sample[".json"]) if ".json" in sample else {}
        label, text = (sample[suffix].decode().strip() if suffix in sample else "" for suffix in (".cls", ".txt"))
    except (ValueError, RecursionError) as error:
        problems.append(f"{name} must have JSON and texts in UTF-8, got an error: {error}")
        return "", ""
    if isinstance(found, dict):
        settings = cast("dict[str, Any]", found)
        label, text = label or str(settings.get("label", "")), text or str(settings.get("text", ""))
    return label, text if is_text(text) else ""


def _find_classes(
    folder: Path, labels: list[Shaped[np.ndarray, "..."]], problems: list[str]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The names of the classes, and the number of each label: their place in alphabetical order, or, if each label is a
    number, that number."""
    names, counts = (column.tolist() for column in np.unique_counts(labels[0][labels[0] != ""]))
    if len(names) < 2:
        problems.append(f"{folder} must have images of at least two classes, got {join_names(names) or 'none'}")
    if strange := sorted(set(labels[-1].tolist()) - {*names, ""}):
        problems.append(f"{folder} must have training images of each class, got none of {join_names(strange)}")
    if len(labels) == 1 and (few := [name for name, count in zip(names, counts, strict=True) if count < MIN_PER_CLASS]):
        problems.append(
            f"{folder} must have at least 2 images of each class, so that one can be held out, got 1 of "
            f"{join_names(few[:5])}"
        )
    if not all(name.isdecimal() for name in names):
        return tuple(names), {name: number for number, name in enumerate(names)}
    largest = max(map(int, names), default=0)
    if largest >= _MAX_CLASSES:
        problems.append(f"{folder} must have labels below {_MAX_CLASSES:,}, got {largest:,}")
        largest = 0
    return tuple(map(str, range(largest + 1))), {name: int(name) for name in names}
