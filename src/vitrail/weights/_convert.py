"""Converts a model from any layout that is read to any that is written, and proves that it is the same."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from .._check import join_names
from .._files import make_scratch, write_whole
from ..model import ViTConfig
from ..nn import digest_array, list_arrays
from ..pool import POOLS
from ._card import ModelCard, model_card
from ._configuration import KINDS
from ._errors import CheckpointError
from ._licence import README
from ._load import load
from ._names import ENDINGS, locate
from ._probe import ROUNDING, compare_outputs, draw_picture, run_probe
from ._read import Config, read_model
from ._readme import CONVERTED, make_readme
from ._save import NO_SETTINGS, TENSORS, check_layout, choose_layout, prepare_folder, replace_folder, save, write_folder
from .formats import convert_torch, list_files
from .layouts import CONFIG, LAYOUTS, Part, Settings

if TYPE_CHECKING:
    from .layouts import WritableLayout
else:
    WritableLayout = str  # save checks it itself

_BESIDE: Final = ("*.json", "merges.txt", "bpe_simple_vocab_16e6.txt.gz", README)
"""The files beside a pickle that say what it holds."""


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote, and how far the outputs of both models differ."""

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
    """Converts a model to another layout. PyTorch is needed only to read one of its pickles.

    The new file is read back, and both models compute the same test picture. If their outputs differ by more than
    rounding, nothing is written. Otherwise the new files take their place, and replace an older model there, as with
    `vitrail.save`.

    !!! example

        ```python
        vitrail.convert("dinov2.safetensors", "folder", layout="hf_dinov2")  # AutoModel.from_pretrained("folder")
        ```

    **Arguments:**

    - `path`: a file or folder, as `vitrail.load` takes it; with `from_torch` a pickle of PyTorch.
    - `out`: a file that ends in `.safetensors` for vitrail's own format, or a folder, which also gets a model card,
        `README.md`. A file or a folder with a model is replaced; a folder with other things in it is an error. A
        `README.md` that says that vitrail converted the model is replaced, and any other one is kept.
    - `layout`: the layout to write, as in `vitrail.save`.
    - `source_layout`, `config`, `prefix`, `part`: how the file is read: `layout` and the others of `vitrail.load`.
    - `pool`: another pool for the new model, if the other library does not have the pool of this one.
    - `convert`: whether to convert float64, float16 and bfloat16 to float32. Without it they are an error.
    - `from_torch`: whether PyTorch may read a pickle, as in `vitrail.convert_torch`.
    - `pick`: which dictionary of tensors to read from a pickle that has several.

    **Returns:**

    A `Conversion`.

    **Raises:** `ValueError` if `out` is the file that is read, holds other things than a model or does not fit the
    layout; `CheckpointError` if the outputs differ; what `vitrail.load`, `vitrail.save` and `vitrail.convert_torch`
    raise. After an error no file has changed.
    """
    path, out = locate(path), Path(out)
    check_layout(layout)
    _check_out(path, out, layout)
    if pick is not None and not from_torch:
        raise ValueError("pick must be None without from_torch: only a pickle has several dictionaries of tensors")
    if pool is not None:
        POOLS.describe(pool)
    reading: dict[str, Any] = {"layout": source_layout, "config": config, "prefix": prefix, "part": part}
    with ExitStack() as opened:
        opened_path = opened.enter_context(_unpickle(path, out, pick)) if from_torch else path
        source = model_card(opened_path, **reading)
        if layout != "vitrail":
            choose_layout(layout, ViTConfig if pool is not None else KINDS[source.kind])
        ending = {} if pool is None else {"pool": pool}
        model = cast(Any, load)(opened_path, **reading, **ending, convert=convert)
        scratch = opened.enter_context(make_scratch(out.parent, out.name))
        if out.suffix == ".safetensors":
            made = scratch / out.name
            save(model, made, licence=source.licence)
            done = _prove(model, source, made, out, layout)
            write_whole(out, made.replace)
            return done
        made = scratch / "made"
        settings = _write(model, source, opened_path, made, out, layout)
        done = _prove(model, source, made, out, layout)
        text = _describe_origin(done, path, made)
        replace_folder(out, settings, partial(_move, made / TENSORS, out / TENSORS))
        if _may_replace(out / README):
            write_whole(out / README, lambda part: part.write_text(text, "utf-8"))
        return done


