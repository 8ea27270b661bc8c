"""What the commands share that read texts: classes in words, and models of images and texts."""

from collections import Counter
from pathlib import Path

from .._check import join_names
from .._extras import require
from ..systems import ImageText
from ._options import LoadOptions


def parse_classes(text: str) -> list[str]:
    """The classes of a list with commas.

    **Raises:** `ValueError` if one is empty or there twice.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError(f"classes must be names between commas, none empty, got {text!r}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"classes must be different, got {join_names(twice)} more than once")
    return names


def load_image_text(file: Path, options: LoadOptions) -> ImageText:
    """Loads a model of images and texts, with its tokenizer.

    **Raises:** `ValueError` if the file holds another model, or there is no tokenizer; what `load` raises.
    """
    require("tokenizers", extra="text")
    options.check_kind(file, "image_text", "both towers of CLIP or SigLIP to read texts", "pass a checkpoint with both")
    model: ImageText = options.load_model(file)
    if model.config.tokenizer is None:
        raise ValueError(
            f"{file} must have a tokenizer beside it to read texts, got none: put the checkpoint's tokenizer.json (or "
            "CLIP's merges; a spiece.model is not read) there"
        )
    return model
