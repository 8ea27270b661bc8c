"""What the pages on checkpoints share: files with random weights in place of
published ones, and the table."""

import contextlib
import csv
import io
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

import vitrail
from vitrail.cli import main

sys.path.append(str(Path(__file__).parents[1]))
from _code import format_code

ASSETS = Path(__file__).parent.parent / "assets"
USUAL = "16x16, 20x32, 24x24"
_FOLDERS = [tempfile.TemporaryDirectory()]
# huggingface_hub reads both when it is imported: no page asks the network.
os.environ["HF_HUB_CACHE"] = _FOLDERS[0].name
os.environ["HF_HUB_OFFLINE"] = "1"


def published(
    layout: str, config: Any, repository: str | None = None, **settings: str
) -> Path:
    """A folder with `model.safetensors` and `config.json` as a library
    publishes them, with random weights; `settings` replace some of the
    `config.json`. With `repository`, the Hub's cache has it under that name."""
    folder, state = make_folder(repository), np.random.default_rng(0)
    model = eqx.filter_eval_shape(lambda: config.build(key=jax.random.key(0)))

    def drawn(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jax.device_put(
            np.float32(0.02) * state.standard_normal(leaf.shape, np.float32)
        )

    model = jax.tree.map(drawn, model)
    dinov3 = vitrail.PartSpec("rope", (("base", 100.0), ("rule", "dinov3")))
    if isinstance(config, vitrail.ViTConfig) and config.position == dinov3:
        # DINOv3's file does not store the bias of the keys, which is zero.
        bias = model.backbone.encoder.stack.attention.qkv.bias
        thirds = bias.reshape(config.size.depth, 3, -1).at[:, 1].set(0)
        model = eqx.tree_at(
            lambda m: m.backbone.encoder.stack.attention.qkv.bias,
            model,
            thirds.reshape(bias.shape),
        )
    vitrail.save(model, folder, layout=layout)
    written = folder / "config.json"
    written.write_text(json.dumps(json.loads(written.read_text()) | settings))
    return folder


def make_folder(repository: str | None) -> Path:
    """A folder for a model, which is removed when Python exits: in the cache of
    huggingface_hub, as a download leaves it, or one without a name."""
    if repository is None:
        _FOLDERS.append(tempfile.TemporaryDirectory())
        return Path(_FOLDERS[-1].name)
    name, commit = f"models--{repository.replace('/', '--')}", f"{0:040}"
    cached = Path(os.environ["HF_HUB_CACHE"], name)
    shutil.rmtree(cached, ignore_errors=True)
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    folder = cached / "snapshots" / commit
    folder.mkdir(parents=True)
    return folder


def encoder(name: str) -> vitrail.EncoderSize:
    """A size by its name, but B of three blocks instead of twelve: two pages
    of it are in memory at the same time."""
    dim, depth, heads = {"Ti": (192, 12, 3), "S": (384, 12, 6), "B": (768, 3, 12)}[name]
    return vitrail.EncoderSize(dim=dim, depth=depth, num_heads=heads, mlp_dim=4 * dim)


def conversions() -> list[dict[str, str]]:
    """From which layout a model can be written to which."""
    return _read("conversions.csv")


def rows(family: str | None = None) -> list[dict[str, str]]:
    """The differences from the originals, for one family or for all."""
    found = _read("checkpoints.csv")
    return [row for row in found if family in (None, row["family"])]


def system_rows() -> list[dict[str, str]]:
    """The same for systems."""
    return _read("systems.csv")


def _read(name: str) -> list[dict[str, str]]:
    """The rows of a table among the assets."""
    with (ASSETS / name).open() as file:
        return list(csv.DictReader(file))


def table(family: str, *, sizes: bool = True) -> str:
    """The differences of a family as a table in Markdown, with the `sizes` of
    the images if they are not the usual ones."""
    found: list[tuple[str, ...]] = []
    for row in rows(family):
        at = f" at {row['at'].replace('x', ' x ')}" if sizes and row["at"] != USUAL else ""
        cells = row["layout"], row["checkpoint"], row["compared"] + at
        found.append((*cells, row["difference"]))
    return _draw("| layout | checkpoint | compared | difference |", found)


def system_table(system: str) -> str:
    """The differences of a system from the originals, as a table in Markdown."""
    found = [
        (row["layout"], row["checkpoint"], row["difference"])
        for row in system_rows()
        if row["system"] == system
    ]
    return _draw("| layout | checkpoint | difference |", found)


def summary(found: list[dict[str, str]], column: str) -> str:
    """How many rows each family or system has, and its largest difference."""
    lines = [f"| {column} | checkpoints | largest difference |", "|---|---|---|"]
    for name in dict.fromkeys(row[column] for row in found):
        differences = [row["difference"] for row in found if row[column] == name]
        lines.append(f"| {name} | {len(differences)} | {max(differences, key=float)} |")
    return "\n".join(lines)


def _draw(head: str, found: Iterable[tuple[str, ...]]) -> str:
    """A table of rows that begin with a layout and a checkpoint."""
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for layout, checkpoint, *others in found:
        code = f"<code>{breakable(layout)}</code>"
        lines.append(f"| {' | '.join([code, breakable(checkpoint), *others])} |")
    return "\n".join(lines)


def breakable(name: str) -> str:
    """A name that may be broken after underscores, hyphens and dots, and before
    capitals, for narrow columns on a phone."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[-._])(?=[a-z])", "<wbr>", name)


def names(*families: str) -> str:
    """The short names of families, without those of other trainings."""
    short = [
        f"`{name}`"
        for model in vitrail.list_models()
        for name in model.names
        if model.family in families and "/" in name and "." not in name
    ]
    return ", ".join(short)


def run(*commands: str) -> str:
    """Commands as a block of the page. Those of vitrail are run: what they
    print of random weights is of no use, but that they end well is."""
    for command in commands:
        if command.startswith("vitrail "):
            with contextlib.redirect_stdout(io.StringIO()):
                assert main(shlex.split(command)[1:]) == 0, command
    return "\n".join(["```console", *(f"$ {each}" for each in commands), "```"])


def without_folders(write: Callable[..., None]) -> Callable[..., None]:
    """A `print` without the temporary folders of the files."""
    return lambda *values: write(
        *(re.sub(rf"{tempfile.gettempdir()}/[^/ ,]+/?", "", str(value)) for value in values)
    )


def code_of(file: str, start: str = "", end: str | None = None) -> str:
    """A file, or its part from one text to another, as a block of code that
    fits the page."""
    source = Path(file).read_text()
    part = source[source.index(start) : None if end is None else source.index(end)]
    return format_code(part)
