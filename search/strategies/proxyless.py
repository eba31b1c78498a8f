"""ProxylessNAS: train a supernet and its architecture parameters together, two paths at a time.

Cai, Zhu, Han (ICLR 2019, arXiv:1812.00332). Each decision has parameters alpha whose softmax is the
probability of each candidate. A weight step draws one path and trains it (section 3.1). An
architecture step draws two candidates per decision, computes both, and lets one through by a binary
gate; the gradient of the gates stands for that of the probabilities (section 3.2, equation 4), and
the two alphas are rescaled so that the probabilities of the others stay (section 3.2.1). Expected
latency, differentiable through the table, is added to the loss (section 3.3).

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, cast

import torch
from torch import Tensor, nn

from nasdeploy.latency_tables.optimum import best_within, check_limits
from nasdeploy.search.data import SearchData
from nasdeploy.search.evaluators.supernet import SupernetEvaluator
from nasdeploy.search.expectation import expected_cost
from nasdeploy.search.latency_term import JointSettings, LatencyTerm
from nasdeploy.search.objective import Bounds
from nasdeploy.search.sanity import SanityCheck
from nasdeploy.search.space import Arch, Deployment, SearchSpace
from nasdeploy.search.strategy import Request, Trial
from nasdeploy.search.supernet_training import SupernetTrainer, finite, require
from nasdeploy.search.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxylessSettings(JointSettings):
    """
    Attributes:
        warmup_epochs: Weights only, paths drawn evenly; none with a trained supernet.
        search_epochs: A weight step and an architecture step for each batch of the two halves.
        arch_lr: Of Adam (betas 0 and 0.999) on alpha. The paper's 0.006 is for 150 epochs.
    """

    arch_lr: float = 0.02

    def __post_init__(self) -> None:
        super(ProxylessSettings, self).__post_init__()
        require("above 0", {"arch_lr": self.arch_lr}, lambda value: value > 0)


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


class Proxyless:
    """A `Strategy`; a step is an epoch."""

    def __init__(
        self,
        space: SearchSpace,
        *,
        task: Task,
        train_deployment: Deployment,
        data: SearchData,
        bounds: Bounds,
        seed: int,
        settings: ProxylessSettings,
        supernet_weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        check_limits(bounds.limits())
        self.bounds = bounds
        self.task = task
        self.seed = seed
        self.settings = settings
        self._latency = LatencyTerm(settings, bounds)
        self._warmup_epochs = 0 if supernet_weights is not None else settings.warmup_epochs
        self._trainer = SupernetTrainer(
            space,
            task=task,
            deployment=train_deployment,
            data=data,
            settings=settings,
            epochs=self._warmup_epochs + settings.search_epochs,
            seed=seed,
            weights=supernet_weights,
        )
        self._evaluator = SupernetEvaluator(
            self._trainer.supernet, task=task, data=data, settings=settings
        )
        self._sanity = SanityCheck(
            space,
            self._evaluator,
            task=task,
            deployment=train_deployment,
            data=data,
            bounds=bounds,
            seed=seed,
            settings=settings,
        )
        choices = [len(decision.choices) for decision in space.decisions]
        self.gates = BinaryGates(choices, self._trainer.device)
        self._optimizer = torch.optim.Adam(
            self.gates.alphas, lr=settings.arch_lr, betas=(0.0, 0.999)
        )
        self._rng = Random(seed)
        self._epoch = 0
        self._progress = "not started"

    @property
    def finished(self) -> bool:
        return self._epoch >= self._trainer.epochs

    @property
    def total_steps(self) -> int:
        return self._trainer.epochs

    @property
    def progress(self) -> str:
        return self._progress

    def step(self) -> list[Trial]:
        """One epoch; the trial is the architecture that the search would end with now."""
        if self.finished:
            return []
        epoch, phase = self._epoch, "warmup" if self._epoch < self._warmup_epochs else "search"
        self._trainer.start_epoch(epoch)
        losses = self._warm_up(epoch) if phase == "warmup" else self._search(epoch)
        self._epoch += 1
        trial = self._current(epoch, phase)
        loss = sum(losses) / max(len(losses), 1)
        scored = f"{self.task.metric} {trial.metrics.get(self.task.metric, math.nan):.3f}"
        self._progress = f"{phase} {self._epoch}/{self._trainer.epochs}: loss {loss:.3f}, {scored}"
        if not self.finished:
            return [trial]
        trials, found = self._sanity.at_the_end([trial])
        self._progress += found
        return trials

    def _warm_up(self, epoch: int) -> list[float]:
        return [
            self._trainer.step(self.gates.sample(self._rng), x, y, epoch=epoch, number=number)
            for number, (x, y) in enumerate(self._trainer.batches("weights", epoch))
        ]

    def _search(self, epoch: int) -> list[float]:
        halves = zip(
            self._trainer.batches("weights", epoch),
            self._trainer.batches("arch", epoch),
            strict=False,
        )
        losses = []
        for number, ((x, y), (arch_x, arch_y)) in enumerate(halves):
            arch = self.gates.sample(self._rng)
            losses.append(self._trainer.step(arch, x, y, epoch=epoch, number=number))
            self._arch_step(arch_x, arch_y, epoch, number)
        return losses

    def _arch_step(self, x: Tensor, y: Tensor, epoch: int, number: int) -> None:
        supernet = self._trainer.supernet
        self.gates.draw(self._rng)
        self._optimizer.zero_grad(set_to_none=True)
        # gradients of the weights would cost as much again and are not used
        supernet.requires_grad_(False)
        with supernet.mixed_by(self.gates):
            loss = self.task.loss(supernet(x), y)
        loss = self._latency.with_loss(loss, self.gates.probabilities())
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

    def _current(self, epoch: int, phase: str) -> Trial:
        best = self.candidates(1)
        if not best:
            check_limits(self.bounds.limits())
        arch = best[0]
        ((_, scored),) = self._evaluator([Request(epoch, arch, self.seed)])
        if isinstance(scored, str):
            return Trial(epoch, arch, failure=scored, phase=phase)
        estimated = self.bounds.estimator().calibrated
        with torch.no_grad():
            probabilities = self.gates.probabilities()
            logs = [alpha.log_softmax(0) for alpha in self.gates.alphas]
            entropies = [float(-(log.exp() * log).sum()) for log in logs]
            expected = float(expected_cost(estimated, probabilities))
        metrics = {
            **scored,
            "latency_ms": estimated.of(arch),
            **{limit.name: limit.cost.of(arch) for limit in self.bounds.others},
            "expected_latency_ms": expected,
            "entropy": sum(entropies) / len(entropies),
        }
        return Trial(epoch, arch, metrics, phase=phase)

    def candidates(self, n: int, *, exclude: frozenset[Arch] = frozenset()) -> list[Arch]:
        """The most probable architectures within every bound."""
        scores = [
            alpha.detach().double().log_softmax(0).cpu().numpy() for alpha in self.gates.alphas
        ]
        return best_within(scores, self.bounds.limits(), n=n, exclude=exclude)

    def supernet_weights(self) -> dict[str, Tensor]:
        """The trained supernet, for another search of the same space and shape."""
        return self._trainer.supernet.state_dict()

    def state_dict(self) -> dict[str, Any]:
        return {
            "trainer": self._trainer.state_dict(),
            "alphas": [alpha.detach() for alpha in self.gates.alphas],
            "optimizer": self._optimizer.state_dict(),
            "rng": self._rng.getstate(),
            "epoch": self._epoch,
            "warmup_epochs": self._warmup_epochs,
            "progress": self._progress,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._trainer.load_state_dict(state["trainer"])
        with torch.no_grad():
            for alpha, saved in zip(self.gates.alphas, state["alphas"], strict=True):
                alpha.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])
        self._rng.setstate(state["rng"])
        self._epoch = state["epoch"]
        # a search that was handed a trained supernet resumes without being handed it again
        self._warmup_epochs = state["warmup_epochs"]
        self._trainer.epochs = self._warmup_epochs + self.settings.search_epochs
        self._progress = state["progress"]


def _draw(weights: Sequence[float], rng: Random, *, without: int | None = None) -> int:
    # a softmax that has all but converged leaves zeros behind; a second path is drawn all the same
    chances = [0.0 if i == without else max(w, 1e-12) for i, w in enumerate(weights)]
    return rng.choices(range(len(chances)), chances)[0]
