"""The registry of parts: built-in tables, plugins by entry point, and errors that say what to do.

A name is resolved here and nowhere else. A model holds the parts themselves.
"""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Generic, NoReturn, TypeVar, cast

from jaxtyping import PRNGKeyArray

from ._check import join_names, suggest, warn
from ._factory import check_factory, list_bound, list_parameters
from ._plugins import NO_PLUGINS, are_plugins_off, explain_misplaced, find_misplaced, name_origin
from ._spec import PartSpec, Plain
from ._typecheck import CallError


class UnknownPartError(KeyError):
    """No built-in part and no plugin has this name. It is a `KeyError`."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the repr of its message


class OptionError(TypeError):
    """A part does not have this option, needs an option that is not given, or does not accept its value. It is a
    `TypeError`."""


class PluginError(RuntimeError):
    """A plugin does not load, is not a part of the kind of its group, or has a name that is taken. It is a
    `RuntimeError`."""


@dataclass(frozen=True)
class Entry:
    """Where a registered name comes from. `Registry.get_entry` reads it without importing the part."""

    name: str
    """The registered name."""
    origins: tuple[str, ...]
    """`("vitrail",)` for a built-in, `("package version",)` for a plugin. A name with several origins cannot be
    used."""
    targets: tuple[str, ...] = ()
    """For each plugin of this name, the object that its package declares: `module:object`."""
    alias_of: str | None = None
    """The name that this one is an alias of; `None` if it is not an alias."""


P = TypeVar("P")
"""The abstract class of the parts."""
C = TypeVar("C")
"""The dataclass of their context."""


class Registry(Mapping[str, Callable[..., P]], Generic[P, C]):
    """The parts of one kind by name: built-ins, and plugins that other packages declare as entry points.

    It is a read-only `Mapping` from a name to a factory: a class, or a function that returns a part. The factory is
    called with the arguments that its signature names: `key`, and fields of the context, which describes the model. All
    other parameters of the factory are options.

    To list a registry imports no plugin. A plugin is imported when its name is first looked up. A plugin that does not
    load, or has a name that is taken, disables only its own name. A plugin in a wrong group, such as `vitrail.pool`
    instead of `vitrail.pools`, gives a warning when the registry is first listed, and an error when it is looked up.

    An alias can be looked up like a name. A loop over the registry gives each part once, without its aliases.
    """

    kind: str
    """The name of the kind in the singular, for messages: `"pool"`."""
    group: str
    """The entry-point group in which other packages declare parts of this kind."""
    context: type[C]
    """The dataclass whose fields a factory can name."""
    aliases: Mapping[str, str]
    """The names that other libraries use, and the registered name of each."""

    def __init__(
        self,
        kind: str,
        *,
        group: str,
        part: type[P],
        context: type[C],
        builtins: Mapping[str, Callable[..., P]],
        aliases: Mapping[str, str] = MappingProxyType({}),
    ):
        """**Arguments:**

        - `kind`: the name of the kind in the singular, for messages: `"pool"`.
        - `group`: the entry-point group of the plugins.
        - `part`: the abstract class that every part of this kind extends.
        - `context`: the dataclass whose fields a factory can name.
        - `builtins`: the factories that come with vitrail, by name.
        - `aliases`: other names of the built-ins, and the name that each stands for.
        """
        self.kind = kind
        self.group = group
        self.context = context
        self.aliases = MappingProxyType(dict(aliases))
        self._part = part
        self._builtins = MappingProxyType(dict(builtins))
        self._loaded: dict[str, Callable[..., P]] = {}

    @functools.cached_property
    def _plugins(self) -> Mapping[str, tuple[EntryPoint, ...]]:
        if are_plugins_off():
            return {}
        found: dict[str, tuple[EntryPoint, ...]] = {}
        for plugin in entry_points(group=self.group):
            found[plugin.name] = (*found.get(plugin.name, ()), plugin)
        for plugin in self._misplaced:
            warn(explain_misplaced(plugin, self.kind, self.group))
        return found

    @functools.cached_property
    def _misplaced(self) -> tuple[EntryPoint, ...]:
        """The plugins that were probably meant for this registry."""
        return () if are_plugins_off() else find_misplaced().get(self.group, ())

    @functools.cached_property
    def _given(self) -> tuple[str, ...]:
        """The names of the parameters that are not options."""
        return (*(field.name for field in dataclasses.fields(cast(Any, self.context))), "key")

    def __iter__(self) -> Iterator[str]:
        yield from self._builtins
        yield from sorted(self._plugins.keys() - self._builtins.keys() - self.aliases.keys())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._builtins or name in self._plugins or name in self.aliases

    def __repr__(self) -> str:
        return f"<Registry of {self.group}: {', '.join(self)}>"

    def __getitem__(self, name: str) -> Callable[..., P]:
        """Looks up a factory. A plugin is imported.

        **Arguments:**

        - `name`: a registered name or alias.

        **Returns:**

        The factory of that name.

        **Raises:** `UnknownPartError` if there is no such name; `PluginError` if the plugin does not load, is not a
        factory of this kind, is in a wrong group, or has the name of a built-in or of another plugin.
        """
        plugins = self._plugins.get(name, ())
        builtin = self.aliases.get(name, name)
        if len(plugins) + (builtin in self._builtins) > 1:
            raise PluginError(
                f"the {self.kind} {name!r} is claimed by {' and by '.join(self.get_entry(name).origins)}: uninstall "
                f"all but one, or turn plugins off with {NO_PLUGINS}=1"
            )
        if builtin in self._builtins:
            return self._builtins[builtin]
        if not plugins:
            self._refuse_unknown(name)
        if name not in self._loaded:
            self._loaded[name] = self._load(plugins[0])
        return self._loaded[name]

    def get_entry(self, name: str) -> Entry:
        """Returns where a name comes from. No plugin is imported.

        **Arguments:**

        - `name`: a registered name or alias.

        **Returns:**

        Its `Entry`.

        **Raises:** `UnknownPartError` if there is no such name; `PluginError` if the name is in a wrong group.
        """
        if name not in self:
            self._refuse_unknown(name)
        builtin = ("vitrail",) if name in self._builtins or name in self.aliases else ()
        plugins = self._plugins.get(name, ())
        return Entry(
            name,
            origins=(*builtin, *map(name_origin, plugins)),
            targets=tuple(plugin.value for plugin in plugins),
            alias_of=self.aliases.get(name),
        )

    def configure(self, name: str, /, **options: object) -> PartSpec:
        """Makes a part with options, for `vitrail.vit` and `ViTConfig`.

        **Arguments:**

        - `name`: a registered name.
        - `options`: options of that part. The values are numbers, strings, booleans, `None`, and tuples or lists of
            these, so that a configuration can be written as JSON. For other values pass a `functools.partial` of the
            class to the model.

        **Returns:**

        A `PartSpec`.

        **Raises:** `OptionError` if the part does not have an option, or a value has another type; and what looking up
        the name raises.
        """
        known = self.list_options(name)
        for option in options:
            if option not in known:
                which = f"its options are {join_names(known)}" if known else "it has no options"
                given = " (the model passes it)" if option in self._given else ""
                raise OptionError(
                    f"the {self.kind} {name!r} has no option {option!r}{given}{suggest(option, known)}: {which}"
                )
        return PartSpec(name, tuple(sorted((option, _to_plain(option, value)) for option, value in options.items())))

    def list_options(self, name: str) -> Mapping[str, inspect.Parameter]:
        """Lists the options of a part: the parameters of its factory that are neither fields of the context nor `key`.

        **Arguments:**

        - `name`: a registered name. A plugin of that name is imported.

        **Returns:**

        The parameters by name, in the order of the signature. Each has its `default` and its `annotation`.

        **Raises:** what looking up the name raises.
        """
        parameters = list_parameters(self[name])
        return {option: parameter for option, parameter in parameters.items() if option not in self._given}

    def build(self, choice: str | PartSpec | Callable[..., P], context: C, *, key: PRNGKeyArray) -> P:
        """Builds a part.

        **Arguments:**

        - `choice`: a name, a `PartSpec`, or a factory itself: a class, a function, or a `functools.partial` of one.
        - `context`: describes the model. The factory gets the fields that its signature names, unless a
            `functools.partial` binds them.
        - `key`: for the weights.

        **Returns:**

        The part.

        **Raises:** what looking up and `configure` raise; `OptionError` if the factory does not accept the value of an
        option, or requires an argument that is neither in the context nor bound; `TypeError` if the choice is not a
        factory, or if it returns something else than a part of this kind.
        """
        if not isinstance(context, self.context):
            raise TypeError(f"context must be a {self.context.__name__}, got {type(context).__name__}")
        factory, options = self._resolve(choice)
        parameters, bound = list_parameters(factory), list_bound(factory)
        arguments: dict[str, object] = dict(options)
        for name in self._given:
            if name in parameters and name not in bound:
                arguments[name] = key if name == "key" else getattr(context, name)
        missing = [name for name, p in parameters.items() if p.default is p.empty and name not in arguments]
        if missing:
            raise OptionError(
                f"{self._describe(choice)} requires {join_names(missing)}, got only {join_names(self._given)}: pass it "
                "as an option, with configure or functools.partial, or give it a default"
            )
        try:
            part = cast(object, factory(**arguments))
        except CallError as error:
            if not options:
                raise
            raise OptionError(f"{self._describe(choice)} has a wrong option: {str(error).splitlines()[0]}") from error
        if not isinstance(part, self._part):
            from ._explain import name_type

            raise TypeError(
                f"{self._describe(choice)} must return an instance of {name_type(self._part)}, got "
                f"{type(part).__name__}: fix that factory"
            )
        return part

    def describe(self, choice: str | PartSpec | Callable[..., P]) -> str:
        """Describes a choice in words, for messages.

        **Arguments:**

        - `choice`: as in `build`.

        **Returns:**

        For instance `the pool 'mean'`, `the pool top_k(k=2)` or `the pool MyPool`.

        **Raises:** what `build` raises for a choice that is not a factory of this kind.
        """
        self._resolve(choice)
        return self._describe(choice)

    def _describe(self, choice: object) -> str:
        if isinstance(choice, str):
            plugins = self._plugins.get(choice, ())
            return f"the {self.kind} {choice!r}" + "".join(f" of {name_origin(p)} ({p.value})" for p in plugins)
        if isinstance(choice, PartSpec):
            return f"the {self.kind} {choice}"
        factory: object = getattr(choice, "func", choice)  # of a functools.partial
        return f"the {self.kind} {getattr(factory, '__name__', type(factory).__name__)}"

    def _resolve(self, choice: str | PartSpec | Callable[..., P]) -> tuple[Callable[..., P], Mapping[str, Plain]]:
        """The factory of a choice, and its options."""
        if isinstance(choice, str):
            return self[choice], {}
        if isinstance(choice, PartSpec):
            spec = self.configure(choice.name, **dict(choice.options))
            return self[spec.name], dict(spec.options)
        check_factory(choice, self._part, self.kind, "got", TypeError)
        return choice, {}

    def _load(self, plugin: EntryPoint) -> Callable[..., P]:
        who = self._describe(plugin.name)
        try:
            factory = plugin.load()
        except (Exception, SystemExit) as error:  # a module that exits when imported must not take us along
            raise PluginError(
                f"{who} does not load: {type(error).__name__}: {error}. Fix or uninstall that package, or turn "
                f"plugins off with {NO_PLUGINS}=1"
            ) from error
        check_factory(factory, self._part, self.kind, f"but {who} is", PluginError)
        return cast("Callable[..., P]", factory)

    def _refuse_unknown(self, name: str) -> NoReturn:
        for plugin in self._misplaced:
            if plugin.name == name:
                raise PluginError(explain_misplaced(plugin, self.kind, self.group))
        raise UnknownPartError(self._explain_unknown(name))

    def _explain_unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, [*self, *self.aliases], n=3)
        hint = f"did you mean {join_names(near)}? " if near else ""
        off = f" (plugins are off: {NO_PLUGINS} is set)" if are_plugins_off() else ""
        return f"there is no {self.kind} {name!r}: {hint}known are {join_names(self)}{off}"


def _to_plain(option: str, value: object) -> Plain:
    if isinstance(value, list | tuple):
        return tuple(_to_plain(option, item) for item in cast("tuple[object, ...]", value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise OptionError(
        f"the option {option!r} must be plain (a number, a string, a boolean, None, or a tuple of these), got a "
        f"{type(value).__name__}: pass a functools.partial of the class instead of a name"
    )
