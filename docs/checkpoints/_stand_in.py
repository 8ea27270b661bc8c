"""What the pages on checkpoints share: files of random weights in the place of published ones, and the table."""

import csv
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

import vitrail

ASSETS = Path(__file__).parent.parent / "assets"
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def published(layout: str, settings: Mapping[str, Any], config: vitrail.ViTConfig) -> Path:
    """A folder with `model.safetensors` and `config.json` as a library publishes them, the weights drawn at random."""
    _FOLDERS.append(tempfile.TemporaryDirectory())  # which goes when the site is made
    folder, state = Path(_FOLDERS[-1].name), np.random.default_rng(0)
    model = eqx.filter_eval_shape(lambda: config.build(key=jax.random.key(0)))

    def drawn(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jax.device_put(np.float32(0.02) * state.standard_normal(leaf.shape, np.float32))

    model = jax.tree.map(drawn, model)
    if config.position == vitrail.PartSpec("rope", (("base", 100.0), ("rule", "dinov3"))):
        # What DINOv3's file does not store, the bias of the keys, is zero.
        bias = model.encoder.stack.attention.qkv.bias
        thirds = bias.reshape(config.size.depth, 3, -1).at[:, 1].set(0)
        model = eqx.tree_at(lambda m: m.encoder.stack.attention.qkv.bias, model, thirds.reshape(bias.shape))
    vitrail.save(model, folder / "model.safetensors", layout=layout)
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def encoder(name: str) -> vitrail.EncoderSize:
    """The sizes that the families share."""
    dim, heads = {"Ti": (192, 3), "S": (384, 6), "B": (768, 12)}[name]
    return vitrail.EncoderSize(dim=dim, depth=12, num_heads=heads, mlp_dim=4 * dim)


def rows(family: str | None = None) -> list[dict[str, str]]:
    """What the comparison with the originals found, of one family or of all."""
    with (ASSETS / "checkpoints.csv").open() as file:
        return [
            row
            for row in csv.DictReader(file)
            if family in (None, row["family"]) or row["checkpoint"].startswith(family)
        ]


def table(family: str | None = None) -> str:
    """The same as a table in Markdown."""
    first = "| family " if family is None else ""
    lines = [f"{first}| layout | checkpoint | compared | images | largest difference |"]
    lines.append(f"{'|---' * (5 + bool(first))}|")
    for row in rows(family):
        start = f"| {row['family']} " if first else ""
        at = row["at"].replace("x", "&nbsp;x&nbsp;")
        lines.append(
            f"{start}| `{row['layout']}` | {row['checkpoint']} | {row['compared']} | {at} | {row['difference']} |"
        )
    return "\n".join(lines)


@contextmanager
def raises(kind: type[Exception], write: Callable[[str], None]) -> Iterator[None]:
    """Hands on the error that comes, without the folder that the file lies in."""
    try:
        yield
    except kind as error:
        write(f"{type(error).__name__}: {re.sub(rf'{tempfile.gettempdir()}/[^/ ,]+/?', '', str(error))}")
    else:
        raise AssertionError(f"no {kind.__name__} came")
