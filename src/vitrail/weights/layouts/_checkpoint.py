"""A checkpoint as a layout sees it: its tensors under the names of the layout, and the settings beside it."""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, TypeVar, cast, final

from ...encoder import EncoderSize
from .._errors import CheckpointError
from ..formats import AbstractSource, NumpyArray, TensorInfo
from ._layout import AnyLayout, Settings
from ._preprocess import Preprocess
from ._settings import NOTHING_BESIDE, AbstractBeside

_T = TypeVar("_T", bool, int, float, str)

_KINDS: Final[Mapping[type, str]] = MappingProxyType(
    {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
)
_HEADS: Final[Mapping[tuple[int, int, int], int]] = MappingProxyType(
    {
        (192, 12, 768): 3,
        (256, 10, 1024): 4,
        (256, 14, 1280): 4,
        (320, 14, 1792): 5,
        (384, 12, 1536): 6,
        (384, 36, 1536): 6,
        (512, 12, 2048): 8,
        (512, 20, 2048): 8,
        (640, 12, 2560): 10,
        (768, 12, 3072): 12,
        (768, 12, 2048): 6,
        (832, 21, 2176): 13,
        (896, 12, 3584): 14,
        (896, 18, 2304): 14,
        (1024, 24, 2816): 8,
        (1024, 24, 4096): 16,
        (1152, 27, 4304): 16,
        (1280, 32, 5120): 16,
        (1408, 40, 6144): 16,
        (1536, 24, 4096): 12,
        (1536, 40, 4096): 24,
        (1536, 40, 6144): 16,
        (1664, 48, 8192): 16,
        (1792, 56, 15360): 16,
        (2048, 24, 5632): 16,
        (3072, 24, 8192): 24,
        (4096, 40, 8192): 32,
    }
)
"""The heads of the published models by width, depth and the width of the MLP. The tests compare them with timm's."""
_PATCHES: Final = ((8, 8), (14, 14), (16, 16), (32, 32))
"""The patches of the published models."""


class Kernel(NamedTuple):
    """The shape of a patch embedding."""

    dim: int
    channels: int
    patch: tuple[int, int]


@final
class Checkpoint(AbstractSource):
    """The tensors of a file by the names of one layout, and the settings beside it.

    `assumed` collects what was assumed because no setting says it.
    """

    def __init__(
        self, source: AbstractSource, layout: AnyLayout, settings: Settings, beside: AbstractBeside = NOTHING_BESIDE
    ):
        """**Arguments:**

        - `source`: the file.
        - `layout`: its layout.
        - `settings`: the settings beside the file, or those that were passed in their place.
        - `beside`: reads another JSON file of the library by its name, or gives `None` where there is none.
        """
        self.path: Path = source.path
        self.metadata: Mapping[str, str] = source.metadata
        self.layout = layout
        self.settings = settings
        self.beside = beside
        self.assumed: dict[str, object] = {}
        self.prefix: str = source.prefix
        self.outside: tuple[str, ...] = source.outside
        self._source = source
        self._names: dict[str, str] = {}
        for name, short in zip(source.tensors, layout.shorten(source.tensors), strict=True):
            if short in self._names:
                raise CheckpointError(
                    f"{self.path} must have each tensor once, got {name!r} and {self._names[short]!r}"
                )
            self._names[short] = name
        self.tensors: Mapping[str, TensorInfo] = {short: source.tensors[name] for short, name in self._names.items()}

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def read(self, name: str, row: int | None = None) -> NumpyArray:
        return self._source.read(self._names[name], row)

    def view(self, *, layout: AnyLayout | None = None, settings: Settings | None = None) -> "Checkpoint":
        """The same file as another layout sees it, or with other settings. What it assumes counts for both."""
        other = Checkpoint(
            self._source,
            self.layout if layout is None else layout,
            self.settings if settings is None else settings,
            self.beside,
        )
        other.assumed = self.assumed
        return other

    def find_preprocess(
        self, channels: int, unread: tuple[int, int] = (0, 0), *, is_known: bool = True
    ) -> Preprocess | None:
        """How images are prepared for a model; `None` if nothing says it.

        **Arguments:**

        - `channels`: the number of channels of the model.
        - `unread`: what `count_unread` returns.
        - `is_known`: whether all published models with these tensors prepare images alike.
        """
        known, kind = self.layout.preprocess, self.settings.get("model_type") or ""
        usual = known.get(kind, known.get("")) if isinstance(kind, str) else known.get("")
        found = self.layout.library.read_preprocess(self, channels, usual if is_known else None)
        if found is None or found.fit in ("keep", "native"):  # a picture of its own size has no pixel that is left out
            return found
        return dataclasses.replace(found, unread=unread)

    def count_unread(self, patch: tuple[int, int], given: object) -> tuple[int, int]:
        """Rows and columns of pixels beyond the last whole patch of an image of the given size, or none for `None`."""
        height, width = patch if given is None else self.read_size(given)
        return height % patch[0], width % patch[1]

    def find_classes(self, num_classes: int | None) -> tuple[str, ...] | None:
        """The names of the classes; `None` if there are none, or only those that Hugging Face makes up."""
        library = self.layout.library
        given, described = (self.settings.get(name) for name in (library.labels, library.descriptions))
        if isinstance(given, list):
            given = dict(enumerate(cast("list[object]", given)))
        if num_classes is None or not isinstance(given, Mapping):
            return None
        labels = {str(number): str(label) for number, label in cast("Mapping[object, object]", given).items()}
        words = cast("Mapping[str, object]", described if isinstance(described, Mapping) else {})
        names = tuple(labels.get(str(number), "") for number in range(num_classes))
        made_up = tuple(f"LABEL_{number}" for number in range(num_classes))
        return None if "" in names or names == made_up else tuple(str(words.get(name, name)) for name in names)

    def get_shape(self, name: str, ndim: int) -> tuple[int, ...]:
        """The shape of a tensor.

        **Raises:** `CheckpointError` if the tensor is not there, has another number of axes, or is empty.
        """
        if name not in self.tensors:
            raise CheckpointError(f"{self.path} lacks the tensor {name!r} of the layout {self.layout.name!r}")
        shape = self.tensors[name].shape
        if len(shape) != ndim or 0 in shape:
            raise CheckpointError(f"{self.path} must have {name!r} with {ndim} axes, got the shape {list(shape)}")
        return shape

    def get_kernel(self, name: str) -> Kernel:
        """The shape of a patch embedding that is stored as a convolution of PyTorch."""
        dim, channels, height, width = self.get_shape(name, 4)
        return Kernel(dim, channels, (height, width))

    def count_classes(self, name: str) -> int | None:
        """The number of rows of a linear layer; `None` if it is not there."""
        return self.get_shape(name, 2)[0] if name in self else None

    def count_blocks(self, pattern: str) -> int:
        """The number of blocks; `{i}` in the pattern stands for the number of a block."""
        before, _, after = pattern.partition("{i}")
        numbers = {
            int(match[1])
            for name in self.tensors
            if (match := re.fullmatch(re.escape(before) + r"(\d{1,6})" + re.escape(after), name))
        }
        if not numbers or numbers != set(range(len(numbers))):
            raise CheckpointError(
                f"{self.path} must have the blocks {pattern.format(i=0)!r} and so on without a gap, got "
                f"{len(numbers)} of them, up to number {max(numbers, default=-1)}"
            )
        return len(numbers)

    def get_setting(self, name: str, kind: type[_T], usual: _T | None = None) -> _T:
        """A setting, or else what the library assumes: `usual`, or the layout's."""
        value = self.settings.get(name)
        if value is None:
            assumed = cast(_T, self.layout.usual[name]) if usual is None else usual
            self.assumed[name] = assumed
            return assumed
        if not isinstance(value, kind) and not (kind is float and isinstance(value, int)):
            raise CheckpointError(f"the setting {name!r} beside {self.path} must be {_KINDS[kind]}, got {value!r}")
        return cast(_T, value)

    def get_size(
        self,
        dim: int,
        *,
        depth: int,
        mlp_dim: int,
        patch: tuple[int, int] | None = None,
        setting: str,
        usual: int | None = None,
    ) -> EncoderSize:
        """The size of an encoder. The number of heads is a setting, or else what the library assumes for a model that
        it describes, or else `usual`, or that of the published models of the same shape."""
        if self.is_described and setting in self.layout.usual:
            usual = cast(int, self.layout.usual[setting])
        elif usual is None and patch in (None, *_PATCHES):
            usual = _HEADS.get((dim, depth, mlp_dim))
        heads = self.get_heads(dim, setting=setting, usual=usual)
        return EncoderSize(dim=dim, depth=depth, num_heads=heads, mlp_dim=mlp_dim)

    def get_heads(self, dim: int, *, setting: str, usual: int | None = None) -> int:
        """The number of heads: a setting, or else `usual`."""
        if (given := self.settings.get(setting)) is not None:
            return self.check_heads(setting, given, dim)
        if usual is None:
            raise CheckpointError(
                f"{self.path} does not say how many heads its attention has, and no published model has the shape of "
                f"its blocks of width {dim}: put its config.json beside it, or pass config={{{setting!r}: ...}}"
            )
        self.assumed[setting] = usual
        return self.check_heads(setting, usual, dim)

    @property
    def is_described(self) -> bool:
        """Whether the settings are those of a whole model, so that the library's own stand for what they leave out."""
        return any(self.settings.get(name) for name in ("model_type", "transformers_version", "architectures"))

    def ask(self, what: str, how: str) -> CheckpointError:
        """The error of a file that does not say what published models with the same tensors differ in.

        **Arguments:**

        - `what`: what the file does not say.
        - `how`: what to pass, and for which models.
        """
        return CheckpointError(
            f"{self.path} does not say {what}, in which published models with these tensors differ: {how}"
        )

    def check_heads(self, setting: str, given: object, dim: int) -> int:
        """A number of heads, which has to divide the width."""
        if not isinstance(given, int) or given < 1 or dim % given:
            raise CheckpointError(f"the setting {setting!r} beside {self.path} must divide {dim}, got {given!r}")
        return given

    def read_size(self, given: object) -> tuple[int, int]:
        """Height and width from a setting that is one number for both, or two numbers."""
        match given:
            case [int(height), int(width)] | (int(height) as width) if min(height, width) >= 1:
                return height, width
            case _:
                raise CheckpointError(
                    f"the image size in the settings beside {self.path} must be one or two whole numbers, got {given!r}"
                )

    def count_patches(self, patch: tuple[int, int], image_size: object) -> tuple[int, int]:
        """Rows and columns of patches in an image. A partial patch at the edge does not count."""
        height, width = self.read_size(image_size)
        return height // patch[0], width // patch[1]

    def floor_size(self, given: object, patch: tuple[int, int]) -> tuple[int, int]:
        """Height and width from a setting, in whole patches."""
        rows, cols = self.count_patches(patch, given)
        return rows * patch[0], cols * patch[1]

    def find_image_size(self, num_patches: int, patch: tuple[int, int], given: object = None) -> tuple[int, int]:
        """The image size that a table of positions was made for, in whole patches: the given one, or else a square."""
        if given is not None:
            rows, cols = self.count_patches(patch, given)
            if rows * cols != num_patches:
                raise CheckpointError(
                    f"{self.path} has positions for {num_patches} patches, but the image size of {given} pixels "
                    f"in the settings beside it gives {rows} x {cols}: pass config= with the image size of the weights"
                )
            return rows * patch[0], cols * patch[1]
        side = math.isqrt(num_patches)
        if side * side != num_patches:
            raise CheckpointError(
                f"{self.path} has {num_patches} positions, which is not a square number, and no settings beside it say "
                "how many rows there are: pass config= with the image size"
            )
        return side * patch[0], side * patch[1]
