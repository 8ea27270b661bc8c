"""The pooling lab: trains every pool on the same tokens of a frozen backbone, and compares them.

Its libraries are those of the extra `train`.
"""

from ._bar import show_comparison_progress as show_comparison_progress
from ._compare import PROBE_RECIPE as PROBE_RECIPE, compare_pools as compare_pools
from ._results import Comparison as Comparison, PoolRow as PoolRow, SkippedPool as SkippedPool
from ._statistics import compare_with_best as compare_with_best
from ._tokens import LabProgress as LabProgress
