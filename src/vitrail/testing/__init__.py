"""Does a part keep its contract? One call runs all checks on a class, ours or a stranger's.

`pool_checks` and its siblings make a test for pytest of them, which `pip install 'vitrail[test]'` brings.
"""

from ._parts import (
    check_head as check_head,
    check_patch_embed as check_patch_embed,
    check_position as check_position,
    head_checks as head_checks,
    patch_embed_checks as patch_embed_checks,
    position_checks as position_checks,
)
from ._pool import check_pool as check_pool, pool_checks as pool_checks
from ._subject import ContractError as ContractError, randomised as randomised
