"""The order of a round, and which rounds count."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.device_agent.rounds import judge, round_order, sentinel_reading_ms

GRAPHS = [f"op{i}" for i in range(20)]


NETWORKS = ["net0", "net1", "net2"]


def order(
    number: int, *, seed: int = 0, visits: int = 3, chain: int = 10, graphs: Sequence[str] = GRAPHS
) -> list[str]:
    return round_order(
        graphs,
        alone=NETWORKS,
        sentinel="sentinel",
        empty="empty",
        visits=visits,
        chain=chain,
        passes=2,
        seed=seed,
        number=number,
    )


def chains_of(visited: list[str]) -> list[list[str]]:
    """The chains that were gone through twice; fails where one was not."""
    chains, start = [], 0
    while start < len(visited):
        length = visited.index(visited[start], start + 1) - start
        first = visited[start : start + length]
        assert visited[start + length : start + 2 * length] == first
        chains.append(first)
        start += 2 * length
    return chains


def test_every_operator_is_in_one_chain_with_as_many_others_as_a_network_has() -> None:
    for number in range(20):
        chains = chains_of(order(number))
        members = [[v for v in chain if v.startswith("op")] for chain in chains]
        assert sorted(op for chain in members for op in chain) == sorted(GRAPHS)
        assert [len(chain) for chain in members if chain] == [10, 10]


def test_operators_that_do_not_fill_a_chain_share_one() -> None:
    members = [[v for v in chain if v.startswith("op")] for chain in chains_of(order(0, chain=50))]
    assert sorted(map(len, members)) == [0, 0, 20]


def test_a_network_is_run_again_right_after_it_ran() -> None:
    chains = chains_of(order(0, graphs=[*GRAPHS, *NETWORKS]))
    assert sorted(chain[0] for chain in chains if len(chain) == 1) == NETWORKS


def test_the_sentinel_and_the_empty_graph_are_spread_over_the_round() -> None:
    for number in range(20):
        chains = chains_of(order(number, graphs=[*GRAPHS, *NETWORKS]))
        probed = ["sentinel" in chain for chain in chains]
        assert probed == ["empty" in chain for chain in chains]
        assert sum(probed) == 3 and probed[0] and probed[-1]


def test_a_network_by_itself_is_measured_between_sentinels() -> None:
    chains = chains_of(order(0, graphs=["net0"]))
    assert chains.index(["net0"]) in (1, 2) and len(chains) == 4


def test_rounds_differ_and_a_seed_repeats_them() -> None:
    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != order(0, seed=1)


def test_a_visit_that_was_interrupted_does_not_move_the_reading() -> None:
    assert sentinel_reading_ms([[100, 101], [5000, 4000], [9000, 102]]) == pytest.approx(102e-6)


def test_a_device_that_slows_down_in_the_round_moves_the_reading() -> None:
    assert sentinel_reading_ms([[100, 100], [150, 151], [150, 150]]) == pytest.approx(150e-6)


def accepted(readings: list[float], tolerance: float = 0.1) -> list[int]:
    reasons = judge(readings, tolerance).reasons
    return [i for i, reason in enumerate(reasons) if reason is None]


def test_a_bad_round_at_the_start_poisons_nothing() -> None:
    assert accepted([2.0, 1.0, 1.01, 0.99, 1.02, 1.0]) == [1, 2, 3, 4, 5]


def test_a_lucky_round_poisons_nothing() -> None:
    assert accepted([0.6, 1.0, 1.01, 0.99, 1.02, 1.0]) == [1, 2, 3, 4, 5]


def test_a_device_that_throttles_is_not_followed() -> None:
    readings = [1.0] * 10 + [1.3] * 30
    assert accepted(readings) == list(range(10))
    reason = judge(readings, 0.1).reasons[-1]
    assert reason == "the sentinel took 1.3000 ms, 30% more than its usual 1.0000 ms"


def test_a_device_that_was_disturbed_from_the_start_is_found_out() -> None:
    assert accepted([1.3] * 30 + [1.0] * 3) == list(range(30))
    assert accepted([1.3] * 30 + [1.0] * 5) == list(range(30, 35))


def test_the_first_rounds_count_until_it_is_known_better() -> None:
    assert accepted([1.0, 2.0]) == [0, 1]
    assert judge([1.0, 2.0], 0.1).reference_ms is None


def test_rounds_of_which_no_five_agree_do_not_count() -> None:
    readings = [1.5**i for i in range(12)]
    assert accepted(readings) == []
    assert "agree" in str(judge(readings, 0.1).reasons[0])


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=40), st.floats(0.01, 1), st.randoms())
def test_the_order_of_rounds_changes_no_verdict(
    readings: list[float], tolerance: float, rng: random.Random
) -> None:
    by_reading = dict(zip(readings, judge(readings, tolerance).reasons, strict=True))
    shuffled = list(readings)
    rng.shuffle(shuffled)
    assert judge(shuffled, tolerance).reasons == tuple(by_reading[r] for r in shuffled)
