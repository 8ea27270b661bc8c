"""The command `vitrail`."""

from ._main import main as main
