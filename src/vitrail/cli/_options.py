"""The options of every command that reads a file of weights, and what loads the file as they say."""

import ast
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from .._spec import PartSpec
from ..weights import ModelCard, load, model_card
from ..weights.layouts import Part
from ._pictures import parse_settings


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to read the file of weights."""

    layout: str | None = None
    """The layout of the file. Default: it is recognised by the names of the tensors."""
    config: str | None = None
    """Settings in JSON, instead of the config.json beside the file: '{"num_heads": 6}'."""
    prefix: str | None = None
    """For a file of several models: the prefix of the tensors of one of them, with its dot, such as 'teacher.'."""

    def read_card(self, file: Path, part: Part = None) -> ModelCard:
        """What a file holds."""
        config = parse_settings(self.config)
        return model_card(file.as_posix(), layout=self.layout, config=config, prefix=self.prefix, part=part)

    def check_kind(self, file: Path, kind: str, what: str, advice: str) -> ModelCard:
        """The card of a file, whose numbers are not read if it holds another kind of model.

        **Raises:** `ValueError` if it does.
        """
        card = self.read_card(file)
        if card.kind != kind:
            found = "an image model" if card.kind == "vit" else f"a model of the kind {card.kind!r}"
            raise ValueError(f"{file} must have {what}, got {found} ({card.title}): {advice}")
        return card

    def check_size(self, file: Path, image_size: int | None) -> ModelCard:
        """The card of the image model in a file, whose numbers are not read if it cannot have images of a size.

        **Raises:** `ValueError` if the size does not divide into patches.
        """
        card = self.read_card(file, part="image")
        if image_size is not None:
            dataclasses.replace(card.config, image_size=(image_size, image_size))
        return card


@dataclass(frozen=True, kw_only=True)
class LoadOptions(ReadOptions):
    """How to load the model."""

    convert: bool = False
    """Convert weights in float16, bfloat16 or float64 to float32. Without it they are an error."""

    def load_model(self, file: Path, **changes: Any) -> Any:
        """Loads a model. `changes` are more arguments of `vitrail.load`."""
        config = parse_settings(self.config)
        return cast(Any, load)(
            file.as_posix(), layout=self.layout, config=config, prefix=self.prefix, convert=self.convert, **changes
        )

    def list_words(self) -> list[str]:
        """These options as words of the command line of another command that loads the same file."""
        words = [
            word
            for name, value in (("layout", self.layout), ("config", self.config), ("prefix", self.prefix))
            if value is not None
            for word in (f"--{name}", value)
        ]
        return [*words, "--convert"] if self.convert else words

    def refuse_file_options(self, when: str) -> None:
        """Raises a `ValueError` for the first of these options that has a value, because no file is read `when`."""
        refuse_options(when, **{field.name: getattr(self, field.name) for field in dataclasses.fields(LoadOptions)})


def refuse_options(when: str, **options: object) -> None:
    """Raises a `ValueError` for the first option that has a value (not `None`, `False` or `()`), because it has no
    effect `when`."""
    for name, value in options.items():
        if value is not None and value is not False and value != ():
            raise ValueError(f"{name.replace('_', '-')} has no effect {when}: leave it out")


def parse_part(text: str) -> str | PartSpec:
    """Reads a part as it is printed: `mlp`, or `mlp(hidden_dim=64)`.

    **Raises:** `ValueError` if it is written in another way.
    """
    if "(" not in text:
        return text
    try:
        call: Any = ast.parse(text, mode="eval").body
        options: dict[str, Any] = {option.arg: ast.literal_eval(option.value) for option in call.keywords}
        name = str(call.func.id)
    except (SyntaxError, ValueError, AttributeError) as error:
        raise ValueError(f"a part must be a name with options, as mlp(hidden_dim=64), got {text!r}") from error
    if call.args:
        raise ValueError(f"each option of a part must have a name, as mlp(hidden_dim=64), got {text!r}")
    return PartSpec(name, tuple(sorted(options.items())))
