"""The result of a run as Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

OURS = "vitrail_vit"
NAMES = {
    "vitrail_vit": "vitrail",
    "timm_vit": "timm, eager",
    "timm_compiled": "timm, compiled",
    "transformers_vit": "transformers",
    "flax_linen": "Flax linen",
    "flax_nnx": "Flax NNX",
    "equinox_tutorial": "Equinox tutorial",
    "equimo_vit": "equimo",
}
MIB = 2**20


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    sections = [head(result), "## Running time\n", ratios(result), "\n" + times(result)]
    sections += [
        "\n## First call, compile time and memory\n",
        firsts(result),
        "\n" + depths(result),
        "\n" + imports(result),
    ]
    return "\n".join(sections) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def head(result: dict[str, Any]) -> str:
    """When, where and with what."""
    machine = result["machine"]
    versions: dict[str, str] = {}
    for found in result["versions"].values():
        versions |= found
    processor = f"{machine['processor']}, {machine['cores']} cores, {machine['memory'] / 2**30:.0f} GiB"
    pythons = ", ".join(sorted(set(result["python"].values())))
    listed = ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
    differences = [value for name, value in result["differences"].items() if name != OURS]
    return (
        f"{result['day']}, {machine['accelerator'] or processor}; Python {pythons}; {listed}; {result['dtype']}; "
        f"{result['minutes']:.0f} minutes. With the same weights, in float32, the logits of all libraries are "
        f"within {max(differences):.0e} of the largest of vitrail's.\n"
    )


def contenders(result: dict[str, Any]) -> list[str]:
    """Those that took part, vitrail first."""
    return [name for name in NAMES if name in result["versions"]]


def fastest(entry: dict[str, Any]) -> str:
    """The fastest contender of a case save vitrail: that of the largest ratio."""
    return max(entry["ratio"], key=lambda name: entry["ratio"][name]["median"])


def ratios(result: dict[str, Any]) -> str:
    """vitrail's time as a part of each contender's."""
    told = (
        "vitrail's time divided by the time of the other library in the same round: the median, and below it the "
        "quartiles. Below 1 vitrail is faster. The fastest other library of each case is bold.\n"
    )
    for title, names in _libraries(result):
        rows: list[list[str]] = []
        for entry in result["timed"]:
            best = fastest(entry)
            cells = [_ratio(entry["ratio"][name], bold=name == best) for name in names]
            rows.append([entry["case"]["name"], *cells, str(entry["rounds"])])
        told += f"\n{title}\n\n" + table(["case", *(NAMES[name] for name in names), "pairs"], rows) + "\n"
    return told


def _libraries(result: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The contenders save vitrail by what they stand on: one table for all would be wider than a page."""
    found: list[tuple[str, list[str]]] = []
    for title, package in (("Libraries on JAX:", "jax"), ("Libraries on PyTorch:", "torch")):
        names = [name for name in contenders(result) if name != OURS and package in result["versions"][name]]
        found += [(title, names)] if names else []
    return found


def count(result: dict[str, Any], mode: str) -> str:
    """In how many cases of a mode vitrail is faster than the fastest contender, and slower, by both quartiles."""
    entries = [entry for entry in result["timed"] if entry["case"]["mode"] == mode]
    ratios = [entry["ratio"][fastest(entry)] for entry in entries]
    faster, slower = sum(ratio["high"] < 1 for ratio in ratios), sum(ratio["low"] > 1 for ratio in ratios)
    what = {"forward": "forward passes", "train": "training steps"}[mode]
    return (
        f"{len(entries)} {what}: vitrail is faster than the fastest other library in {faster}, as fast in "
        f"{len(entries) - faster - slower}, and slower in {slower}."
    )


def _ratio(found: dict[str, float], *, bold: bool) -> str:
    median = f"**{found['median']:.2f}**" if bold else f"{found['median']:.2f}"
    return f"{median}<br>{found['low']:.2f} to {found['high']:.2f}"


def times(result: dict[str, Any]) -> str:
    """Absolute times, for the record, and the share of the machine's peak."""
    told = "Milliseconds: noisy, of this machine and this hour, and no basis for a comparison.\n"
    for title, others in _libraries(result):
        names = [OURS, *others]
        rows = [
            [entry["case"]["name"], *(_milliseconds(entry["seconds"][name]["median"]) for name in names)]
            for entry in result["timed"]
        ]
        told += f"\n{title}\n\n" + table(["case", *(NAMES[name] for name in names)], rows) + "\n"
    return told + "\n" + _rates(result)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f}" if seconds > 0.1 else f"{1000 * seconds:.1f}"


def _rates(result: dict[str, Any]) -> str:
    peak = max(rate for found in result["peak"] for rate in found.values())
    gpu = result["machine"]["accelerator"] is not None
    unit, name_of_unit, digits = (1e12, "TFLOP/s", 1) if gpu else (1e9, "GFLOP/s", 0)
    rows: list[list[str]] = []
    for entry in result["timed"]:
        rate = entry["case"]["flops"] / entry["seconds"][OURS]["median"]
        rows.append([entry["case"]["name"], f"{rate / unit:.{digits}f}", f"{100 * rate / peak:.{digits}f} %"])
    return (
        "The rate of vitrail, and its share of the peak: of the fastest large product of matrices that PyTorch or JAX "
        f"reached in the same session, {peak / unit:.0f} {name_of_unit}.\n\n"
        + table(["case", name_of_unit, "of peak"], rows)
        + "\n"
    )


def firsts(result: dict[str, Any]) -> str:
    """First calls in fresh processes."""
    told = (
        "Fresh processes, median seconds. In all: importing, building and the first call, with its compiling. "
        "Compiling takes what the first call takes longer than a later one.\n"
    )
    for entry in result["first"]:
        rows: list[list[str]] = []
        for name, found in entry["contenders"].items():
            cells = ["did not end"] + 4 * [""]
            if found is not None:
                seconds = [f"{found[what]:.1f}" for what in ("all", "import", "build", "compile")]
                cells = [*seconds, f"{found['memory'] / MIB:.0f}"]
            rows.append([NAMES[name], *cells])
        header = [entry["case"]["name"], "in all", "import", "build", "compile", "peak memory, MiB"]
        told += "\n" + table(header, rows) + "\n"
    return told


def depths(result: dict[str, Any]) -> str:
    """Compile time against depth."""
    entries = result.get("depth", [])
    if not entries:
        return "Compile time by depth is measured by the whole run alone.\n"
    names = list(entries[0]["contenders"])

    def seconds(entry: dict[str, Any], name: str) -> str:
        found = entry["contenders"][name]
        return "did not end" if found is None else f"{found['compile']:.1f}"

    rows = [[NAMES[name], *(seconds(entry, name) for entry in entries)] for name in names]
    header = ["compile, s", *(f"depth {entry['case']['depth']}" for entry in entries)]
    return (
        "Training step of Ti/16, batch 8; limited to four minutes and the memory of the machine:\n\n"
        + table(header, rows)
        + "\n"
    )


def imports(result: dict[str, Any]) -> str:
    """What importing costs."""
    added, equinox = result["import"]["added"], result["import"]["equinox"]
    return (
        f"`import vitrail` adds {added['median']:.2f} s ({added['low']:.2f} to {added['high']:.2f}) to the "
        f"{equinox['median']:.2f} s of `import equinox`.\n"
    )
