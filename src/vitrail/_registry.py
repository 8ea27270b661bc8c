"""The registry of parts: built-in tables, plugins by entry point, and the errors that say what went wrong.

A name is resolved here and nowhere else; what a model holds are the parts themselves.
"""

import difflib
import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Final, Generic, TypeVar, cast

from ._check import listed

NO_PLUGINS: Final = "VITRAIL_NO_PLUGINS"
"""The environment variable that turns plugins off: any value but the empty one and `0`."""

Plain = bool | int | float | str | None | tuple["Plain", ...]
"""What the value of an option may be, so that a configuration can be written as JSON. JSON's lists are tuples here."""


class UnknownPartError(KeyError):
    """A name that no built-in and no plugin has."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the repr of its message


class OptionError(TypeError):
    """An option that a part does not have, or whose value a configuration could not hold."""


class PluginError(RuntimeError):
    """A plugin that does not load, is not what its group asks for, or claims a name that is taken."""


@dataclass(frozen=True)
class PartSpec:
    """A part by name, with options: what `Registry.configure` returns."""

    name: str
    """The registered name."""
    options: tuple[tuple[str, Plain], ...] = ()
    """Pairs of an option's name and its value, in alphabetical order."""


@dataclass(frozen=True)
class Entry:
    """Where one registered name comes from, read without importing it."""

    name: str
    """The registered name."""
    origins: tuple[str, ...]
    """`("vitrail",)` for a built-in; `package version` for a plugin. More than one is a clash."""
    targets: tuple[str, ...] = ()
    """Of a plugin, what its package declares the name to be: `module:object`. As many as there are plugins of it."""
    alias_of: str | None = None
    """The name that this one is an alias of; `None` where it is none."""


F = TypeVar("F", bound=Callable[..., object])


def _origin(plugin: EntryPoint) -> str:
    return "an unknown package" if plugin.dist is None else f"{plugin.dist.name} {plugin.dist.version}"


def _plugins_off() -> bool:
    return os.environ.get(NO_PLUGINS, "") not in ("", "0")


