"""The nodes of a supernet of cells, as far as decisions stand on the edges into them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from nasdeploy.search.cell_ops import Add
from nasdeploy.search.supernet import Choice, Supernet
from nasdeploy.search.wired import Gather, Join, Network, OnePath


@dataclass(frozen=True, slots=True)
class Node:
    """A sum of edges.

    Attributes:
        edges: The decision that puts an operator on each edge; None where none does.
        join: The decision which edges count, or None where all do.
        options: The edges that each choice of it takes.
    """

    edges: tuple[int | None, ...]
    join: int | None = None
    options: tuple[tuple[int, ...], ...] = ()


def nodes_of(supernet: Supernet) -> tuple[Node, ...]:
    """The nodes with a decision about their edges or on one of them; those alike are one."""
    body = supernet.body
    if not isinstance(body, Network):
        return ()
    found: dict[Node, None] = {}
    for name, part in body.named_children():
        if not (isinstance(part, Join) or type(part).forward is Add.forward):
            continue
        edges = tuple(
            source.decision
            if isinstance(source, Choice) and not isinstance(source, Join | OnePath)
            else None
            for source in body.sources(name)
        )
        if isinstance(part, Join):
            options = tuple(
                gather.indices for gather in part.candidates if isinstance(gather, Gather)
            )
            found[Node(edges, part.decision, options)] = None
        elif any(decision is not None for decision in edges):
            found[Node(edges)] = None
    return tuple(found)


def with_own_operators(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Those of them whose every edge has a decision that stands on no other edge."""
    times = Counter(decision for node in nodes for decision in node.edges)
    return tuple(
        node
        for node in nodes
        if all(decision is not None and times[decision] == 1 for decision in node.edges)
    )
