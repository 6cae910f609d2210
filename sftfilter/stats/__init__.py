"""Statistics of grades: rates, contrasts of students and how sure of them one can be, on scipy and statsmodels.

The unit is the prompt, and above it the training run: samples and turns of one prompt are averaged first, and every
interval allows for prompts that differ. Rows of one prompt are never counted as independent.
"""

from sftfilter.stats.crossed import Component, components, crossed_bootstrap
from sftfilter.stats.paired import Difference, benjamini_hochberg, holm, paired_difference
from sftfilter.stats.power import detectable_difference, prompts_needed
from sftfilter.stats.rates import Cells, Estimate, effective_size, mean, rate, wilson

__all__ = [
    "Cells",
    "Component",
    "Difference",
    "Estimate",
    "benjamini_hochberg",
    "components",
    "crossed_bootstrap",
    "detectable_difference",
    "effective_size",
    "holm",
    "mean",
    "paired_difference",
    "prompts_needed",
    "rate",
    "wilson",
]