class Registry(Mapping[str, F], Generic[F]):
    """The parts of one kind by name: built-ins, and plugins that other packages declare as entry points.

    It is a read-only `Mapping`. Listing it reads the metadata of installed packages and imports none; a plugin is
    imported when its name is first looked up. A plugin that fails, or that claims a name which is taken, makes that
    one name an error and leaves the others alone. An alias can be looked up like any name; iterating gives each part
    once, by its own name, and `aliases` has the others.
    """

    kind: str
    """The kind of part in the singular, for sentences."""
    group: str
    """The entry-point group in which other packages declare parts of this kind."""

    aliases: Mapping[str, str]
    """What other libraries call the parts, and the name that each stands for here."""

    def __init__(
        self,
        kind: str,
        *,
        group: str,
        part: type,
        supplied: tuple[str, ...],
        offered: tuple[str, ...] = (),
        builtins: Mapping[str, F],
        aliases: Mapping[str, str] = MappingProxyType({}),
    ):
        """**Arguments:**

        - `kind`: what one is called, for sentences: `"pool"`.
        - `group`: the entry-point group of the plugins.
        - `part`: the abstract class that every part of this kind extends.
        - `supplied`: the names of the arguments that the assembly passes to every factory.
        - `offered`: the names of those that it passes to a factory which has them. All others are options.
        - `builtins`: the factories that come with vitrail, by name.
        - `aliases`: other names of the built-ins.
        """
        self.kind = kind
        self.group = group
        self.aliases = MappingProxyType(dict(aliases))
        self._part = part
        self._supplied = supplied
        self._offered = offered
        self._builtins = MappingProxyType(dict(builtins))
        self._loaded: dict[str, F] = {}

    @functools.cached_property
    def _plugins(self) -> Mapping[str, tuple[EntryPoint, ...]]:
        if _plugins_off():
            return {}
        found: dict[str, tuple[EntryPoint, ...]] = {}
        for plugin in entry_points(group=self.group):
            found[plugin.name] = (*found.get(plugin.name, ()), plugin)
        return found

    def __iter__(self) -> Iterator[str]:
        yield from self._builtins
        yield from sorted(self._plugins.keys() - self._builtins.keys() - self.aliases.keys())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._builtins or name in self._plugins or name in self.aliases

    def __repr__(self) -> str:
        return f"<Registry of {self.group}: {', '.join(self)}>"

    def __getitem__(self, name: str) -> F:
        """**Raises:** `UnknownPartError` where nothing has the name; `PluginError` where the plugin that has it does
        not load, is not a factory of this kind, or shares the name with a built-in or another plugin.
        """
        plugins = self._plugins.get(name, ())
        builtin = self.aliases.get(name, name)
        if len(plugins) + (builtin in self._builtins) > 1:
            raise PluginError(
                f"the {self.kind} {name!r} is claimed by {' and by '.join(self.entry(name).origins)}: uninstall all "
                f"but one, or turn plugins off with {NO_PLUGINS}=1"
            )
        if builtin in self._builtins:
            return self._builtins[builtin]
        if not plugins:
            raise UnknownPartError(self._unknown(name))
        if name not in self._loaded:
            self._loaded[name] = self._load(plugins[0])
        return self._loaded[name]

    def entry(self, name: str) -> Entry:
        """Where a name comes from, without importing it.

        **Arguments:**

        - `name`: a registered name.

        **Returns:**

        Its `Entry`.

        **Raises:** `UnknownPartError` where nothing has the name.
        """
        if name not in self:
            raise UnknownPartError(self._unknown(name))
        builtin = ("vitrail",) if name in self._builtins or name in self.aliases else ()
        plugins = self._plugins.get(name, ())
        return Entry(
            name,
            origins=(*builtin, *map(_origin, plugins)),
            targets=tuple(plugin.value for plugin in plugins),
            alias_of=self.aliases.get(name),
        )

    def configure(self, name: str, /, **options: object) -> PartSpec:
        """A part by name with options, for `vitrail.vit` and `ViTConfig`.

        **Arguments:**

        - `name`: a registered name.
        - `options`: keyword options of that part. Their names are checked against its signature, their values must
            be plain (numbers, strings, booleans, `None`, and tuples or lists of them), so that a configuration can be
            written as JSON. For anything else pass a `functools.partial` of the class.

        **Returns:**

        A `PartSpec`.

        **Raises:** `OptionError` for an option that the part does not have, that the assembly passes itself, or whose
        value is not plain; and what looking up the name raises.
        """
        known = self.options(name)
        for option in options:
            if option not in known:
                near = difflib.get_close_matches(option, known, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                which = f"its options are {listed(known)}" if known else "it has no options"
                given = " (the assembly passes it)" if option in self._passed else ""
                raise OptionError(f"the {self.kind} {name!r} has no option {option!r}{given}{hint}: {which}")
        return PartSpec(name, tuple(sorted((option, self._plain(option, value)) for option, value in options.items())))

    def options(self, name: str) -> Mapping[str, inspect.Parameter]:
        """The options of a part: the parameters of its factory that the assembly does not pass.

        **Arguments:**

        - `name`: a registered name; a plugin of that name is imported.

        **Returns:**

        The parameters by name, in the order of the signature.
        """
        parameters = inspect.signature(self[name]).parameters
        return {option: p for option, p in parameters.items() if option not in self._passed}

    def resolve(self, choice: "str | PartSpec | F", /, **offers: object) -> F:
        """The factory that a choice stands for.

        **Arguments:**

        - `choice`: a name, a `PartSpec`, or a factory itself: a class or a `functools.partial` of one.
        - `offers`: arguments for those factories that have a parameter of that name, and did not bind it themselves.

        **Returns:**

        A factory that takes the arguments which the assembly passes to all, with the options and the offers bound.

        **Raises:** what `configure` raises, and `TypeError` where the choice is none of these.
        """
        factory, bound = self._factory(choice)
        names = inspect.signature(factory).parameters.keys() - bound.keys()
        bound |= {name: value for name, value in offers.items() if name in names}
        return cast(F, functools.partial(factory, **bound)) if bound else factory

    def check(self, part: object, choice: "str | PartSpec | F") -> None:
        """Raises a `TypeError` where a factory made something that is not a part of this kind."""
        if not isinstance(part, self._part):
            raise TypeError(
                f"the {self.kind} {choice!r} made a {type(part).__name__}, but a {self.kind} must extend "
                f"vitrail.{self._part.__name__}"
            )

    @property
    def _passed(self) -> tuple[str, ...]:
        return (*self._supplied, *self._offered)

    def _factory(self, choice: "str | PartSpec | F") -> tuple[F, dict[str, object]]:
        """The factory of a choice, and the arguments that are bound to it."""
        if isinstance(choice, str):
            return self[choice], {}
        if isinstance(choice, PartSpec):
            spec = self.configure(choice.name, **dict(choice.options))
            return self[spec.name], dict(spec.options)
        self._check_factory(choice, "the one that came", TypeError)
        return choice, dict(choice.keywords) if isinstance(choice, functools.partial) else {}

    def _load(self, plugin: EntryPoint) -> F:
        who = f"the {self.kind} {plugin.name!r} of {_origin(plugin)} ({plugin.value})"
        try:
            factory = plugin.load()
        except (Exception, SystemExit) as error:  # a module that exits when imported must not take us along
            raise PluginError(
                f"{who} does not load: {type(error).__name__}: {error}. Mend or uninstall that package, or turn "
                f"plugins off with {NO_PLUGINS}=1"
            ) from error
        self._check_factory(factory, who, PluginError)
        return cast(F, factory)

    def _check_factory(self, factory: object, who: str, error: type[Exception]) -> None:
        if isinstance(factory, self._part):
            raise error(
                f"a {self.kind} must be given as a name, a class or a functools.partial, but {who} is an instance of "
                f"{type(factory).__name__}: pass the class, and its options with functools.partial"
            )
        if not callable(factory) or (isinstance(factory, type) and not issubclass(factory, self._part)):
            raise error(
                f"a {self.kind} must be a class that extends vitrail.{self._part.__name__}, or a function that makes "
                f"one, but {who} is {factory!r}"
            )
        positional, *keywords = self._supplied
        try:
            inspect.signature(factory).bind(positional, **dict.fromkeys(keywords))
        except (TypeError, ValueError) as cause:
            raise error(
                f"a {self.kind} must be callable as {self.kind}({positional}, *, {', '.join(keywords)}), but {who} is "
                f"not: {cause}"
            ) from cause

    def _plain(self, option: str, value: object) -> Plain:
        if isinstance(value, list | tuple):
            return tuple(self._plain(option, item) for item in cast("tuple[object, ...]", value))
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise OptionError(
            f"the option {option!r} must be plain (a number, a string, a boolean, None, or a tuple of these), but a "
            f"{type(value).__name__} came: pass a functools.partial of the class instead of a name"
        )

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, [*self, *self.aliases], n=3)
        hint = f"did you mean {listed(near)}? " if near else ""
        off = f" (plugins are off: {NO_PLUGINS} is set)" if _plugins_off() else ""
        return f"there is no {self.kind} {name!r}: {hint}known are {listed(self)}{off}"
