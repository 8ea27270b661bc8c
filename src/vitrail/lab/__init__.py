"""The lab: which model, layer, resolution and pool is best on your images.

Its libraries are those of the extra `train`.
"""

from ._bar import show_comparison_progress as show_comparison_progress
from ._bench import ModelImages as ModelImages
from ._candidates import Group as Group, PoolChoice as PoolChoice, choose_groups as choose_groups
from ._compare import compare as compare
from ._options import ProbeOptions as ProbeOptions
from ._plan import read_plan as read_plan
from ._report import write_report as write_report
from ._results import Comparison as Comparison
from ._rows import Row as Row, Skipped as Skipped, tell_axis as tell_axis
from ._saved import count_finished as count_finished
from ._statistics import compare_with_best as compare_with_best, conclude as conclude, tell_p_values as tell_p_values
from ._tokens import LabProgress as LabProgress
