from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from small_cells import PAIRS, OneCell
from small_search import Blobs, bounds_of, run_to_the_end, small_space, small_strategy
from small_spaces import SMALL, small

from nasdeploy.errors import UsageError
from nasdeploy.search.collapse import Signs, relative_entropy
from nasdeploy.search.relaxation import Relaxation
from nasdeploy.search.spaces import make_space
from nasdeploy.search.spaces.darts import CELLS, NODES, OPERATORS, DartsSpace
from nasdeploy.search.strategies import make_settings
from nasdeploy.search.strategies.darts import Darts, DartsSettings
from nasdeploy.search.supernet import SinglePath, Supernet, recalibrate_batch_norm
from nasdeploy.search.task import Classification, evaluate
from nasdeploy.search.wired_space import WiredSpace

TASK = Classification()
CELL = OneCell()


def supernet_of(space: WiredSpace) -> Supernet:
    return space.supernet(SinglePath(()), task=TASK)


def relaxed(space: WiredSpace, *, seed: int = 0, edge_weights: bool = False) -> Relaxation:
    """A relaxation whose parameters are far from even."""
    relaxation = Relaxation(
        supernet_of(space),
        space.decisions,
        generator=torch.Generator().manual_seed(seed),
        device=torch.device("cpu"),
        edge_weights=edge_weights,
    )
    with torch.no_grad():
        for parameter in relaxation.parameters():
            parameter.mul_(1e3)
    return relaxation


def darts_on(space: WiredSpace, **changes: Any) -> Darts[DartsSettings]:
    strategy = small_strategy("darts", space, **changes)
    assert isinstance(strategy, Darts)
    return strategy


def published_rule(
    alphas: np.ndarray, betas: np.ndarray | None = None
) -> list[tuple[tuple[str, int], ...]]:
    """Section 2.4 written down again: (14, 8) weights of one cell to two edges for each node.

    The strength of an edge is its strongest operator other than ``none``; with betas (14,), softmax
    over the edges of a node, it is that times the edge's.
    """
    weights = np.exp(alphas) / np.exp(alphas).sum(axis=1, keepdims=True)
    nodes, first = [], 0
    for node in range(NODES):
        rows = weights[first : first + node + 2]
        if betas is not None:
            of_edges = np.exp(betas[first : first + node + 2])
            rows = rows * (of_edges / of_edges.sum())[:, None]
        rows = rows[:, 1:]  # "none" is the first of the operators
        order = sorted(range(node + 2), key=lambda edge: -rows[edge].max())
        kept = sorted(order[:2])
        nodes.append(tuple((OPERATORS[1 + int(rows[edge].argmax())], edge) for edge in kept))
        first += node + 2
    return nodes


@pytest.fixture(scope="module")
def cells() -> DartsSpace:
    space = small("darts")
    assert isinstance(space, DartsSpace)
    return space


@pytest.mark.parametrize("edge_weights", [False, True])
def test_without_bounds_what_is_derived_is_what_the_paper_s_rule_gives(
    cells: DartsSpace, edge_weights: bool
) -> None:
    relaxation = relaxed(cells, edge_weights=edge_weights)
    labels = {decision.label: index for index, decision in enumerate(cells.decisions)}
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in relaxation.parameters():
                parameter.copy_(2 * torch.randn(len(parameter), generator=generator))
        genotype = cells.genotype_of(relaxation.best((), 1)[0])
        for number, cell in enumerate(CELLS):
            edges = [(node, source) for node in range(NODES) for source in range(node + 2)]
            alphas = np.stack(
                [
                    relaxation.alphas[labels[f"{cell}.node{node}.from{source}"]].detach().numpy()
                    for node, source in edges
                ]
            )
            betas = None
            if edge_weights:
                of_cell = relaxation.betas[number * NODES : (number + 1) * NODES]
                betas = torch.cat([beta.detach() for beta in of_cell]).numpy()
            expected = published_rule(alphas, betas)
            found = genotype.normal if cell == "normal" else genotype.reduction
            assert found == tuple(entry for node in expected for entry in node)


