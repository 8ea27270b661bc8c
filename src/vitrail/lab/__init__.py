"""The pooling lab: every pool on the same frozen tokens, trained, compared and drawn.

Its libraries come with `pip install 'vitrail[train]'`, and with `'vitrail[demo]'` those of the figure.
"""

from ._bar import lab_progress_bar as lab_progress_bar
from ._compare import PROBE_RECIPE as PROBE_RECIPE, compare_pools as compare_pools
from ._figure import draw_comparison as draw_comparison
from ._kept import LabProgress as LabProgress
from ._results import Comparison as Comparison, PoolRow as PoolRow, SkippedPool as SkippedPool
