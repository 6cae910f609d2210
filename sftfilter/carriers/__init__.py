"""Carrier search: small sets of prompts whose teacher decides whether students show the trait.

`grouping` cuts the prompts into groups, `search` finds a small set of groups by halving under a budget of training runs,
`confirmation` says what of it holds on fresh seeds and prompts, beside random sets of the same size.
"""

from sftfilter.carriers.confirmation import CONTRASTS, Confirmed, confirm, worth_searching
from sftfilter.carriers.grouping import Grouping, group_prompts, parted
from sftfilter.carriers.search import Found, Group, Rules, Seek, Test, Way, search_carriers, share_of

__all__ = [
    "CONTRASTS",
    "Confirmed",
    "Found",
    "Group",
    "Grouping",
    "Rules",
    "Seek",
    "Test",
    "Way",
    "confirm",
    "group_prompts",
    "parted",
    "search_carriers",
    "share_of",
    "worth_searching",
]
