"""What the comparisons found, as tables: `pytest tests/oracles --table docs/assets/checkpoints.csv`, and beside it
`systems.csv`."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

COLUMNS = ("family", "layout", "checkpoint", "compared", "at", "difference")
FAMILIES = (
    *("NaFlex", "RoPE", "Perception Encoder", "BEiT", "DeiT", "DINOv2", "DINOv3", "CLIP", "SigLIP", "MAE", "SAM"),
    *("AIMv2", "TIPSv2"),
)
SYSTEM_COLUMNS = ("system", "layout", "checkpoint", "compared", "difference")
SYSTEMS = {
    "systems_image_text": "Image and text",
    "systems_mae": "MAE",
    "systems_sam": "Segment Anything",
    "systems_dino": "DINO",
    "systems_dense": "Dense prediction",
}
_FOUND: dict[tuple[str, str], tuple[str, dict[str, float]]] = {}
_SYSTEMS: dict[tuple[str, str, str], dict[str, float]] = {}


def family_of(checkpoint: str) -> str:
    """The family that a checkpoint of that name is of."""
    name = checkpoint.lower().replace("big_vision map", "siglip").replace(", packed", ", naflex")
    name = name.replace("vit_pe_", "perception encoder ").replace("data2vecvision", "beit")
    return next((family for family in FAMILIES if family.lower() in name), "ViT")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", type=Path, help="a CSV to write: each checkpoint and its largest difference")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for name, value in report.user_properties if report.when == "call" else ():
        if name == "compared":
            checkpoint, layout, differences = _compared(value)
            _FOUND.setdefault((checkpoint, layout), (family_of(checkpoint), {}))
            found = _FOUND[checkpoint, layout][1]
            found |= {key: max(number, found.get(key, 0.0)) for key, number in differences.items()}
        if name == "compared_system":
            family, case, layout, differences = _compared_system(value)
            found = _SYSTEMS.setdefault((family, layout, case), {})
            found |= {key: max(number, found.get(key, 0.0)) for key, number in differences.items()}


def _compared(value: Any) -> tuple[str, str, Mapping[str, float]]:
    return value["checkpoint"], value["layout"], value["differences"]


def _compared_system(value: Any) -> tuple[str, str, str, Mapping[str, float]]:
    return SYSTEMS[value["family"]], value["case"], value["layout"], value["differences"]


def pytest_sessionfinish(session: pytest.Session) -> None:
    path: Path | None = session.config.getoption("--table")
    if path is None or hasattr(session.config, "workerinput"):
        return
    rows: list[tuple[str, ...]] = []
    for (checkpoint, layout), (family, found) in _FOUND.items():
        sizes, outputs = ({key.split()[place] for key in found} for place in (0, 1))
        at = sorted(sizes, key=lambda size: [int(side) for side in size.split("x")])
        compared = [output for output in ("tokens", "pooled", "logits") if output in outputs]
        difference = f"{max(found.values()):.1e}"
        rows.append((family, layout, checkpoint, ", ".join(compared), ", ".join(at), difference))
    order = ("ViT", *FAMILIES)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted(rows, key=lambda row: (order.index(row[0]), *row)))
    with path.with_name("systems.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(SYSTEM_COLUMNS)
        for (family, layout, case), found in _SYSTEMS.items():
            compared = dict.fromkeys(key.rpartition("/")[2] for key in found)
            writer.writerow((family, layout, case, ", ".join(compared), f"{max(found.values()):.1e}"))
