"""A checkpoint as a layout sees it: its tensors under the layout's own names, and what its library wrote beside it."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar, cast, final

from .._check import listed
from .._registry import PartSpec
from ..encoder import EncoderOptions, EncoderSize
from ..model import ViTConfig
from ._errors import CheckpointError
from ._rules import Rule
from ._source import AbstractSource, NumpyArray, TensorInfo

Settings = Mapping[str, Any]
"""What a library's `config.json` says."""

_T = TypeVar("_T", bool, int, float, str)

_HEADS: Final[Mapping[int, int]] = MappingProxyType({1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16, 4096: 32})
"""By width, where a head has not 64 channels: So400m, H, g, DINOv2's g, bigG, DINOv3's 7B."""


@final
class Checkpoint:
    """The tensors of a file by the names of one layout, and the settings beside it; in `assumed` what was taken for a
    setting that nothing says."""

    def __init__(self, source: AbstractSource, prefixes: tuple[str, ...], settings: Settings):
        self.path = source.path
        self.settings = settings
        self.assumed: dict[str, object] = {}
        self.names: dict[str, str] = {}
        for name in source.tensors:
            prefix = next((p for p in prefixes if name.startswith(p)), "")
            short = name.removeprefix(prefix)
            if short in self.names:
                raise CheckpointError(
                    f"{self.path} must have each tensor once, but it has {name!r} and {self.names[short]!r}"
                )
            self.names[short] = name
        self.tensors: Mapping[str, TensorInfo] = {short: source.tensors[name] for short, name in self.names.items()}

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def shape(self, name: str, ndim: int) -> tuple[int, ...]:
        """The shape of a tensor; a `CheckpointError` where it is not there or has another number of axes."""
        if name not in self.tensors:
            raise CheckpointError(f"{self.path} must have the tensor {name!r} in this layout, but it has not")
        shape = self.tensors[name].shape
        if len(shape) != ndim or 0 in shape:
            raise CheckpointError(f"{self.path} must have {name!r} with {ndim} axes, but it has {list(shape)}")
        return shape

    def depth(self, pattern: str) -> int:
        """How many blocks there are: `{i}` in the pattern is the number of one."""
        before, _, after = pattern.partition("{i}")
        numbers = {
            int(match[1])
            for name in self.tensors
            if (match := re.fullmatch(re.escape(before) + r"(\d{1,6})" + re.escape(after), name))
        }
        if not numbers or numbers != set(range(len(numbers))):
            raise CheckpointError(
                f"{self.path} must have the blocks {pattern.format(i=0)!r} and on without a gap, but it has "
                f"{len(numbers)} of them, up to number {max(numbers, default=-1)}"
            )
        return len(numbers)

    def setting(self, name: str, default: _T) -> _T:
        """A setting, or what its library takes where nothing is said."""
        value = self.settings.get(name)
        if value is None:
            self.assumed[name] = default
            return default
        if not isinstance(value, type(default)) and not (isinstance(default, float) and isinstance(value, int)):
            raise CheckpointError(
                f"the setting {name!r} beside {self.path} must be like {default!r}, but it is {value!r}"
            )
        return cast(_T, value)

    def heads(self, dim: int, *, named: str, usual: int | None = None) -> int:
        """The number of heads by the setting of that name, or else the usual one, or that of the width."""
        if (given := self.settings.get(named)) is not None:
            return divisor(self, named, given, dim)
        if usual is None and dim not in _HEADS and (dim % 64 or dim > 2048):
            raise CheckpointError(
                f"{self.path} does not say how many heads its attention has, and no published model is {dim} wide: "
                f"put its config.json beside it, or pass config={{{named!r}: ...}}"
            )
        heads = _HEADS.get(dim, dim // 64) if usual is None else usual
        self.assumed[named] = heads
        return heads

    def size(self, given: object) -> tuple[int, int]:
        """Height and width of a setting that is one number for both, or the two."""
        match given:
            case [int(height), int(width)] | (int(height) as width) if min(height, width) >= 1:
                return height, width
            case _:
                raise CheckpointError(f"the settings beside {self.path} must have an image size, but it is {given!r}")

    def patches(self, patch: tuple[int, int], image_size: object) -> tuple[int, int]:
        """Rows and columns of patches in an image; what is left of one at the edges does not count."""
        height, width = self.size(image_size)
        return height // patch[0], width // patch[1]

    def grid(self, num_patches: int, patch: tuple[int, int], image_size: object = None) -> tuple[int, int]:
        """Rows and columns of a table of positions: those of the image size that is given, or else a square."""
        if image_size is not None:
            rows, cols = self.patches(patch, image_size)
            if rows * cols != num_patches:
                raise CheckpointError(
                    f"{self.path} has positions for {num_patches} patches, but an image of {image_size} pixels, which "
                    f"the settings beside it say, has {rows} x {cols}: pass config= with the image size of the weights"
                )
            return rows, cols
        side = math.isqrt(num_patches)
        if side * side != num_patches:
            raise CheckpointError(
                f"{self.path} has {num_patches} positions, which is no square, and nothing beside it says how many "
                "rows these are: pass config= with the image size"
            )
        return side, side


@dataclass(frozen=True)
class Layout:
    """One way in which checkpoints are published: how it is known, what model it means, and which name is which."""

    name: str
    """For `layout=`."""
    title: str
    """What it is, for people."""
    signature: tuple[str, ...]
    """Names that a file of it has, without the prefix."""
    configure: Callable[[Checkpoint], ViTConfig]
    """The configuration of a checkpoint."""
    rules: Callable[[ViTConfig], tuple[Rule, ...]]
    """Which name is which array."""
    prefixes: tuple[str, ...] = ()
    """What names may begin with, which is then left out."""
    ignored: tuple[tuple[str, str], ...] = ()
    """Patterns of names that are not needed, and why."""
    computed: tuple[tuple[str, Callable[[ViTConfig], NumpyArray]], ...] = ()
    """Patterns of names among the ignored that vitrail computes itself, and the numbers that they must then have."""
    one_of: tuple[str, ...] = ()
    """Names of which a file of it has one at least; none of these for any."""
    foreign: tuple[str, ...] = ()
    """Names that a file of it never has."""
    stacked: str = ""
    """Where blocks are stacked: the name that stands for all of them."""
    written_prefix: Callable[[ViTConfig], tuple[str, tuple[str, ...]]] | None = None
    """For writing: what the names begin with, and the beginnings of those that do not. `None` where vitrail does not
    write the layout."""

    written_settings: Callable[[ViTConfig], Settings] = lambda config: {}
    """For writing: what the library's own settings of such a model say."""
    embeds: Callable[[ViTConfig], bool] = lambda config: False
    """Whether the head of a model gives an embedding and not scores of classes."""

    def in_stack(self, name: str) -> str:
        """The name in a file whose blocks are stacked of what is that of the first block in others."""
        return name.replace(f"{self.stacked[:-1]}_0/", self.stacked)

    def reason(self, name: str) -> str | None:
        """Why a tensor is not needed; `None` where it should be."""
        return next((why for pattern, why in self.ignored if re.fullmatch(pattern, name)), None)


def model_config(
    checkpoint: Checkpoint,
    *,
    kernel: str,
    depth: int,
    num_heads: int,
    mlp_dim: int,
    grid: tuple[int, int] | None = None,
    image_size: object = None,
    encoder: EncoderOptions,
    **parts: Any,
) -> ViTConfig:
    """The configuration of a checkpoint by the shape of its patch embedding, and what else its layout knows."""
    dim, channels, *patch = checkpoint.shape(kernel, 4)
    height, width = patch
    size = checkpoint.size(image_size) if grid is None else (grid[0] * height, grid[1] * width)
    return ViTConfig(
        image_size=size,
        patch_size=(height, width),
        channels=channels,
        size=EncoderSize(dim=dim, depth=depth, num_heads=num_heads, mlp_dim=mlp_dim),
        encoder=encoder,
        **parts,
    )


def divisor(checkpoint: Checkpoint, name: str, given: object, dim: int) -> int:
    """The setting of that name, which has to divide the width."""
    if not isinstance(given, int) or given < 1 or dim % given:
        raise CheckpointError(f"the setting {name!r} beside {checkpoint.path} must divide {dim}, but it is {given!r}")
    return given


def learned(rule: str, *, covers_prefix: bool | str = True) -> PartSpec:
    """A learned position embedding with the rule of its library."""
    return PartSpec("learned", (("covers_prefix", covers_prefix), ("resize", rule)))


def classes(checkpoint: Checkpoint, name: str) -> int | None:
    """How many classes a linear layer of that name has; `None` without it."""
    return checkpoint.shape(name, 2)[0] if name in checkpoint else None


def has_pooler(config: ViTConfig) -> bool:
    """Whether the head is a layer with an activation, which is no classifier: its values are no scores."""
    return isinstance(config.head, PartSpec) and dict(config.head.options).get("activation") is not None


def activation(checkpoint: Checkpoint, name: str, known: Mapping[str, Any], default: str) -> Any:
    """An activation by the name that a library gives it."""
    given = checkpoint.setting(name, default)
    if given not in known:
        raise CheckpointError(
            f"the setting {name!r} beside {checkpoint.path} must be one of {listed(known)}, but it is {given!r}"
        )
    return known[given]
