"""A layout, as data: one way in which a library publishes checkpoints."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from ...model import ViTConfig
from .._configuration import Configuration
from .._rules import Rule
from ..formats import NumpyArray
from ._preprocess import Preprocess, use_known_preprocess
from ._settings import CONFIG

if TYPE_CHECKING:
    from ._checkpoint import Checkpoint
else:
    Checkpoint = object  # a checkpoint has a layout

Settings = Mapping[str, Any]
"""The settings in the `config.json` of a library."""

C = TypeVar("C", bound=Configuration)


@dataclass(frozen=True)
class Library:
    """Who publishes checkpoints, and what it writes beside them."""

    name: str
    """The name, for people."""
    marker: str = ""
    """A setting that every `config.json` of the library has and that nobody types by hand; empty if it has none."""
    licence: tuple[tuple[str, ...], ...] = (("license",), ("licence",))
    """Where a licence can stand in the settings: the names from the outermost object to the text."""
    labels: str = "id2label"
    """The setting that names the classes by their numbers."""
    descriptions: str = ""
    """The setting that says in words what these names mean; empty if the library has none."""
    read_preprocess: Callable[[Checkpoint, int, Preprocess | None], Preprocess | None] = use_known_preprocess
    """Finds how images are prepared, for a checkpoint, a number of channels, and what is known of the family."""


@dataclass(frozen=True)
class Export(Generic[C]):
    """How a layout is written."""

    find_misreading: Callable[[C, C], str]
    """What differs between a configuration and the one that is read back, in words; the empty string for nothing."""
    write_config: Callable[[C], Settings] = lambda config: {}
    """Makes the settings of the library, from which it builds such a model; empty if it has none."""
    settings: str = CONFIG
    """The file for these settings."""
    read_first: tuple[str, ...] = ()
    """Files that the library reads in place of `model.safetensors` where they are in the folder."""
    write_preprocess: Callable[[C], Settings] = lambda config: {}
    """Makes the `preprocessor_config.json` of the library; empty if it has none, or nothing says how images are."""
    write_tokenizer: Callable[[C], Mapping[str, Settings]] = lambda config: {}
    """Makes the files of the tokenizer, by their names; an empty one is not to be in the folder."""
    adapt: Callable[[C, Mapping[str, Any]], tuple[C, Mapping[str, Any]]] = lambda config, arrays: (config, arrays)
    """Makes the configuration and the arrays of a model that computes the same and that the library can be."""
    find_obstacle: Callable[[C], str] = lambda config: ""
    """What of a model its tensors can say but the library cannot build, in words; the empty string for nothing."""
    write_unread: Callable[[C], Mapping[str, NumpyArray]] = lambda config: {}
    """Makes the tensors that the library's model has and never reads."""
    prefix: Callable[[C], str] = lambda config: ""
    """What the names begin with."""
    bare: tuple[str, ...] = ()
    """The beginnings of names that the prefix is not put before."""
    kept: tuple[str, ...] = ()
    """Patterns of ignored names that the library's class has too, which can be written again from the file."""
    describe_kept: Callable[[Settings], Settings] = lambda settings: settings
    """Changes the `config.json` of a file in which such tensors are."""


@dataclass(frozen=True)
class Layout(Generic[C]):
    """One way in which checkpoints are published: how it is recognised, what model it is, and which name is which."""

    name: str
    """The name, for `layout=`."""
    title: str
    """What it is, for people."""
    library: Library
    """Who publishes it."""
    read_config: Callable[[Checkpoint], C]
    """Makes the configuration of a checkpoint."""
    rules: Callable[[C], tuple[Rule, ...]]
    """Makes the rules of a configuration: which tensor is which array."""
    signature: tuple[str, ...]
    """Names that every file of the layout has, without the prefix."""
    kind: type[Configuration] = ViTConfig
    """The kind of the configuration."""
    image: "Layout[ViTConfig] | None" = None
    """The layout of the image model alone, of the same name; `None` if this is one."""
    one_of: tuple[tuple[str, ...], ...] = ()
    """Groups of names, of each of which every file has at least one."""
    foreign: tuple[str, ...] = ()
    """Names that no file has."""
    prefixes: tuple[str, ...] = ()
    """A prefix that names may have; it is stripped."""
    stacked: str = ""
    """The name of the stack if the blocks can be stacked; empty if they cannot."""
    file: Literal["safetensors", "npz"] = "safetensors"
    """The format that the library publishes."""
    architectures: re.Pattern[str] | None = None
    """Which of timm's architectures have this layout; `None` if it is not a layout of timm."""
    model_types: tuple[str, ...] = ()
    """The values of Hugging Face's `model_type` that fit, first the one for messages; empty if it is not checked."""
    usual: Mapping[str, object] = field(default_factory=dict[str, object])
    """What the library assumes if the settings do not say it."""
    preprocess: Mapping[str, Preprocess] = field(default_factory=dict[str, Preprocess])
    """How the published models of the family prepare images, by `model_type`; `""` for a file that does not say it."""
    ignored: tuple[tuple[str, str], ...] = ()
    """Patterns of names that the model does not need, and why."""
    computed: tuple[tuple[str, Callable[[C], NumpyArray]], ...] = ()
    """Patterns of ignored names that vitrail computes itself, and the numbers that they must have."""
    embeds: tuple[str, ...] = ()
    """Names of the heads that return an embedding instead of the scores of classes, unless settings name these."""
    export: Export[C] | None = None
    """How vitrail writes the layout; `None` if it only reads it."""

    def __repr__(self) -> str:
        return f"<Layout {self.name}>"

    def shorten(self, names: Iterable[str]) -> list[str]:
        """The names of tensors without their prefix. All in one call, as each call is checked."""
        return [
            name.removeprefix(next((prefix for prefix in self.prefixes if name.startswith(prefix)), ""))
            for name in names
        ]

    def reason_to_ignore(self, name: str) -> str | None:
        """Why the model does not need a tensor; `None` if it should need it."""
        return next((why for pattern, why in self.ignored if re.fullmatch(pattern, name)), None)

    def is_stacked(self, names: Mapping[str, object]) -> bool:
        """Whether a file with these names has the layout with its blocks in one stack."""
        first = f"{self.stacked[:-1]}_0/"
        return bool(self.stacked) and all(name.replace(first, self.stacked) in names for name in self.signature)

    def fits(self, names: Mapping[str, object]) -> bool:
        """Whether a file with these names has the layout."""
        return (
            all(name in names for name in self.signature)
            and all(any(name in names for name in group) for group in self.one_of)
            and not any(name in names for name in self.foreign)
        )


AnyLayout = Layout[Any]
"""A layout of any kind of model."""
