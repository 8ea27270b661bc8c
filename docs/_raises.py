"""Shows the errors of an example; not a page."""

import re
import sys
from types import TracebackType


class raises:
    """Prints the error that an example must raise: `with raises(ValueError): ...`."""

    def __init__(self, kind: type[Exception]):
        """Takes the kind of the error."""
        self.kind = kind
        # markdown-exec shows what the `print` of a page's own globals prints, and no other.
        self.page = sys._getframe(1).f_globals

    def __enter__(self) -> None:
        """Begins the example."""

    def __exit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Prints the error. Another error passes, and no error is one."""
        if error is None:
            raise AssertionError(f"the example did not raise {self.kind.__name__}")
        if not isinstance(error, self.kind):
            return False
        # Without the addresses of objects.
        message = re.sub(" at 0x[0-9a-f]+", "", str(error))
        self.page.get("print", print)(f"{type(error).__name__}: {message}")
        return True
