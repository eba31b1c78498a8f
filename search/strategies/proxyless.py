"""ProxylessNAS: train a supernet and its architecture parameters together, two paths at a time.

Cai, Zhu, Han (ICLR 2019, arXiv:1812.00332). Each decision has parameters alpha whose softmax is the
probability of each candidate. A weight step draws one path and trains it (section 3.1). An
architecture step draws two candidates per decision, computes both, and lets one through by a binary
gate; the gradient of the gates stands for that of the probabilities (section 3.2, equation 4), and
the two alphas are rescaled so that the probabilities of the others stay (section 3.2.1). Expected
latency, differentiable through the table, is added to the loss (section 3.3). With
``arch_update="reinforce"`` an architecture step draws one path instead, and its reward is the
accuracy on the batch less what its latency costs (section 3.3.2; with the moving baseline of the
published code).

Where we differ from the paper and its code:
    * What is returned is not each decision's best candidate but the architecture with the highest
      log-probability of all that hold the bounds, found exactly.
    * The paper's latency term goes on pushing below the bound; the default does not, see
      `search/latency_term.py`.
    * No block is a candidate like the others and gets its gradient (the code skips it); the common
      residual cancels in the difference of the two gates.
    * alpha starts at exactly 0, an even choice; Adam's rate is higher, for runs of few epochs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, Unpack, cast

import torch
from torch import Tensor, nn

from nasdeploy.errors import UnknownName
from nasdeploy.latency_tables.optimum import best_within
from nasdeploy.search.joint import Given, JointSearch, Phase
from nasdeploy.search.reinforce import Drawn, PathRewards, PolicyGradient, ReinforceSettings
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.strategy import Trial
from nasdeploy.search.supernet_training import finite, require

ARCH_UPDATES = ("gradient", "reinforce")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxylessSettings(ReinforceSettings):
    """
    Attributes:
        warmup_epochs: Weights only, paths drawn evenly; none with a trained supernet.
        search_epochs: A weight step and an architecture step for each batch of the two halves.
        arch_update: ``"gradient"``, by the binary gates, or ``"reinforce"``.
        arch_lr: Of Adam (betas 0 and 0.999) on alpha. The paper's 0.006 is for 150 epochs.
    """

    arch_update: Literal["gradient", "reinforce"] = "gradient"
    arch_lr: float = 0.02

    def __post_init__(self) -> None:
        super(ProxylessSettings, self).__post_init__()
        require("above 0", {"arch_lr": self.arch_lr}, lambda value: value > 0)
        if self.arch_update not in ARCH_UPDATES:
            raise UnknownName("arch_update", self.arch_update, ARCH_UPDATES)


class _Gated(torch.autograd.Function):
    """gates[0] * active + gates[1] * inactive at the gates (1, 0), and its gradient there."""

    @staticmethod
    def forward(ctx: Any, active: Tensor, inactive: Tensor, gates: Tensor) -> Tensor:
        ctx.save_for_backward(active, inactive)
        return active.view_as(active)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, Tensor]:
        active, inactive = ctx.saved_tensors
        gradient = upstream[0]
        gates = torch.stack([(gradient * active).sum(), (gradient * inactive).sum()])
        return gradient, None, gates


class BinaryGates:
    """A `Mixing` of two drawn candidates, one of them let through; only these two are computed.

    Attributes:
        alphas: (choices,) for each decision.
        pairs: The candidates that were drawn for each, the active one first.
    """

    def __init__(self, choices: Sequence[int], device: torch.device) -> None:
        self.alphas = [nn.Parameter(torch.zeros(size, device=device)) for size in choices]
        self.pairs: list[list[int]] = []
        self._gates: list[Tensor] = []

    def probabilities(self) -> list[Tensor]:
        return [alpha.softmax(0) for alpha in self.alphas]

    def sample(self, rng: Random) -> Arch:
        """One path, each decision drawn by its probabilities."""
        return tuple(_draw(p.tolist(), rng) for p in self.probabilities())

    def log_prob(self, archs: Sequence[Arch]) -> Drawn:
        """How likely `sample` draws these, differentiable in alpha."""
        chosen = torch.tensor(archs, device=self.alphas[0].device)
        logs = [alpha.log_softmax(0) for alpha in self.alphas]
        log_probs = torch.stack([log[chosen[:, index]] for index, log in enumerate(logs)]).sum(0)
        entropy = torch.stack([-(log.exp() * log).sum() for log in logs]).sum()
        return Drawn(chosen, log_probs, entropy.expand_as(log_probs))

    def draw(self, rng: Random) -> None:
        """Draw for each decision two candidates without replacement, the first of them active."""
        self.pairs, self._gates = [], []
        for alpha in self.alphas:
            weights = alpha.detach().softmax(0).tolist()
            pair = [_draw(weights, rng)]
            if len(weights) > 1:
                pair.append(_draw(weights, rng, without=pair[0]))
                chances = alpha.detach()[pair].softmax(0).tolist()
                if _draw(chances, rng) == 1:
                    pair.reverse()
            self.pairs.append(pair)
            self._gates.append(alpha.new_tensor([1.0, 0.0]).requires_grad_())

    def __call__(self, decision: int, candidates: Sequence[nn.Module], *inputs: Tensor) -> Tensor:
        pair = self.pairs[decision]
        active = cast(Tensor, candidates[pair[0]](*inputs))
        if len(pair) == 1:
            return active
        with torch.no_grad():
            inactive = candidates[pair[1]](*inputs)
        return cast(Tensor, _Gated.apply(active, inactive, self._gates[decision]))

    def gates_to_alphas(self) -> None:
        """Add to the gradients of alpha what the gates received, through the two's softmax.

        dL/dalpha_i = sum over the two j of dL/dg_j p_j (delta_ij - p_i); equation 4 with N = 2.
        """
        for alpha, pair, gates in zip(self.alphas, self.pairs, self._gates, strict=True):
            if gates.grad is None:
                continue
            if alpha.grad is None:
                alpha.grad = torch.zeros_like(alpha)
            p = alpha.detach()[pair].softmax(0)
            alpha.grad[pair] += p * (gates.grad - (p * gates.grad).sum())

    @torch.no_grad()
    def rescale(self, before: Sequence[Tensor]) -> None:
        """Shift the two alphas of each decision so that the sum of their exponentials stays."""
        for alpha, pair, old in zip(self.alphas, self.pairs, before, strict=True):
            alpha[pair] += old[pair].logsumexp(0) - alpha[pair].logsumexp(0)


class Proxyless(JointSearch[ProxylessSettings]):
    """A `Strategy`; a step is an epoch."""

    def __init__(
        self, space: SearchSpace, *, settings: ProxylessSettings, **given: Unpack[Given]
    ) -> None:
        super().__init__(space, settings, given)
        choices = [len(decision.choices) for decision in space.decisions]
        self.gates = BinaryGates(choices, self._trainer.device)
        self._optimizer = torch.optim.Adam(
            self.gates.alphas, lr=settings.arch_lr, betas=(0.0, 0.999)
        )
        self._rng = Random(self.seed)
        self._policy = PolicyGradient(
            draw=lambda: self.gates.sample(self._rng),
            log_prob=self.gates.log_prob,
            reward=PathRewards(self.supernet, self.task, self.latency),
            optimizer=self._optimizer,
            settings=settings,
            rate="arch_lr",
        )

    def _warm_up(self, epoch: int) -> list[float]:
        return [
            self._trainer.step(self.gates.sample(self._rng), x, y, epoch=epoch, number=number)
            for number, (x, y) in enumerate(self._trainer.batches("weights", epoch))
        ]

    def _search(self, epoch: int) -> list[float]:
        losses = []
        for number, ((x, y), (arch_x, arch_y)) in enumerate(self._halves(epoch)):
            arch = self.gates.sample(self._rng)
            losses.append(self._trainer.step(arch, x, y, epoch=epoch, number=number))
            if self.settings.arch_update == "reinforce":
                self._policy.step(arch_x, arch_y, epoch=epoch, number=number)
            else:
                self._gate_step(arch_x, arch_y, epoch, number)
        if self.settings.arch_update == "reinforce":
            self._policy.end_epoch(epoch)
        return losses

    def _gate_step(self, x: Tensor, y: Tensor, epoch: int, number: int) -> None:
        supernet = self.supernet
        self.gates.draw(self._rng)
        self._optimizer.zero_grad(set_to_none=True)
        # gradients of the weights would cost as much again and are not used
        supernet.requires_grad_(False)
        with supernet.mixed_by(self.gates):
            loss = self.task.loss(supernet(x), y)
        loss = self.latency.with_loss(loss, self.gates.probabilities())
        finite(loss, "architecture", epoch, number, "arch_lr", self.settings)
        loss.backward()  # type: ignore[no-untyped-call]
        supernet.requires_grad_(True)
        self.gates.gates_to_alphas()
        before = [alpha.detach().clone() for alpha in self.gates.alphas]
        self._optimizer.step()
        self.gates.rescale(before)
        # weights that are all but infinite may give a finite loss, and no finite gradient
        total = torch.stack([alpha.detach().sum() for alpha in self.gates.alphas]).sum()
        finite(total, "architecture", epoch, number, "weight_lr", self.settings)

    def _scored(self, epoch: int, phase: Phase) -> tuple[list[Trial], str]:
        trial = self._found_now(epoch, phase, self.gates.probabilities(), self._entropy)
        metric = self.task.metric
        return [trial], f"{metric} {trial.metrics.get(metric, math.nan):.3f}"

    @torch.no_grad()
    def _entropy(self, arch: Arch) -> dict[str, float]:
        """Mean over decisions, in nats."""
        logs = [alpha.log_softmax(0) for alpha in self.gates.alphas]
        entropies = [float(-(log.exp() * log).sum()) for log in logs]
        return {"entropy": sum(entropies) / len(entropies)}

    def candidates(self, n: int, *, exclude: frozenset[Arch] = frozenset()) -> list[Arch]:
        """The most probable architectures within every bound."""
        scores = [
            alpha.detach().double().log_softmax(0).cpu().numpy() for alpha in self.gates.alphas
        ]
        return best_within(scores, self.bounds.limits(), n=n, exclude=exclude)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "alphas": [alpha.detach() for alpha in self.gates.alphas],
            "optimizer": self._optimizer.state_dict(),
            "baseline": self._policy.baseline.value,
            "rng": self._rng.getstate(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        with torch.no_grad():
            for alpha, saved in zip(self.gates.alphas, state["alphas"], strict=True):
                alpha.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])
        self._policy.baseline.value = state["baseline"]
        self._rng.setstate(state["rng"])


def _draw(weights: Sequence[float], rng: Random, *, without: int | None = None) -> int:
    # a softmax that has all but converged leaves zeros behind; a second path is drawn all the same
    chances = [0.0 if i == without else max(w, 1e-12) for i, w in enumerate(weights)]
    return rng.choices(range(len(chances)), chances)[0]
