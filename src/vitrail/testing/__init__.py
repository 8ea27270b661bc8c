"""Checks that a part keeps its contract: one call runs all checks on a class, a built-in or your own.

`pool_checks` and the like make a test for pytest of them, which needs the extra `test`.
"""

from ._head import check_head as check_head, head_checks as head_checks
from ._objective import check_objective as check_objective, objective_checks as objective_checks
from ._patch import check_patch_embed as check_patch_embed, patch_embed_checks as patch_embed_checks
from ._pool import check_pool as check_pool, pool_checks as pool_checks
from ._position import check_position as check_position, position_checks as position_checks
from ._readout import check_readout as check_readout, readout_checks as readout_checks
from ._subject import ContractError as ContractError, randomise as randomise
