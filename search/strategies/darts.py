"""DARTS: train the mixture of all candidates, and by gradients what it is a mixture of.

Liu, Simonyan, Yang (ICLR 2019, arXiv:1806.09055). The output of a decision is that of all its
candidates, weighed by the softmax of its alpha (section 2.2; `search/relaxation.py`). The alphas
descend the loss on images that the weights never see (equations 3 and 4), where the weights
are those of the moment (``order`` 1) or, better and three times as dear, those after a step of
their own (``order`` 2, equations 5 to 8; `search/bilevel.py`). In the end the strongest two edges
into each node are kept, each with its strongest operator (section 2.4).

Where we differ from the paper and its code:
    * Latency is a part of what the alphas descend, and what is returned is the architecture with
      the highest weights of all that hold the bounds, found exactly; without bounds it is theirs.
    * Candidates are the operators that ship, so that a path has the outputs of the stand-alone
      network: no batch norm behind pools. In cells the candidates' batch norm keeps scale 1 and
      shift 0 while it is searched (their ``affine=False``), lest it undo what the alphas say.
    * The architecture's steps leave the running statistics of batch norm alone.
    * Adam's rate on the alphas is higher, for runs of few epochs. The weights' rate falls to zero
      along half a cosine, and weight decay is for convolutions and linear layers only.
    * Any space whose candidates have the same shape will do: choices that are not edges of a cell
      are mixed and chosen in the same way.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from nasdeploy.latency_tables.optimum import check_limits
from nasdeploy.search.bilevel import InnerStep, unrolled_gradients
from nasdeploy.search.collapse import Signs, SkipCounter, relative_entropy
from nasdeploy.search.data import SearchData
from nasdeploy.search.evaluators.supernet import SupernetEvaluator
from nasdeploy.search.expectation import expected_cost
from nasdeploy.search.latency_term import JointSettings, LatencyTerm
from nasdeploy.search.objective import Bounds
from nasdeploy.search.relaxation import Relaxation, keep_affine_fixed
from nasdeploy.search.sanity import SanityCheck
from nasdeploy.search.space import Arch, Deployment, SearchSpace
from nasdeploy.search.strategy import Request, Trial
from nasdeploy.search.supernet import statistics_kept
from nasdeploy.search.supernet_training import SupernetTrainer, finite, require
from nasdeploy.search.task import Task, evaluate
from nasdeploy.seeds import derived_seed

_log = logging.getLogger(__name__)
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class DartsSettings(JointSettings):
    """
    Attributes:
        weight_lr, weight_decay: As published, with plain momentum.
        grad_clip: Greatest norm of the weights' gradient.
        warmup_epochs: Weights only, at even mixtures; none with a trained supernet.
        search_epochs: A step of the alphas and one of the weights for each batch of the two halves.
        order: 1 takes the weights as they are, 2 looks a step of theirs ahead.
        arch_lr, arch_weight_decay: Of Adam (betas 0.5 and 0.999) on the alphas. The paper's rate of
            3e-4 is for 50 epochs of 390 steps.
        max_skip_share, max_gap: Beyond these a search has collapsed (`search/collapse.py`): the
            share of skips on the edges that can skip, and what the derived network loses of what
            counts against the mixture.
        gap_batches: Validation batches on which the two are compared.
        stop_on_collapse: End there, with the alphas of the last epoch that had not; else warn.
    """

    weight_lr: float = 0.025
    weight_decay: float = 3e-4
    grad_clip: float = 5.0
    warmup_epochs: int = 0
    order: int = 1
    arch_lr: float = 0.01
    arch_weight_decay: float = 1e-3
    max_skip_share: float = 0.5
    max_gap: float = 0.6
    gap_batches: int = 4
    stop_on_collapse: bool = False

    def __post_init__(self) -> None:
        super(DartsSettings, self).__post_init__()
        positive = {"arch_lr": self.arch_lr, "grad_clip": self.grad_clip}
        require("above 0", positive, lambda value: value > 0)
        decay = {"arch_weight_decay": self.arch_weight_decay}
        require("at least 0", decay, lambda value: value >= 0)
        require("1 or 2", {"order": self.order}, lambda value: value in (1, 2))
        require("at least 1", {"gap_batches": self.gap_batches}, lambda value: value >= 1)
        limits = {"max_skip_share": self.max_skip_share, "max_gap": self.max_gap}
        require("above 0 and at most 1", limits, lambda value: 0 < value <= 1)


class Darts:
    """A `Strategy`; a step is an epoch.

    Args:
        partial, edge_weights: Those of PC-DARTS.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        task: Task,
        train_deployment: Deployment,
        data: SearchData,
        bounds: Bounds,
        seed: int,
        settings: DartsSettings,
        supernet_weights: Mapping[str, Tensor] | None = None,
        partial: int = 1,
        edge_weights: bool = False,
    ) -> None:
        check_limits(bounds.limits())
        self.bounds, self.task, self.data = bounds, task, data
        self.seed, self.settings = seed, settings
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
            nesterov=False,
            partial=partial,
        )
        self.supernet = self._trainer.supernet
        keep_affine_fixed(self.supernet)
        self._weights = [p for p in self.supernet.parameters() if p.requires_grad]
        self._skips = SkipCounter(self.supernet)
        self._evaluator = SupernetEvaluator(self.supernet, task=task, data=data, settings=settings)
        generator = torch.Generator().manual_seed(derived_seed(seed, "alphas"))
        self.relaxation = Relaxation(
            self.supernet, space.decisions, generator=generator, device=self._trainer.device,
            edge_weights=edge_weights,
        )  # fmt: skip
        self._optimizer = torch.optim.Adam(
            self.relaxation.parameters(),
            lr=settings.arch_lr,
            betas=(0.5, 0.999),
            weight_decay=settings.arch_weight_decay,
        )
        self._sanity = SanityCheck(
            space, self._evaluator, task=task, deployment=train_deployment, data=data,
            bounds=bounds, seed=seed, settings=settings,
        )  # fmt: skip
        self._epoch = 0
        self._stopped = False
        self._healthy: list[Tensor] | None = None
        self._progress = "not started"

    @property
    def finished(self) -> bool:
        return self._stopped or self._epoch >= self._trainer.epochs

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
        with self.supernet.mixed_by(self.relaxation):
            losses = self._warm_up(epoch) if phase == "warmup" else self._search(epoch)
        self._epoch += 1
        trial, complaints = self._current(epoch, phase)
        loss = sum(losses) / max(len(losses), 1)
        scored = f"{self.task.metric} {trial.metrics.get(self.task.metric, math.nan):.3f}"
        self._progress = f"{phase} {self._epoch}/{self._trainer.epochs}: loss {loss:.3f}, {scored}"
        if phase == "search":
            self._guard(complaints)
        if not self.finished:
            return [trial]
        trials, found = self._sanity.at_the_end([trial])
        self._progress += found
        return trials

    def _guard(self, complaints: list[str]) -> None:
        """Warn of a collapse, and end the search before it where that is asked for."""
        parameters = self.relaxation.parameters()
        if not complaints:
            self._healthy = [parameter.detach().clone() for parameter in parameters]
            return
        self._progress += f"; collapsing: {', '.join(complaints)}"
        if not self.settings.stop_on_collapse:
            _log.warning("%s. See stop_on_collapse.", self._progress)
            return
        self._stopped = True
        self._progress += "; stopped"
        _log.warning("%s, with the alphas of the last epoch before it.", self._progress)
        if self._healthy is not None:
            with torch.no_grad():
                for parameter, saved in zip(parameters, self._healthy, strict=True):
                    parameter.copy_(saved)

    def _warm_up(self, epoch: int) -> list[float]:
        return [
            self._weight_step(x, y, epoch, number)
            for number, (x, y) in enumerate(self._trainer.batches("weights", epoch))
        ]

    def _search(self, epoch: int) -> list[float]:
        halves = zip(
            self._trainer.batches("weights", epoch),
            self._trainer.batches("arch", epoch),
            strict=False,
        )
        losses = []
        for number, ((x, y), valid) in enumerate(halves):
            self._arch_step((x, y), valid, epoch, number)
            losses.append(self._weight_step(x, y, epoch, number))
        return losses

    def _weight_step(self, x: Tensor, y: Tensor, epoch: int, number: int) -> float:
        with self.relaxation.frozen():
            return self._trainer.update(
                x, y, epoch=epoch, number=number, clip=self.settings.grad_clip
            )

    def _arch_step(self, train: Batch, valid: Batch, epoch: int, number: int) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        with statistics_kept(self.supernet):
            loss = self._descend(valid) if self.settings.order == 1 else self._look(train, valid)
        finite(loss, "architecture", epoch, number, "arch_lr", self.settings)
        self._optimizer.step()
        # weights that are all but infinite may give a finite loss, and no finite gradient
        total = torch.stack([p.detach().sum() for p in self.relaxation.parameters()]).sum()
        finite(total, "architecture", epoch, number, "weight_lr", self.settings)

    def _descend(self, valid: Batch) -> Tensor:
        """The loss, and its gradients left with the alphas, at the weights as they are."""
        # gradients of the weights would cost as much again and are not used
        for weight in self._weights:
            weight.requires_grad_(False)
        loss = self._arch_loss(*valid)
        loss.backward()  # type: ignore[no-untyped-call]
        for weight in self._weights:
            weight.requires_grad_(True)
        return loss

    def _look(self, train: Batch, valid: Batch) -> Tensor:
        """The loss, and its gradients left with the alphas, at the weights of a step ahead."""
        alphas = self.relaxation.parameters()
        loss, gradients = unrolled_gradients(
            alphas,
            self._weights,
            InnerStep.of(self._trainer.optimizer, self._weights),
            train_loss=lambda: self.task.loss(self.supernet(train[0]), train[1]),
            valid_loss=lambda: self._arch_loss(*valid),
        )
        for alpha, gradient in zip(alphas, gradients, strict=True):
            alpha.grad = gradient
        return loss

    def _arch_loss(self, x: Tensor, y: Tensor) -> Tensor:
        loss = self.task.loss(self.supernet(x), y)
        return self._latency.with_loss(loss, self.relaxation.probabilities())

    def _current(self, epoch: int, phase: str) -> tuple[Trial, list[str]]:
        """The architecture that the search would end with now, and what speaks of a collapse."""
        best = self.candidates(1)
        if not best:
            check_limits(self.bounds.limits())
        arch = best[0]
        ((_, scored),) = self._evaluator([Request(epoch, arch, self.seed)])
        if isinstance(scored, str):
            return Trial(epoch, arch, failure=scored, phase=phase), []
        estimated = self.bounds.estimator().calibrated
        with torch.no_grad():
            probabilities = self.relaxation.probabilities()
            expected = float(expected_cost(estimated, probabilities))
        entropy = relative_entropy(probabilities, self.relaxation.possible)
        signs = Signs(self._skips.share(arch), entropy, self._gap(arch))
        complaints = signs.complaints(
            max_skip_share=self.settings.max_skip_share, max_gap=self.settings.max_gap
        )
        metrics = {
            **scored,
            "latency_ms": estimated.of(arch),
            **{limit.name: limit.cost.of(arch) for limit in self.bounds.others},
            "expected_latency_ms": expected,
            "skip_share": signs.skip_share,
            "relative_entropy": signs.entropy,
            "gap": signs.gap,
            "collapsed": float(bool(complaints)),
        }
        return Trial(epoch, arch, metrics, phase=phase), complaints

    def _gap(self, arch: Arch) -> float:
        """What the derived network loses of what counts against the mixture."""
        images = list(islice(self.data.batches("valid", 0), self.settings.gap_batches))
        derived = evaluate(self._evaluator.network(arch), images, self.task)
        with self.supernet.mixed_by(self.relaxation):
            mixture = evaluate(self.supernet, images, self.task)
        return mixture[self.task.metric] - derived[self.task.metric]

    def candidates(self, n: int, *, exclude: frozenset[Arch] = frozenset()) -> list[Arch]:
        """The architectures with the highest weights within every bound."""
        return self.relaxation.best(self.bounds.limits(), n, exclude=exclude)

    def supernet_weights(self) -> dict[str, Tensor]:
        """The trained supernet, for another search of the same space and shape."""
        return self.supernet.state_dict()

    def state_dict(self) -> dict[str, Any]:
        return {
            "trainer": self._trainer.state_dict(),
            "relaxation": [parameter.detach() for parameter in self.relaxation.parameters()],
            "optimizer": self._optimizer.state_dict(),
            "epoch": self._epoch,
            "warmup_epochs": self._warmup_epochs,
            "stopped": self._stopped,
            "healthy": self._healthy,
            "progress": self._progress,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._trainer.load_state_dict(state["trainer"])
        with torch.no_grad():
            for parameter, saved in zip(
                self.relaxation.parameters(), state["relaxation"], strict=True
            ):
                parameter.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])
        self._epoch = state["epoch"]
        # a search that was handed a trained supernet resumes without being handed it again
        self._warmup_epochs = state["warmup_epochs"]
        self._trainer.epochs = self._warmup_epochs + self.settings.search_epochs
        self._stopped, self._healthy = state["stopped"], state["healthy"]
        self._progress = state["progress"]
