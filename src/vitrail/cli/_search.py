"""`vitrail search`: the images of a folder that a text describes best."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from .._check import check_positive
from .._extras import require
from .._patched import PatchedImage
from ..images import FORMATS, HALF, Preprocess
from ..show import SUFFIXES, draw_contact_sheet
from ..systems import ImageText
from ..train import check_outputs
from ._options import LoadOptions
from ._pictures import PreprocessName, choose_preprocess, make_batch, read_picture
from ._setup import check_out
from ._texts import load_image_text

_THUMBNAIL: Final = Preprocess("cover", "bicubic", *HALF)
_SIDE: Final = 240


@dataclass(frozen=True)
class Search(LoadOptions):
    """Finds the images of a folder that match a text, and draws the best.

    It needs the weights of both towers of CLIP or SigLIP, and the extra `text`.
    """

    file: Path
    """CLIP or SigLIP with both towers: a safetensors file, an index of several, or a folder with one. The tokenizer
    must be in the same folder."""
    folder: Path
    """The folder of images (JPEG, PNG, WebP). Its subfolders are searched too, hidden files are not."""
    text: str
    """The text to search for, such as "a red car"."""
    top: int = 12
    """The number of images to show."""
    out: Path = Path("vitrail-search.png")
    """The picture to write: .png, .pdf or .svg."""
    batch_size: int = 16
    """The number of images to embed at a time."""
    preprocess: PreprocessName | None = None
    """How to prepare images, as for `vitrail predict`."""


def run_search(command: Search) -> None:
    """Embeds the text and the images, prints the best, and draws them."""
    started = time.perf_counter()
    require("PIL", extra="weights")
    require("matplotlib", extra="demo")
    check_positive(top=command.top, batch_size=command.batch_size)
    check_out("out", command.out, SUFFIXES)
    if not command.text.strip():
        raise ValueError("text must say what to look for, got nothing")
    paths = _list_images(command.folder, command.out)
    card = command.read_card(command.file, part="image")
    preprocess = choose_preprocess(command.preprocess, command.file, card.config)
    model = load_image_text(command.file, command)
    direction = eqx.filter_jit(model.embed_text)(jnp.asarray(model.tokenize(command.text)[0]))
    problems: list[str] = []
    found = dict(_score_images(model, preprocess, paths, direction, command.batch_size, problems))
    if not found:
        raise ValueError(
            f"{command.folder} must have an image that can be read, got none in {len(paths)}: {problems[0]}"
        )
    best = sorted(found, key=lambda path: -found[path])[: command.top]
    for path in best:
        print(f"{found[path]:8.4f}  {path}")
    _draw_best(command, best, found)
    for problem in problems:
        print(f"left out: {problem}")
    print(f"{len(found):,} images, the best {len(best)}: {command.out}")
    print(f"time: {time.perf_counter() - started:.0f} s")


def _list_images(folder: Path, out: Path) -> list[Path]:
    """The images in a folder and those within it, but for the picture that is going to be written."""
    if not folder.is_dir():
        raise ValueError(f"folder must be a folder of images, got {folder}: it is not a folder")
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in FORMATS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
        and path.resolve() != out.resolve()
    ]
    if not paths:
        raise ValueError(f"{folder} must have images ({', '.join(FORMATS)}), got none")
    return paths


def _score_images(
    model: ImageText,
    preprocess: Preprocess,
    paths: list[Path],
    direction: Float[Array, " embed"],
    batch_size: int,
    problems: list[str],
) -> Iterator[tuple[Path, float]]:
    """The cosine of each image and the text. What cannot be read is added to `problems`."""
    size = model.image.config.image_size
    batch_size = min(batch_size, len(paths))
    for start in range(0, len(paths), batch_size):
        some = paths[start : start + batch_size]
        read = [(path, read_picture(path, lambda picture: preprocess(picture, size), problems)) for path in some]
        kept = [(path, pixels) for path, pixels in read if pixels is not None]
        if not kept:
            continue
        # Filled up to the same number each time, so that one program is compiled.
        filled = make_batch(preprocess, [pixels for _, pixels in kept] + [kept[-1][1]] * (batch_size - len(kept)))
        embeddings = np.asarray(_embed_images(model, filled))[: len(kept)]
        check_outputs("embeddings", embeddings, first=start)
        yield from (
            (path, float(score)) for (path, _), score in zip(kept, embeddings @ np.asarray(direction), strict=True)
        )


@eqx.filter_jit
def _embed_images(
    model: ImageText, images: Float32[Array, "batch height width channels"] | PatchedImage
) -> Float[Array, "batch embed"]:
    return jax.vmap(model.embed_image)(images)


def _draw_best(command: Search, best: list[Path], scores: dict[Path, float]) -> None:
    thumbnails: list[UInt8[np.ndarray, "side side 3"]] = []
    lost: list[str] = []
    for path in best:
        pixels = read_picture(path, lambda picture: _THUMBNAIL.resize(picture, (_SIDE, _SIDE)), lost)
        thumbnails.append(np.full((_SIDE, _SIDE, 3), 255, np.uint8) if pixels is None else pixels)
    captions = [
        (f"{number}.  {scores[path]:.3f}", str(path.relative_to(command.folder))) for number, path in enumerate(best, 1)
    ]
    draw_contact_sheet(np.stack(thumbnails), captions, command.out, title=f"“{command.text}”")