def _check_out(path: Path, out: Path, layout: str) -> None:
    if out.suffix == ".safetensors" and layout != "vitrail":
        raise ValueError(
            f"out must be a folder for layout={layout!r}, whose library reads a config.json beside the tensors, got "
            f"{out}: name a folder"
        )
    if out.suffix in (*ENDINGS, ".onnx") and out.suffix != ".safetensors":
        raise ValueError(f"out must be a folder or end in .safetensors, got {out}: no other file is written")
    _check_apart(path, out)
    if (out.suffix == ".safetensors" and out.is_dir()) or (out.suffix != ".safetensors" and out.is_file()):
        kinds = ("file", "folder") if out.is_dir() else ("folder", "file")
        raise ValueError(f"out must be a {kinds[0]}, got the {kinds[1]} {out}: name another one")
    if out.is_dir() and any(out.iterdir()) and not (out / TENSORS).exists():
        raise ValueError(
            f"out must be a new or an empty folder, or one with a {TENSORS} that is replaced, got {out}: name another "
            "one"
        )
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent} is not a folder: make it before writing {out}")


def _check_apart(path: Path, out: Path) -> None:
    """Raises a `ValueError` if a file that is read would be replaced, or hidden by a new main file of its folder."""
    read = list_files(path)
    taken = {path, path / TENSORS, *read} if path.is_dir() else {*read, path.parent, path.resolve().parent}
    written = {out} if out.suffix == ".safetensors" else {out, out / TENSORS}
    if {each.resolve() for each in taken} & {each.resolve() for each in written}:
        raise ValueError(f"out must be another place than what is read, got {out} for {path}: name another one")


def _may_replace(readme: Path) -> bool:
    """Whether there is no model card yet, or one that `convert` wrote."""
    return not readme.exists() or CONVERTED.search(readme.read_text("utf-8", "replace")) is not None


def _move(made: Path, out: Path, close: Callable[[], object]) -> None:
    write_whole(out, made.replace, before_move=close)


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


def _write(model: Any, source: ModelCard, opened: Path, made: Path, out: Path, layout: str) -> Mapping[str, Settings]:
    """Writes the folder, and returns the settings in it."""
    made.mkdir()
    if layout == "vitrail":
        save(model, made / TENSORS, licence=source.licence)
        return NO_SETTINGS
    keep = opened if _has_kept(source, layout) else None
    tensors, settings = prepare_folder(model, out, layout, keep=keep, licence=source.licence)
    write_folder(made, tensors, settings)
    return settings


def _describe_origin(done: Conversion, path: Path, made: Path) -> str:
    """The model card of the folder."""
    classes: list[str] = []
    if (made / CONFIG).is_file():
        classes = cast("dict[str, Any]", json.loads((made / CONFIG).read_text("utf-8"))).get("architectures", [])
    source = done.source
    name = path.name if source.repository is None else f"{source.repository}@{source.commit}"
    return make_readme(
        dataclasses.replace(done.card, licence=source.licence),
        place=done.path.name,
        name=done.path.name,
        origin=f"`{name}`, which has the layout `{source.layout}` ({source.title}){_name_assumed(source)},",
        architecture=next(iter(classes), ""),
    )


def _name_assumed(source: ModelCard) -> str:
    """What no settings said, which the settings that are written say."""
    return f", where no settings say {join_names(source.assumed)}, which vitrail assumed," if source.assumed else ""


def _has_kept(source: ModelCard, layout: str) -> bool:
    """Whether the file has the layout that is written, with tensors that the library has beside the model."""
    known = LAYOUTS.get(layout)
    exports = [each.export for each in (known, known and known.image) if each is not None and each.export is not None]
    patterns = [pattern for export in exports for pattern in export.kept] if source.layout == layout else []
    return any(re.fullmatch(pattern, name) for pattern in patterns for name in source.ignored)


def _prove(model: Any, source: ModelCard, made: Path, out: Path, layout: str) -> Conversion:
    """Reads what was written and compares it with the model, which is given up for it."""
    picture = draw_picture(model)
    ours = run_probe(model, picture)
    digests = _digest(model)
    del model
    written = read_model(made)
    differences = compare_outputs(ours, run_probe(written, picture))
    worst = max(differences, key=lambda name: differences[name])
    if not differences[worst] <= ROUNDING:
        raise CheckpointError(
            f"{out} was not written: the {worst} of the model that is read back differs by {differences[worst]:.1e} of "
            f"its largest number from that of the model that was written, which is more than rounding ({ROUNDING:g}): "
            f"please report it, with the layouts {source.layout!r} and {layout!r}"
        )
    card = model_card(made)
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
