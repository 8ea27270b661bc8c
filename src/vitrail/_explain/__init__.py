"""Writes the messages of `CallError`: one sentence that says what to do, then a few lines of detail.

It is imported by the first error that is raised or by `vitrail list`, and is not checked itself. Values are described
by type, shape and dtype, never printed whole.
"""

from ._binding import explain_binding as explain_binding
from ._describe import (
    add_article as add_article,
    describe_value as describe_value,
    list_members as list_members,
    name_type as name_type,
    show_hint as show_hint,
)
from ._violation import explain_violation as explain_violation
