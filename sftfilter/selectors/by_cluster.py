"""The selector that takes a cluster of prompts whose texts are alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from sftfilter.errors import DataError
from sftfilter.prompt_clusters import Clustering
from sftfilter.selectors.contract import Given, SelectorSettings, Taken

if TYPE_CHECKING:
    from sftfilter.prompt_clusters import Clusters


class Cluster(Clustering, SelectorSettings):
    """All rows of one cluster of prompts, named by its number, by the prompt at its centre, or by prompts it holds.

    A run that makes them prints every cluster with its size, the id of the prompt nearest to its centre, and examples; the
    artifact `clusters` keeps them, `clusters.txt` in it for people. Numbers belong to these very prompts and settings; ids stay true when prompts are added.
    """

    kind: Literal["cluster"]
    number: Annotated[int | None, Field(ge=1, description="as the run prints it")] = None
    centre: Annotated[str | None, Field(description="id of the prompt nearest to the cluster's centre")] = None
    holds: Annotated[
        list[str] | None, Field(min_length=1, description="ids of prompts that all lie in the wanted cluster")
    ] = None

    @model_validator(mode="after")
    def _one_name(self) -> Cluster:
        if sum(value is not None for value in (self.number, self.centre, self.holds)) != 1:
            raise ValueError("say which cluster by one of: number, centre, holds")
        return self

    def take(self, given: Given) -> Taken:
        import polars as pl

        frame = given.pool.frame
        found = frame.clusters.get(self.key)
        if found is None:
            raise DataError("the prompts were not clustered; only jobs on stored prompts or rollouts do that")
        number = self._number(found)
        inside = found.table.filter(pl.col("cluster") == number)["prompt_id"]
        prompts = frame.prompt_ids.is_in(inside.implode()).to_numpy()
        return Taken(pl.Series(prompts[given.pool.prompt]))

    def _number(self, found: Clusters) -> int:
        import polars as pl

        table, listed = found.table, "\n  ".join(["there are:", *found.lines()])
        if self.number is not None:
            if self.number not in table["cluster"]:
                raise DataError(f"no cluster {self.number}; {listed}")
            return self.number
        wanted = [self.centre] if self.centre is not None else self.holds or []
        rows = table.filter(pl.col("prompt_id").is_in(wanted))
        if unknown := sorted({*wanted} - {*rows["prompt_id"]}):
            raise DataError(f"no prompt has id {', '.join(unknown[:5])}; {listed}")
        numbers = rows["cluster"].unique().sort().to_list()
        if len(numbers) > 1:
            raise DataError(f"the prompts lie in several clusters ({', '.join(map(str, numbers))}); {listed}")
        if self.centre is not None:
            nearest = table.filter(pl.col("cluster") == numbers[0])["prompt_id"][0]
            if nearest != self.centre:
                raise DataError(
                    f"prompt {self.centre} is not the centre of its cluster {numbers[0]}, which is {nearest}; name that one, "
                    "or say `holds` instead of `centre`"
                )
        return numbers[0]
