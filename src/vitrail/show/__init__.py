"""Pictures: predictions, attention maps and comparisons.

They are drawn with matplotlib, which is in the extra `demo`.
"""

from ._attention import compute_attention_map as compute_attention_map
from ._comparison import (
    ComparedPool as ComparedPool,
    ComparedPools as ComparedPools,
    draw_comparison as draw_comparison,
)
from ._contact_sheet import draw_contact_sheet as draw_contact_sheet
from ._predictions import draw_predictions as draw_predictions
from ._save import SUFFIXES as SUFFIXES
from ._style import add_glow as add_glow
