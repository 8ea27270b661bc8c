"""Writes docs/assets/conversions.csv: from which layout a model can be written to which.

Run it with `python tests/write_conversions.py`. The models are those of the fixtures, a small one of every family.
"""

import csv
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax_vit
import jax
from checkpoint_cases import load_cases, published
from system_cases import load_system_cases

import vitrail
from vitrail.weights import LAYOUTS

OUT = Path(__file__).parent.parent / "docs" / "assets" / "conversions.csv"
WRITTEN = [name for name, each in LAYOUTS.items() if each.export or (each.image and each.image.export)]


def list_models(folder: Path) -> Iterator[tuple[str, Any]]:
    """The layout and the model of each fixture."""
    for number, case in enumerate(load_cases().values()):
        yield case.layout, vitrail.load(published(case, folder / str(number)), part="image", **case.options)
    for number, case in enumerate(load_system_cases().values()):
        yield case.layout, widen(vitrail.load(case.publish(folder / f"s{number}"), **case.options))
    for name, make in flax_vit.CASES.items():
        case = make()
        yield case.layout, vitrail.load(published(case, folder / name), part="image", **case.options)


def widen(model: Any) -> Any:
    """The fixtures of Depth Anything have an MLP of 3/2 of the width, which no published model has: twice as wide."""
    config = model.config
    if not isinstance(config, vitrail.DenseConfig) or config.image.size.mlp_dim % config.image.size.dim == 0:
        return model
    size = dataclasses.replace(config.image.size, mlp_dim=2 * config.image.size.dim)
    wide = dataclasses.replace(config, image=dataclasses.replace(config.image, size=size))
    return wide.build(key=jax.random.key(0))


def main() -> None:
    """Tries every pair that is not known yet."""
    found: dict[tuple[str, str], set[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for layout, model in list_models(Path(folder)):
            kind = type(model).__name__
            known = found.setdefault((layout, "" if kind == "ViT" else kind), set())
            for target in (name for name in WRITTEN if name not in known):
                try:
                    vitrail.save(model, Path(folder, target), layout=target)  # type: ignore[arg-type]
                    known.add(target)
                except ValueError:
                    continue
    with OUT.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("layout", "system", "written"))
        order = list(LAYOUTS)
        for (layout, kind), targets in sorted(found.items(), key=lambda each: (order.index(each[0][0]), each[0][1])):
            writer.writerow((layout, kind, " ".join(name for name in WRITTEN if name in targets)))


if __name__ == "__main__":
    main()
