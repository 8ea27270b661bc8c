"""The settings that libraries write beside a checkpoint, in the words of a `config.json`."""

import abc
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, final

from ..._check import join_names
from .._errors import CheckpointError
from ..formats import AbstractSource, OpenedFile, parse_json

if TYPE_CHECKING:
    from ._layout import AnyLayout, Settings
else:
    AnyLayout = object  # a layout reads settings
    Settings = Mapping[str, Any]

CONFIG: Final = "config.json"
OPEN_CLIP_CONFIG: Final = "open_clip_config.json"
# What follows from the tensors of open_clip's towers, or what only training or the text tower needs.
_OPEN_CLIP_KNOWN: Final = re.compile(
    r"layers|width|head_width|mlp_ratio|patch_size|image_size|patch_dropout|output_tokens|attn_pooler_(queries|heads)|"
    r"ls_init_value|no_ln_pre|pool_type|final_ln_after_pool|norm_kwargs|act_kwargs|timm_(model_name|model_pretrained|pool|proj|proj_bias|drop|drop_path)"
)
# Everything else has to be what open_clip assumes.
_OPEN_CLIP_USUAL: Final[Mapping[str, object]] = {"pos_embed_type": "learnable"}


class AbstractBeside(abc.ABC):
    """The files beside the weights."""

    @abc.abstractmethod
    def __call__(self, name: str) -> Settings | None:
        """Reads a JSON file by its name; `None` if there is none."""

    @abc.abstractmethod
    def read(self, name: str, largest: int) -> bytes | None:
        """Reads a file of any kind by its name; `None` if there is none."""


@final
class GivenSettings(Mapping[str, Any]):
    """The settings that a user gave. It remembers which were read, so that an unknown one is an error."""

    def __init__(self, given: Mapping[str, Any]):
        self._given = given
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def check_all_read(self, layout: AnyLayout) -> None:
        """Raises a `ValueError` if the layout did not read some of them.

        A whole `config.json` may have settings that are for others.
        """
        library = layout.library
        for_cards = {place[0] for place in library.licence}
        unread = self._given.keys() - self._read - for_cards
        if unread and library.marker not in self._given:
            raise ValueError(
                f"config must have settings that the layout {layout.name!r} reads from this file, got "
                f"{join_names(sorted(unread))}: it reads {join_names(sorted(self._read))}"
            )


@final
class WrittenBeside(AbstractBeside):
    """The files that are going to be written beside the weights."""

    def __init__(self, settings: Mapping[str, Settings]):
        """**Arguments:**

        - `settings`: the JSON objects by the names of their files. There is no file for an empty one.
        """
        self._settings = settings

    def __call__(self, name: str) -> Settings | None:
        return self._settings.get(name) or None

    def read(self, name: str, largest: int) -> bytes | None:
        content = self(name)
        return None if content is None else json.dumps(content).encode()


NOTHING_BESIDE: Final = WrittenBeside({})


@final
class FilesBeside(AbstractBeside):
    """Reads the files beside the tensors of a source, which stay open as long as the source does.

    If another file takes the place of one of them meanwhile, or that of the tensors, closing them is an error.
    """

    def __init__(self, source: AbstractSource, opened: ExitStack):
        """**Arguments:**

        - `source`: the tensors.
        - `opened`: closes the files.
        """
        self._source = source
        self._opened = opened

    def __call__(self, name: str) -> Settings | None:
        file = self._open(name)
        return None if file is None else _parse_settings(file)

    def read(self, name: str, largest: int) -> bytes | None:
        file = self._open(name)
        if file is None:
            return None
        if file.size > largest:
            raise CheckpointError(f"{file.path} must have at most {largest:,} bytes, got {file.size:,}")
        file.raw.seek(0)
        return file.raw.readall()

    def _open(self, name: str) -> OpenedFile | None:
        path = self._source.path.with_name(name)
        if not path.is_file():
            return None
        if self._source.file is not None:
            self._source.file.one_of_several = True
        return self._opened.enter_context(OpenedFile(path, one_of_several=True))


def find_settings(path: Path, beside: AbstractBeside) -> Settings:
    """Reads the `config.json` beside a file, or that of open_clip; empty if there is none.

    Where both are there, as in repositories with a file for each library, `model.safetensors` belongs to `config.json`.
    """
    for name in (CONFIG, OPEN_CLIP_CONFIG) if path.name.startswith("model") else (OPEN_CLIP_CONFIG, CONFIG):
        if (found := beside(name)) is not None:
            return _read_open_clip_settings(path.with_name(name), found) if name == OPEN_CLIP_CONFIG else found
    return {}


def read_settings_file(path: Path) -> Settings:
    """Reads a JSON object of settings, those of open_clip too."""
    with OpenedFile(path) as file:
        settings = _parse_settings(file)
    return _read_open_clip_settings(path, settings) if "model_cfg" in settings else settings


def _parse_settings(file: OpenedFile) -> Settings:
    settings = parse_json(file, "a file of settings")
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file.path} must be a JSON object, got {str(settings)[:100]!r}")
    return cast("dict[str, Any]", settings)


def _read_open_clip_settings(path: Path, whole: Settings) -> Settings:
    """The settings of open_clip, translated into those of timm or of the layout of CLIP."""
    model = _to_object(whole.get("model_cfg"))
    vision = _to_object(model.get("vision_cfg"))
    if not vision:
        raise CheckpointError(f"{path} must describe a vision tower in 'model_cfg', 'vision_cfg', got none")
    for name, value in vision.items():
        if value and not _OPEN_CLIP_KNOWN.fullmatch(name) and value != _OPEN_CLIP_USUAL.get(name):
            raise CheckpointError(
                f"{path} has {name!r} as {value!r} in its 'vision_cfg', which vitrail does not know: pass config= with "
                "a ViTConfig"
            )
    size = vision.get("image_size")
    common: dict[str, Any] = {
        "image_size": size,
        "preprocess_cfg": whole.get("preprocess_cfg") or {},
        "hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu",
        "text_cfg": _to_object(model.get("text_cfg")),
        **({"license": whole["license"]} if "license" in whole else {}),
    }
    if "timm_model_name" in vision:
        pool = vision.get("timm_pool", "avg")
        named = {"architecture": vision["timm_model_name"], "global_pool": pool, "model_args": {"img_size": size}}
        return common | named
    heads = vision["width"] // vision.get("head_width", 64)
    return common | {"vision_cfg": vision, "num_heads": heads}


def _to_object(given: object) -> dict[str, Any]:
    """A JSON object; an empty one if it is something else."""
    return cast("dict[str, Any]", given) if isinstance(given, dict) else {}
