"""A part by its name and options, as a configuration holds it."""

from dataclasses import dataclass

Plain = bool | int | float | str | None | tuple["Plain", ...]
"""The values that an option can have, so that a configuration can be written as JSON. JSON's lists are tuples here."""


@dataclass(frozen=True)
class PartSpec:
    """A part by name, with options: what `Registry.configure` returns. It prints as `mlp(hidden_dim=64)`."""

    name: str
    """The registered name."""
    options: tuple[tuple[str, Plain], ...] = ()
    """Pairs of an option's name and its value, in alphabetical order."""

    def __str__(self) -> str:
        options = ", ".join(f"{option}={value!r}" for option, value in self.options)
        return f"{self.name}({options})" if options else self.name
