"""Statistics of grades: rates, contrasts of students and how sure of them one can be, on scipy and statsmodels.

The unit is the prompt, and above it the training run: samples and turns of one prompt are averaged first, and every
interval allows for prompts that differ. Rows of one prompt are never counted as independent.
"""

from sftfilter.stats.crossed import Component, components, crossed_bootstrap, linearised, on_common_seeds, slopes
from sftfilter.stats.paired import (
    Difference,
    benjamini_hochberg,
    estimand_difference,
    estimand_p,
    holm,
    paired_difference,
)
from sftfilter.stats.power import (
    Variances,
    detectable_difference,
    detectable_effect,
    least_prompts,
    least_samples,
    least_seeds,
    power_of,
    prompts_needed,
    sample_variance,
    seeds_needed,
    variances_of,
)
from sftfilter.stats.rates import Cells, Estimate, effective_size, mean, rate, wilson

__all__ = [
    "Cells",
    "Component",
    "Difference",
    "Estimate",
    "Variances",
    "benjamini_hochberg",
    "components",
    "crossed_bootstrap",
    "detectable_difference",
    "detectable_effect",
    "effective_size",
    "estimand_difference",
    "estimand_p",
    "holm",
    "least_prompts",
    "least_samples",
    "least_seeds",
    "linearised",
    "mean",
    "on_common_seeds",
    "paired_difference",
    "power_of",
    "prompts_needed",
    "rate",
    "sample_variance",
    "seeds_needed",
    "slopes",
    "variances_of",
    "wilson",
]
