"""Pictures: predictions, attention maps, maps over an image, and comparisons.

Figures are drawn with matplotlib, which is in the extra `demo`.
"""

from ._attention import (
    compute_attention_heads as compute_attention_heads,
    compute_attention_map as compute_attention_map,
)
from ._comparison import (
    CERTAIN as CERTAIN,
    ComparedRow as ComparedRow,
    ComparedRows as ComparedRows,
    draw_comparison as draw_comparison,
    render_comparison as render_comparison,
)
from ._components import compute_components as compute_components
from ._contact_sheet import draw_contact_sheet as draw_contact_sheet
from ._curves import draw_curves as draw_curves
from ._look import (
    draw_attention as draw_attention,
    draw_components as draw_components,
    draw_look as draw_look,
)
from ._maps import (
    choose_classes as choose_classes,
    draw_classes as draw_classes,
    draw_depth as draw_depth,
    resize_depth as resize_depth,
)
from ._masks import add_masks as add_masks
from ._predictions import draw_predictions as draw_predictions
from ._reconstruction import draw_reconstructions as draw_reconstructions
from ._save import SUFFIXES as SUFFIXES
from ._style import add_glow as add_glow, restore_pixels as restore_pixels
