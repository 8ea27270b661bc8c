"""What checks every signature of the package when it is called, by way of the import hook."""

from typing import Final

from beartype import BeartypeConf, beartype

# The numeric tower of PEP 484: an int is welcome where a float is asked for, as it is to a type checker.
typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))

TYPECHECKER: Final = f"{__name__}.typecheck"
"""Where the import hook finds it."""
