"""`vitrail convert`: a model in another layout, or a file of PyTorch as safetensors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from ..weights import Conversion, WritableLayout, convert, convert_torch
from ._options import refuse_options
from ._pictures import parse_settings
from ._weights import list_entries


@dataclass(frozen=True)
class Convert:
    """Converts weights between vitrail and other libraries, and checks that the outputs agree."""

    file: Path
    """A safetensors or npz file, an index of several, or a folder with one. With --from-torch: a file of PyTorch (.pt,
    .pth or .bin), or the index of several."""
    out: Path
    """The file (.safetensors) or folder to write. An older model there is replaced after the new one is checked."""
    layout: str | None = None
    """The layout to write, such as hf_dinov2 or timm. Default: that of vitrail, or with --from-torch the tensors with
    unchanged names."""
    source_layout: str | None = None
    """The layout of the file. Default: it is recognised by the names of the tensors."""
    config: str | None = None
    """Settings in JSON, instead of the config.json beside the file: '{"num_heads": 6}'."""
    prefix: str | None = None
    """For a file of several models: the prefix of the tensors of one of them, with its dot, such as 'teacher.'."""
    part: Literal["image"] | None = None
    """`image` takes only the image model of a system such as CLIP."""
    pool: str | None = None
    """Replace the pool of the model, if the other library does not have it."""
    convert: bool = False
    """Convert weights in float16, bfloat16 or float64 to float32. Without it they are an error."""
    pick: str | None = None
    """The dictionary of tensors to read, if a file of PyTorch has several: state_dict_ema, teacher, target_encoder."""
    from_torch: bool = False
    """Read a pickle of PyTorch, by PyTorch 2.10 or newer with weights_only=True."""


def run_convert(command: Convert) -> None:
    """Converts a file and prints what was written, the proof, and what was left out."""
    if command.from_torch and command.layout is None:
        names = ("source_layout", "config", "prefix", "part", "pool", "convert")
        refuse_options(
            "without --layout, where the tensors keep their names", **{n: getattr(command, n) for n in names}
        )
        count, left_out = convert_torch(command.file, command.out, pick=command.pick)
        _print(f"{count:,} tensors: {command.out}", *(list_entries("left out", left_out) if left_out else []))
        return
    done = convert(
        command.file.as_posix(),
        command.out,
        layout=cast("WritableLayout", command.layout or "vitrail"),
        source_layout=command.source_layout,
        config=parse_settings(command.config),
        prefix=command.prefix,
        part=command.part,
        pool=command.pool,
        convert=command.convert,
        from_torch=command.from_torch,
        pick=command.pick,
    )
    _print(*_describe(done))


def _describe(done: Conversion) -> list[str]:
    arrays = "equal to the bit" if done.same_arrays else "in another form, which means the same"
    if cast_from := [dtype for dtype in done.source.dtypes if dtype != "float32"]:
        arrays = f"converted from {', '.join(cast_from)} to float32, and then {arrays}"
    assumed = ", ".join(f"{name} {value}" for name, value in done.source.assumed.items())
    return [
        f"from        {done.source.layout} ({done.source.title})",
        f"to          {done.card.layout} ({done.card.title}): {done.path}",
        f"arrays      {done.card.parameters:,} numbers, {arrays}",
        f"outputs     on a drawn picture differ by {done.difference:.2g}, relative to the largest",
        *([f"assumed     {assumed}: no settings of the source say it"] if assumed else []),
        f"licence     {done.source.licence or 'not known'}",
        *(list_entries("left out", list(done.left_out)) if done.left_out else []),
    ]


def _print(*lines: str) -> None:
    for line in lines:
        print(line)