def weights_of(relaxation: Relaxation) -> list[np.ndarray]:
    """(choices,) log-weights of each decision of the cell; none for the pairs."""
    return [
        np.zeros(0) if decision == 2
        else relaxation.alphas[decision].detach().double().log_softmax(0).numpy()
        for decision in range(6)
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_within_bounds_it_is_the_highest_of_all_by_brute_force(seed: int) -> None:
    relaxation, bounds = relaxed(CELL, seed=seed), bounds_of(CELL, 0.3)
    logs = weights_of(relaxation)

    def taken(arch: tuple[int, ...]) -> list[int]:
        return [0, 1, *(3 + edge for edge in PAIRS[arch[2]])]

    every = [
        arch
        for arch in product(*[range(len(decision.choices)) for decision in CELL.decisions])
        if all(arch[d] == 0 for d in (3, 4, 5) if d not in taken(arch))
    ]
    held = [a for a, ok in zip(every, bounds.admits(every), strict=True) if ok]
    held.sort(
        key=lambda arch: (
            sum(arch[d] == 0 for d in taken(arch)),
            -sum(logs[d][arch[d]] for d in taken(arch)),
        )
    )
    assert 20 < len(held) < len(every)
    assert relaxation.best(bounds.limits(), 8) == held[:8]
    assert relaxation.best(bounds.limits(), 3, exclude=held[:4]) == held[4:7]
    assert relaxation.best(bounds.limits(), 60) == held[:60]


def test_the_mixture_is_the_sum_over_candidates_by_their_softmax() -> None:
    """Equation 2; "none" has its part of the softmax and adds nothing."""
    relaxation, supernet = relaxed(CELL), supernet_of(CELL)
    choice = supernet.body.get_submodule("node0_from0")
    x = torch.randn(4, 8, 6, 6)
    weights = relaxation.alphas[0].softmax(0)
    parts = [w * c(x) for w, c in zip(weights, choice.candidates, strict=True)]  # type: ignore[arg-type]
    with supernet.mixed_by(relaxation):
        assert torch.allclose(choice(x), torch.stack(parts).sum(0), atol=1e-6)


def test_a_node_sums_all_of_its_edges_while_it_is_searched() -> None:
    relaxation = relaxed(CELL)
    edges = [torch.randn(2, 8, 6, 6) for _ in range(3)]
    node = supernet_of(CELL).body.get_submodule("node1")
    with torch.no_grad():
        assert torch.allclose(relaxation(2, list(node.candidates), *edges), sum(edges), atol=1e-6)  # type: ignore[arg-type]


def test_probabilities_are_of_what_may_be_chosen_and_lean_to_the_strongest_edges() -> None:
    relaxation = relaxed(CELL)
    found = relaxation.probabilities()
    assert all(float(p.detach().sum()) == pytest.approx(1) for p in found)
    assert all(float(p[0].detach()) == 0 for decision, p in enumerate(found) if decision != 2)
    strongest = [max(weights_of(relaxation)[3 + edge][1:]) for edge in range(3)]
    by_hand = np.exp([strongest[a] + strongest[b] for a, b in PAIRS])
    assert found[2].detach().numpy() == pytest.approx(by_hand / by_hand.sum(), rel=1e-5)


def test_where_no_decision_leaves_edges_out_none_is_an_operator_like_any_other() -> None:
    space = small("nasbench201")
    assert isinstance(space, WiredSpace)
    relaxation = relaxed(space)
    strongest = tuple(int(relaxation.alphas[d].argmax()) for d in range(6))
    assert 0 in strongest
    assert relaxation.best((), 1) == [strongest]


@pytest.mark.parametrize("order", [1, 2])
def test_a_step_of_the_alphas_leaves_the_supernet_as_it_was(order: int) -> None:
    strategy = darts_on(CELL, order=order)
    strategy.step()
    before = {name: value.clone() for name, value in strategy.supernet.state_dict().items()}
    alphas = [alpha.detach().clone() for alpha in strategy.relaxation.parameters()]
    train, valid = (next(iter(Blobs().batches(split, 0))) for split in ("weights", "arch"))
    with strategy.supernet.mixed_by(strategy.relaxation):
        strategy.supernet.train()
        strategy._arch_step(train, valid, 1, 0)
    after = strategy.supernet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    moved = zip(alphas, strategy.relaxation.parameters(), strict=True)
    assert all(not torch.equal(old, new) for old, new in moved)


def test_first_and_second_order_end_at_other_alphas() -> None:
    one, two = (darts_on(CELL, order=order, search_epochs=2) for order in (1, 2))
    run_to_the_end(one)
    run_to_the_end(two)
    pairs = list(zip(one.relaxation.parameters(), two.relaxation.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert all(torch.allclose(a, b, atol=0.5) for a, b in pairs)


def test_after_a_search_the_derived_network_computes_its_path_of_the_supernet() -> None:
    strategy = darts_on(CELL, search_epochs=1)
    strategy.step()
    supernet, arch = strategy.supernet.eval(), strategy.candidates(1)[0]
    x = torch.randn(4, *CELL.deployment.input_shape)
    with supernet.mixed_by(SinglePath(arch)), torch.no_grad():
        assert torch.allclose(supernet(x), supernet.extract(arch)(x), atol=1e-6)


def test_scales_within_candidates_stay_as_they_are_and_others_are_trained() -> None:
    strategy = darts_on(CELL, search_epochs=2)
    run_to_the_end(strategy)
    state = strategy.supernet.body.state_dict()
    norm = "node0_from1.candidates.3.1.3"
    assert torch.equal(state[f"{norm}.weight"], torch.ones(8))
    assert torch.equal(state[f"{norm}.bias"], torch.zeros(8))
    assert not torch.equal(state["stem.1.weight"], torch.ones(8))


@pytest.mark.parametrize("name", ["darts", "pnas", "enas-macro"])
def test_spaces_of_cells_are_searched_or_refused_in_one_line(name: str) -> None:
    space = small(name)
    assert isinstance(space, WiredSpace)
    relaxation = relaxed(space)
    supernet = supernet_of(space)
    with supernet.mixed_by(relaxation):
        supernet(torch.randn(2, 3, 12, 12)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in relaxation.parameters())


def test_a_space_whose_candidates_have_several_shapes_is_refused_in_one_line() -> None:
    space = make_space(
        "mobile-elastic", input_shape=[1, 12, 12], classes=4, **SMALL["mobile-elastic"]
    )
    with pytest.raises(UsageError, match="strategy that takes one path at a time"):
        small_strategy("darts", space).step()


def lean_to(strategy: Darts[DartsSettings], operator: int) -> None:
    with torch.no_grad():
        for decision, alpha in strategy.relaxation.alphas.items():
            if decision != 2:
                alpha[operator] = 9.0


def test_a_search_that_ends_in_skips_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    strategy = darts_on(CELL, share=None, search_epochs=2)
    lean_to(strategy, 1)
    trial = strategy.step()[0]
    assert trial.metrics["skip_share"] == 1
    assert trial.metrics["collapsed"] == 1
    assert "collapsing: 100% of the edges that can skip do" in strategy.progress
    assert "collapsing" in caplog.text
    assert not strategy.finished


def test_asked_to_it_stops_with_the_alphas_from_before_the_collapse() -> None:
    strategy = darts_on(CELL, share=None, stop_on_collapse=True)
    lean_to(strategy, 3)
    assert strategy.step()[0].metrics["collapsed"] == 0
    healthy = strategy.candidates(1)
    lean_to(strategy, 1)
    with torch.no_grad():
        for alpha in strategy.relaxation.alphas.values():
            alpha[-1] = 0.0
    assert strategy.step()[0].metrics["skip_share"] == 1
    assert strategy.finished and strategy.progress.endswith("stopped")
    assert strategy.candidates(1) == healthy
    resumed = darts_on(CELL, share=None, stop_on_collapse=True)
    resumed.load_state_dict(strategy.state_dict())
    assert resumed.finished and resumed.candidates(1) == healthy


def test_what_the_derived_network_loses_is_complained_of_beyond_its_limit() -> None:
    signs = Signs(skip_share=0.2, entropy=0.1, gap=0.7)
    assert signs.complaints(max_skip_share=0.5, max_gap=0.7) == []
    assert signs.complaints(max_skip_share=0.1, max_gap=0.6) == [
        "20% of the edges that can skip do",
        "the derived network loses 0.70 against the mixture",
    ]


def test_the_gap_is_what_counts_of_the_mixture_less_that_of_the_derived_network() -> None:
    strategy = darts_on(CELL, gap_batches=2)
    gap = strategy.step()[0].metrics["gap"]
    data = Blobs(batches_each=2)
    images = list(data.batches("valid", 0))[:2]
    with strategy.supernet.mixed_by(strategy.relaxation):
        mixture = evaluate(strategy.supernet, images, TASK)["accuracy"]
    network = strategy.supernet.extract(strategy.candidates(1)[0])
    recalibrate_batch_norm(network, data.batches("weights", 0), limit=4)
    assert gap == pytest.approx(mixture - evaluate(network, images, TASK)["accuracy"])


def test_idle_edges_do_not_count_as_skips() -> None:
    strategy = darts_on(CELL)
    assert strategy._skips.share((1, 3, 0, 1, 1, 1)) == pytest.approx(3 / 4)
    assert strategy._skips.share((3, 3, 0, 3, 3, 1)) == 0


def test_entropy_is_one_for_an_even_choice_and_zero_for_a_decided_one() -> None:
    even, decided = torch.tensor([0.0, 0.5, 0.5]), torch.tensor([0.0, 1.0, 0.0])
    assert relative_entropy([even], [2]) == pytest.approx(1)
    assert relative_entropy([decided, even, torch.ones(1)], [2, 2, 1]) == pytest.approx(0.5)
    assert relative_entropy([torch.tensor([0.9, 0.1])], [2]) == pytest.approx(0.469, abs=1e-3)


@pytest.mark.parametrize(("term", "weight"), [("add", 1e3), ("multiply", 4.0)])
def test_an_overwhelming_weight_on_latency_ends_at_the_fastest_network(
    term: str, weight: float
) -> None:
    strategy = darts_on(
        CELL, share=1.0, latency_term=term, latency_weight=weight, arch_lr=1.0, search_epochs=3
    )
    trials = run_to_the_end(strategy)
    assert trials[-1].metrics["latency_ms"] == min(
        bounds_of(CELL, None).estimator().calibrated.of((1, 1, pair, *([1] * 3)))
        for pair in range(3)
    )


SETTINGS: list[tuple[dict[str, object], str]] = [
    ({"order": 3}, "order is 3: it must be 1 or 2"),
    ({"stop_on_collapse": 1}, "stop_on_collapse of darts is 1"),
    ({"order": True}, "order of darts is True"),
    ({"max_skip_share": 1.5}, "max_skip_share is 1.5"),
]


@pytest.mark.parametrize(("changes", "message"), SETTINGS)
def test_a_setting_that_makes_no_search_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_settings("darts", changes)


def test_darts_runs_on_blocks_that_are_no_cells() -> None:
    strategy = small_strategy("darts", small_space(), search_epochs=1)
    assert strategy.step()[0].failure is None
