"""Converts a model from any layout that is read to any that is written, and proves that it is the same."""

import dataclasses
import json
import re
import shutil
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from .._check import join_names
from .._files import make_scratch
from ..nn import digest_array, list_arrays
from ._card import ModelCard, model_card
from ._errors import CheckpointError
from ._load import load
from ._names import ENDINGS, locate
from ._probe import ROUNDING, compare_outputs, draw_picture, run_probe
from ._read import Config, read_model
from ._readme import make_readme
from ._save import save
from .formats import convert_torch
from .layouts import CONFIG, LAYOUTS, Part

if TYPE_CHECKING:
    from .layouts import WritableLayout
else:
    WritableLayout = str  # save checks it itself

_TENSORS: Final = "model.safetensors"
_README: Final = "README.md"
_BESIDE: Final = ("*.json", "merges.txt", "bpe_simple_vocab_16e6.txt.gz")
"""The files beside a pickle that say what it holds."""


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote, and how it was proved."""

    path: Path
    """The file or folder."""
    source: ModelCard
    """The card of the file that was converted."""
    card: ModelCard
    """The card of what was written."""
    difference: float
    """The largest difference between the outputs of the two, relative to the largest number of each output."""
    same_arrays: bool
    """Whether the arrays of the two are equal to the bit, after the conversion to float32 that `convert` allows."""
    left_out: tuple[str, ...]
    """The tensors that the model does not need and that were not written."""


def convert(
    path: Path | str,
    out: Path | str,
    *,
    layout: WritableLayout = "vitrail",
    source_layout: str | None = None,
    config: Config = None,
    prefix: str | None = None,
    part: Part = None,
    pool: str | None = None,
    convert: bool = False,
    from_torch: bool = False,
    pick: str | None = None,
) -> Conversion:
    """Converts a model to another layout. PyTorch is not needed, unless the file is one of its pickles.

    What was written is read back, and both models compute a drawn picture: if their outputs differ by more than
    rounding, what was written is removed.

    !!! example

        ```python
        vitrail.convert("dinov2.safetensors", "folder", layout="hf_dinov2")  # AutoModel.from_pretrained("folder")
        ```

    **Arguments:**

    - `path`: a file or folder, as `vitrail.load` takes it; with `from_torch` a pickle of PyTorch.
    - `out`: a file that ends in `.safetensors` for vitrail's own format, or a folder, which also gets a model card,
        `README.md`. It must not be there yet, or be an empty folder.
    - `layout`: the layout to write, as in `vitrail.save`.
    - `source_layout`, `config`, `prefix`, `part`: how the file is read: `layout` and the others of `vitrail.load`.
    - `pool`: another pool, for a library that knows no model with the one that there is.
    - `convert`: whether to convert float64, float16 and bfloat16 to float32. Without it they are an error.
    - `from_torch`: whether PyTorch may read a pickle, as in `vitrail.convert_torch`.
    - `pick`: which dictionary of tensors of the pickle.

    **Returns:**

    A `Conversion`.

    **Raises:** `ValueError` if `out` is there or does not fit the layout; `CheckpointError` if the outputs differ; what
    `vitrail.load`, `vitrail.save` and `vitrail.convert_torch` raise. After an error nothing is left.
    """
    path, out = locate(path), Path(out)
    _check_out(out, layout)
    if pick is not None and not from_torch:
        raise ValueError("pick must be None without from_torch: only a pickle has several dictionaries of tensors")
    reading: dict[str, Any] = {"layout": source_layout, "config": config, "prefix": prefix, "part": part}
    with ExitStack() as opened:
        opened_path = opened.enter_context(_unpickle(path, out, pick)) if from_torch else path
        source = model_card(opened_path, **reading)
        ending = {} if pool is None else {"pool": pool}
        model = cast(Any, load)(opened_path, **reading, **ending, convert=convert)
        with _remove_after_error(out):
            _write(model, source, opened_path, path, out, layout)
            return _prove(model, source, out, layout)


def _check_out(out: Path, layout: str) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"out must be a file or folder that is not there yet, got {out}: name another one")
    if out.suffix == ".safetensors" and layout != "vitrail":
        raise ValueError(
            f"out must be a folder for layout={layout!r}, whose library reads a config.json beside the tensors, got "
            f"{out}: name a folder"
        )
    if out.suffix in (*ENDINGS, ".onnx") and out.suffix != ".safetensors":
        raise ValueError(f"out must be a folder or end in .safetensors, got {out}: no other file is written")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent} is not a folder: make it before writing {out}")


@contextmanager
def _unpickle(path: Path, out: Path, pick: str | None) -> Generator[Path]:
    """The tensors of a pickle in a folder for a while, with the files that are beside it."""
    with make_scratch(out.parent, out.name) as scratch:
        file = scratch / f"{path.name.removesuffix('.index.json').removesuffix(path.suffix)}.safetensors"
        convert_torch(path, file, pick=pick)
        for pattern in _BESIDE:
            for beside in (each for each in path.parent.glob(pattern) if not each.name.endswith(".index.json")):
                shutil.copyfile(beside, scratch / beside.name)
        yield file


@contextmanager
def _remove_after_error(out: Path) -> Generator[None]:
    was_there = out.exists()
    try:
        yield
    except BaseException:
        if out.is_dir() and was_there:  # it was empty; it can be a link
            for path in out.iterdir():
                path.unlink()
        elif out.is_dir():
            shutil.rmtree(out)
        else:
            out.unlink(missing_ok=True)
        raise


def _write(model: Any, source: ModelCard, opened: Path, path: Path, out: Path, layout: WritableLayout) -> None:
    if out.suffix == ".safetensors":
        save(model, out, licence=source.licence)
        return
    if layout == "vitrail":
        out.mkdir(exist_ok=True)
        save(model, out / _TENSORS, licence=source.licence)
    else:
        keep = opened if _has_kept(source, layout) else None
        save(model, out, layout=layout, keep=keep, licence=source.licence)
    card = model_card(out)
    classes: list[str] = []
    if (out / CONFIG).is_file():
        classes = cast("dict[str, Any]", json.loads((out / CONFIG).read_text("utf-8"))).get("architectures", [])
    text = make_readme(
        dataclasses.replace(card, licence=source.licence),
        place=out.name,
        name=out.name,
        origin=f"`{path.name}`, which has the layout `{source.layout}` ({source.title}){_name_assumed(source)},",
        architecture=next(iter(classes), ""),
    )
    (out / _README).write_text(text, "utf-8")


def _name_assumed(source: ModelCard) -> str:
    """What no settings said, which the settings that are written say."""
    return f", where no settings say {join_names(source.assumed)}, which vitrail assumed," if source.assumed else ""


def _has_kept(source: ModelCard, layout: str) -> bool:
    """Whether the file has the layout that is written, with tensors that the library has beside the model."""
    known = LAYOUTS.get(layout)
    exports = [each.export for each in (known, known and known.image) if each is not None and each.export is not None]
    patterns = [pattern for export in exports for pattern in export.kept] if source.layout == layout else []
    return any(re.fullmatch(pattern, name) for pattern in patterns for name in source.ignored)


def _prove(model: Any, source: ModelCard, out: Path, layout: str) -> Conversion:
    """Reads what was written and compares it with the model, which is given up for it."""
    picture = draw_picture(model)
    ours = run_probe(model, picture)
    digests = _digest(model)
    del model
    written = read_model(out)
    differences = compare_outputs(ours, run_probe(written, picture))
    worst = max(differences, key=lambda name: differences[name])
    if not differences[worst] <= ROUNDING:
        raise CheckpointError(
            f"{out} was removed: the {worst} of the model that is read from it differs by {differences[worst]:.1e} of "
            f"its largest number from that of the model that was written, which is more than rounding ({ROUNDING:g}): "
            f"please report it, with the layouts {source.layout!r} and {layout!r}"
        )
    card = model_card(out)
    return Conversion(
        path=out,
        source=source,
        card=card,
        difference=differences[worst],
        same_arrays=digests == _digest(written),
        left_out=tuple(name for name in source.ignored if not _is_in(name, card)),
    )


def _digest(model: Any) -> dict[str, str]:
    return {name: digest_array(np.asarray(array)) for name, array in list_arrays(model).items()}


def _is_in(name: str, card: ModelCard) -> bool:
    """Whether a tensor was written though the model does not need it: its library has it."""
    return any(name == each or each.endswith(f".{name}") or name.endswith(f".{each}") for each in card.ignored)
