from __future__ import annotations

from small_search import small_space

from nasdeploy.search.spaces import make_space
from nasdeploy.search.strategies.pnas import blocks_of, expansions


def test_the_expansions_are_as_many_as_the_paper_counts() -> None:
    """PNAS, section 3.2: 2^2 x 8^2 first blocks, 136 of them unique."""
    space = make_space("pnas")
    blocks = blocks_of(space.decisions)
    assert len(blocks) == 5
    ordered = [(block + 2) ** 2 * 8**2 for block in range(5)]
    assert ordered == [256, 576, 1024, 1600, 2304]
    # of two operands that are swapped one is left: n (n + 1) / 2 of n x n
    unique = [len(list(expansions(space.decisions, block))) for block in blocks]
    halves = [(block + 2) * 8 for block in range(5)]
    assert unique == [n * (n + 1) // 2 for n in halves]
    assert unique[0] == 136


def test_blocks_are_what_begins_alike() -> None:
    assert [len(block) for block in blocks_of(make_space("nasbench201").decisions)] == [1, 2, 3]
    assert blocks_of(small_space().decisions) == [[0], [1, 2], [3, 4]]
