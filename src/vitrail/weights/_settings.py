"""What libraries write beside a checkpoint, as settings in the words of `config.json`."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast, final

from .._check import listed
from ._checkpoint import Settings
from ._errors import CheckpointError
from ._source import read_json

# What the tensors of open_clip's towers say, too, or only training or the text needs.
_OPEN_CLIP_SAID: Final = re.compile(
    r"layers|width|head_width|mlp_ratio|patch_size|image_size|patch_dropout|output_tokens|attn_pooler_(queries|heads)|"
    r"final_ln_after_pool|timm_(model_name|model_pretrained|pool|proj|proj_bias|drop|drop_path)"
)
# All else has to be as open_clip has it where nothing is said.
_OPEN_CLIP_DEFAULTS: Final[Mapping[str, object]] = {"pool_type": "tok", "pos_embed_type": "learnable"}


# A config.json that a library wrote has one of these, and much that is of no use here.
_OF_A_WHOLE: Final = ("transformers_version", "num_features")
# What only a card reads.
_FOR_CARDS: Final = frozenset({"id2label", "license", "licence"})


@final
class GivenSettings(Mapping[str, Any]):
    """Settings that somebody typed. They know what they were asked for, so that none of them is passed over."""

    def __init__(self, given: Mapping[str, Any]):
        self._given = given
        self._asked: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self._asked.add(name)
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def check_all_read(self, layout: str) -> None:
        """Raises a `ValueError` where the layout did not ask for some of them."""
        unread = self._given.keys() - self._asked - _FOR_CARDS
        if unread and not any(name in self._given for name in _OF_A_WHOLE):
            raise ValueError(
                f"config must have settings that the layout {layout!r} reads, but it does not read "
                f"{listed(sorted(unread))} of this file: it reads {listed(sorted(self._asked))}"
            )


def settings_beside(path: Path) -> Settings:
    """What the `config.json` in the file's folder says, or open_clip's; nothing where there is none."""
    folder = path if path.is_dir() else path.parent
    if (folder / "open_clip_config.json").is_file() and not (folder / "model.safetensors").is_file():
        return _open_clip_settings(folder / "open_clip_config.json")
    return read_settings(folder / "config.json") if (folder / "config.json").is_file() else {}


def _open_clip_settings(path: Path) -> Settings:
    """open_clip's settings in the words of the others."""
    whole = read_settings(path)
    model = _object(whole.get("model_cfg"))
    vision = _object(model.get("vision_cfg"))
    if not vision:
        raise CheckpointError(f"{path} must say which vision tower open_clip has here, but it does not")
    for name, value in vision.items():
        if value and not _OPEN_CLIP_SAID.fullmatch(name) and value != _OPEN_CLIP_DEFAULTS.get(name):
            raise CheckpointError(
                f"{path} has {name!r} as {value!r} in its 'vision_cfg', which vitrail does not know: pass config= with "
                "a ViTConfig"
            )
    size = vision.get("image_size")
    beside: dict[str, Any] = {"image_size": size, "preprocess_cfg": whole.get("preprocess_cfg") or {}}
    if "timm_model_name" in vision:
        pool = vision.get("timm_pool", "avg")
        named = {"architecture": vision["timm_model_name"], "global_pool": pool, "model_args": {"img_size": size}}
        return beside | named
    heads = vision["width"] // vision.get("head_width", 64)
    return beside | {"hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu", "num_heads": heads}


def _object(given: object) -> dict[str, Any]:
    """A JSON object; an empty one where there is none."""
    return cast("dict[str, Any]", given) if isinstance(given, dict) else {}


def read_settings(path: Path) -> Settings:
    """A JSON object of settings."""
    settings = read_json(path, "a file of settings")
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} must be a JSON object, but it is not")
    return cast("dict[str, Any]", settings)
