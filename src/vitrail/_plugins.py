"""The entry points of other packages: which are vitrail's, and which were meant to be."""

import difflib
import os
import re
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from ._check import join_names

NO_PLUGINS: Final = "VITRAIL_NO_PLUGINS"
"""The environment variable that turns plugins off: any value but the empty one and `0`."""

GROUPS: Final = (
    "vitrail.patches",
    "vitrail.positions",
    "vitrail.pools",
    "vitrail.heads",
    "vitrail.readouts",
    "vitrail.objectives",
    "vitrail.transforms",
)
"""The entry-point groups in which other packages declare parts. No other group begins with `vitrail.`."""


def are_plugins_off() -> bool:
    """Whether the environment turns plugins off."""
    return os.environ.get(NO_PLUGINS, "") not in ("", "0")


def name_origin(plugin: EntryPoint) -> str:
    """The package of a plugin and its version, in words."""
    return "an unknown package" if plugin.dist is None else f"{plugin.dist.name} {plugin.dist.version}"


def find_misplaced() -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points in groups that are meant for vitrail and are none of its own, by the group that is nearest.

    A group is meant for vitrail if its first word is `vitrail`, whatever the case, the order of the letters, and what
    follows the word. A package `vitrail_more` may have groups of its own.
    """
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for given in sorted(entry_points().groups):
        plain = re.sub(r"[^a-z0-9]+", ".", given.lower()).strip(".")
        first, _, rest = plain.partition(".")
        if given in GROUPS or sorted(first) != sorted("vitrail"):
            continue
        nearest = max(GROUPS, key=lambda group: difflib.SequenceMatcher(None, f"vitrail.{rest}", group).ratio())
        is_near = difflib.get_close_matches(f"vitrail.{rest}", [nearest], cutoff=0.85)
        if given.startswith("vitrail.") or is_near:
            found[nearest] = (*found.get(nearest, ()), *entry_points(group=given))
    return found


def explain_misplaced(plugin: EntryPoint, kind: str, group: str) -> str:
    """Says that a plugin is in a wrong group, and which it should be in for parts of a kind."""
    from ._explain import add_article

    return (
        f"{name_origin(plugin)} declares {plugin.name!r} ({plugin.value}) in the entry-point group {plugin.group!r}, "
        f"which vitrail does not read: if it is {add_article(kind)}, the group must be {group!r} (the groups are "
        f"{join_names(GROUPS)}). Fix or uninstall that package, or turn plugins off with {NO_PLUGINS}=1"
    )
