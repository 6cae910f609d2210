"""How prompts are dealt out to the actors that answer them."""

from __future__ import annotations

import pytest

from sftfilter.generation import Pool
from sftfilter.rollouts import _blocks


@pytest.mark.parametrize(
    ("rows", "actors", "batch", "blocks"),
    [(24, 1, 1, 6), (10_000, 1, 64, 40), (10_000, 8, 64, 40), (1_000, 8, 64, 16), (3, 8, 64, 3), (0, 1, 64, 1)],
)
def test_a_lost_actor_costs_a_batch_and_all_actors_have_work(rows: int, actors: int, batch: int, blocks: int) -> None:
    found = _blocks(rows, Pool(max_actors=actors, batch=batch))
    assert found == blocks
    assert rows / found <= batch * 4
