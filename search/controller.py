"""The network that draws architectures in ENAS: an LSTM that makes one decision after another.

Pham et al. (ICML 2018, arXiv:1802.03268), sections 2.2 to 2.4. What was chosen is the next input.
There are three kinds of decisions, told apart by their labels:

    * one of some operators: a softmax over a linear layer, which decisions of the same choices
      share (``normal.block2.left.operator``; every decision of other spaces);
    * one of the earlier blocks of a cell: attention over the states in which those were finished
      (``normal.block2.left.input``; 0 and 1 are the cell's own inputs);
    * whether an earlier layer is added: attention too, all of a layer at once
      (``layer3.skip1``).

Logits are divided by a temperature and squashed, ``c * tanh(logits / T)``, so that no probability
ever comes near 0 (section 3.2, after Bello et al., ICLR 2017).

Where we differ: each decision adds a vector of its own to the LSTM's input, without which a long
chain of like decisions (``mobile``) would be one decision made many times. The published code gives
separable convolutions a head start by a bias; here all begin alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from nasdeploy.search.reinforce import Drawn
from nasdeploy.search.space import Arch, Decision

_SIDES = ("left", "right")
_INITIAL = 0.1  # section 3: all parameters begin between -0.1 and 0.1

Kind = Literal["choice", "input", "skip"]
Choose = Callable[[int, Tensor], Tensor]
"""(decision, (n, choices) log-probabilities) to (n,) what is chosen."""


@dataclass(frozen=True, slots=True)
class Slot:
    """How a decision is made.

    Attributes:
        group: Of decisions that share a softmax.
        scope: Of blocks that may take each other's outputs.
        source: Which earlier layer a skip comes from.
        ends_block: Behind it a block is finished, and can be taken as an input.
    """

    kind: Kind
    group: int
    scope: str
    source: int
    ends_block: bool


def slots_of(decisions: Sequence[Decision]) -> tuple[Slot, ...]:
    """How each decision is made, from its label and its choices."""
    groups: dict[tuple[str, ...], int] = {}
    blocks = [_block(decision.label) for decision in decisions]
    kinds = [_kind(decision) for decision in decisions]
    pointing = {
        _scope(block) for block, kind in zip(blocks, kinds, strict=True) if kind != "choice"
    }
    slots = []
    for index, (decision, block, kind) in enumerate(zip(decisions, blocks, kinds, strict=True)):
        is_last = index + 1 == len(blocks) or blocks[index + 1] != block
        name = decision.label.rpartition(".")[2]
        slots.append(
            Slot(
                kind,
                groups.setdefault(decision.choices, len(groups)) if kind == "choice" else -1,
                _scope(block),
                int(name.removeprefix("skip")) if kind == "skip" else -1,
                is_last and _scope(block) in pointing,
            )
        )
    return tuple(slots)


def _kind(decision: Decision) -> Kind:
    name = decision.label.rpartition(".")[2]
    if name == "input" and decision.choices == tuple(map(str, range(len(decision.choices)))):
        return "input"
    if name.removeprefix("skip").isdecimal() and decision.choices == ("no", "yes"):
        return "skip"
    return "choice"


def _block(label: str) -> str:
    """``normal.block2`` of ``normal.block2.left.input``; a decision without parts is one."""
    parts = [part for part in label.split(".")[:-1] if part not in _SIDES]
    return ".".join(parts) or label


def _scope(block: str) -> str:
    return block.rpartition(".")[0]


class Controller(nn.Module):
    """A policy over the architectures of a space.

    Args:
        hidden: Numbers in the LSTM's state.
        temperature, tanh_constant: T and c of the top of this file.
    """

    def __init__(
        self,
        decisions: Sequence[Decision],
        *,
        hidden: int = 100,
        temperature: float = 5.0,
        tanh_constant: float = 2.5,
    ) -> None:
        super().__init__()
        self.slots = slots_of(decisions)
        self.temperature, self.tanh_constant = temperature, tanh_constant
        self.cell = nn.LSTMCell(hidden, hidden)
        self.start = nn.Parameter(torch.empty(hidden))
        self.positions = nn.Parameter(torch.empty(len(decisions), hidden))
        sizes = {
            slot.group: len(decision.choices)
            for slot, decision in zip(self.slots, decisions, strict=True)
            if slot.kind == "choice"
        }
        self.outputs = nn.ModuleList(nn.Linear(hidden, size, bias=False) for size in sizes.values())
        self.embeddings = nn.ModuleList(nn.Embedding(size, hidden) for size in sizes.values())
        # attention (section 2.3): v . tanh(earlier state x W + state x U)
        self.of_earlier = nn.Linear(hidden, hidden, bias=False)
        self.of_state = nn.Linear(hidden, hidden, bias=False)
        self.of_both = nn.Linear(hidden, 1, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -_INITIAL, _INITIAL)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Drawn:
        """Draw `n` architectures."""

        def choose(decision: int, log_p: Tensor) -> Tensor:
            del decision
            return torch.multinomial(log_p.exp(), 1, generator=generator)[:, 0]

        return self._walk(n, choose)

    def log_prob(self, archs: Sequence[Arch] | Tensor) -> Drawn:
        """What drawing these would have recorded, differentiable in the parameters."""
        chosen = torch.as_tensor(archs)
        return self._walk(len(chosen), lambda decision, log_p: chosen[:, decision])

    def _walk(self, n: int, choose: Choose) -> Drawn:
        walk = _Walk(self, n)
        for index, slot in enumerate(self.slots):
            log_p = walk.log_probabilities(index, slot)
            walk.took(slot, log_p, choose(index, log_p))
        return Drawn(torch.stack(walk.chosen, dim=1), walk.log_prob, walk.entropy)


class _Walk:
    """`n` architectures on their way through the decisions."""

    def __init__(self, controller: Controller, n: int) -> None:
        self.net = controller
        zeros = controller.start.new_zeros(n, controller.cell.hidden_size)
        self.state = (zeros, zeros)
        self.input = controller.start.expand_as(zeros)
        self.earlier: dict[str, list[Tensor]] = {}
        self.added: list[Tensor] = []  # the earlier layers that this one adds, zeros for others
        self.counted = zeros[:, :1] + 1  # one more than how many those are
        self.is_fresh = True  # the state has not seen the input yet
        self.chosen: list[Tensor] = []
        self.log_prob = self.entropy = zeros[:, 0]

    def log_probabilities(self, index: int, slot: Slot) -> Tensor:
        """(n, choices) of one decision."""
        if slot.kind == "input" and slot.scope not in self.earlier:
            # the two inputs of the cell
            self.earlier[slot.scope] = [self._step(self.net.start) for _ in range(2)]
            self._goes_on_with(self.net.start.expand_as(self.state[0]))
        position = self.net.positions[index]
        if slot.kind == "choice":
            logits = self.net.outputs[slot.group](self._step(self.input + position))
        elif slot.kind == "input":
            logits = self._attention(self._step(self.input + position), self.earlier[slot.scope])
        else:
            if self.is_fresh:
                self._step(self.input + position)
            # one probability, as a softmax of two
            score = self._attention(self.state[0], [self.earlier[slot.scope][slot.source]])
            logits = torch.cat([-score, score], dim=1)
        logits = self.net.tanh_constant * torch.tanh(logits / self.net.temperature)
        return logits.log_softmax(1)

    def took(self, slot: Slot, log_p: Tensor, chosen: Tensor) -> None:
        self.chosen.append(chosen)
        self.log_prob = self.log_prob + log_p.gather(1, chosen[:, None])[:, 0]
        self.entropy = self.entropy - (log_p.exp() * log_p).sum(1)
        if slot.kind == "choice":
            self._goes_on_with(self.net.embeddings[slot.group](chosen))
        elif slot.kind == "input":
            states = torch.stack(self.earlier[slot.scope], dim=1)
            self._goes_on_with(states[torch.arange(len(chosen)), chosen])
        else:
            yes = chosen[:, None].to(log_p.dtype)
            self.added.append(self.earlier[slot.scope][slot.source] * yes)
            self.counted = self.counted + yes
        if slot.ends_block:
            self._end_block(slot)

    def _end_block(self, slot: Slot) -> None:
        if self.is_fresh:
            self._step(self.input)
        self.earlier.setdefault(slot.scope, []).append(self.state[0])
        if self.added:
            self._goes_on_with(torch.stack(self.added).sum(0) / self.counted)
            self.added, self.counted = [], torch.ones_like(self.counted)
        else:
            self._goes_on_with(self.net.start.expand_as(self.state[0]))

    def _goes_on_with(self, x: Tensor) -> None:
        self.input, self.is_fresh = x, True

    def _step(self, x: Tensor) -> Tensor:
        self.state = self.net.cell(x.expand_as(self.state[0]), self.state)
        self.is_fresh = False
        return self.state[0]

    def _attention(self, state: Tensor, earlier: Sequence[Tensor]) -> Tensor:
        """(n, earlier) a score for each."""
        keys = self.net.of_earlier(torch.stack(list(earlier), dim=1))
        query = self.net.of_state(state)[:, None]
        return cast(Tensor, self.net.of_both(torch.tanh(keys + query))[..., 0])
