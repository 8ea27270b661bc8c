"""The one value that means "as it was", in every signature where `None` means "none"."""

import enum
from typing import Final


class Keep(enum.Enum):
    """The type of [`KEEP`][vitrail.KEEP], for annotations."""

    KEEP = "keep"

    def __repr__(self) -> str:
        return "KEEP"


KEEP: Final = Keep.KEEP
"""Leaves a value unchanged: the default of the arguments of `vitrail.replace` and `vitrail.load`, where `None` means
none."""
