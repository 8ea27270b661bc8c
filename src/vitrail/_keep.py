"""The one value that means "as it was", in every signature where `None` means "none"."""

import enum
from typing import Final


class Keep(enum.Enum):
    """The type of `KEEP`."""

    KEEP = "keep"

    def __repr__(self) -> str:
        return "KEEP"


KEEP: Final = Keep.KEEP
"""As it was: the default of what `vitrail.replace` and `vitrail.load` can change."""
