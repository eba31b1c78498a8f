"""DARTS: train the mixture of all candidates, and by gradients what it is a mixture of.

Liu, Simonyan, Yang (ICLR 2019, arXiv:1806.09055). The output of a decision is that of all its
candidates, weighed by the softmax of its alpha (section 2.2; `search/relaxation.py`). The alphas
descend the loss on images that the weights never see (section 2.3, equation 3), where the weights
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

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nasdeploy.latency_tables.optimum import check_limits
from nasdeploy.search.data import SearchData
from nasdeploy.search.evaluators.supernet import SupernetEvaluator
from nasdeploy.search.latency_term import JointSettings, LatencyTerm
from nasdeploy.search.objective import Bounds
from nasdeploy.search.relaxation import Relaxation, keep_affine_fixed
from nasdeploy.search.space import Arch, Deployment, SearchSpace
from nasdeploy.search.strategy import Request, Trial
from nasdeploy.search.supernet_training import SupernetTrainer, finite, require
from nasdeploy.search.task import Task
from nasdeploy.seeds import derived_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class DartsSettings(JointSettings):
    """
    Attributes:
        weight_lr, weight_decay: As published, with plain momentum.
        grad_clip: Greatest norm of the weights' gradient.
        warmup_epochs: Weights only, at even mixtures; none with a trained supernet.
        search_epochs: A step of the alphas and one of the weights for each batch of the two halves.
        arch_lr, arch_weight_decay: Of Adam (betas 0.5 and 0.999) on the alphas. The paper's rate of
            3e-4 is for 50 epochs.
    """

    weight_lr: float = 0.025
    weight_decay: float = 3e-4
    grad_clip: float = 5.0
    warmup_epochs: int = 0
    arch_lr: float = 3e-3
    arch_weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        super(DartsSettings, self).__post_init__()
        positive = {"arch_lr": self.arch_lr, "grad_clip": self.grad_clip}
        require("above 0", positive, lambda value: value > 0)
        decay = {"arch_weight_decay": self.arch_weight_decay}
        require("at least 0", decay, lambda value: value >= 0)


class Darts:
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
        settings: DartsSettings,
        supernet_weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        check_limits(bounds.limits())
        self.bounds, self.task = bounds, task
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
        )
        self.supernet = self._trainer.supernet
        keep_affine_fixed(self.supernet)
        self._weights = [p for p in self.supernet.parameters() if p.requires_grad]
        self._evaluator = SupernetEvaluator(self.supernet, task=task, data=data, settings=settings)
        self.relaxation = Relaxation(
            self.supernet,
            space.decisions,
            generator=torch.Generator().manual_seed(derived_seed(seed, "alphas")),
            device=self._trainer.device,
        )
        self._optimizer = torch.optim.Adam(
            self.relaxation.parameters(),
            lr=settings.arch_lr,
            betas=(0.5, 0.999),
            weight_decay=settings.arch_weight_decay,
        )
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
        with self.supernet.mixed_by(self.relaxation):
            losses = self._warm_up(epoch) if phase == "warmup" else self._search(epoch)
        self._epoch += 1
        trial = self._current(epoch, phase)
        loss = sum(losses) / max(len(losses), 1)
        scored = f"{self.task.metric} {trial.metrics.get(self.task.metric, math.nan):.3f}"
        self._progress = f"{phase} {self._epoch}/{self._trainer.epochs}: loss {loss:.3f}, {scored}"
        return [trial]

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
        for number, (batch, arch_batch) in enumerate(halves):
            self._arch_step(arch_batch, epoch, number)
            losses.append(self._weight_step(*batch, epoch, number))
        return losses

    def _weight_step(self, x: Tensor, y: Tensor, epoch: int, number: int) -> float:
        with self.relaxation.frozen():
            return self._trainer.update(
                x, y, epoch=epoch, number=number, clip=self.settings.grad_clip
            )

    def _arch_step(self, batch: tuple[Tensor, Tensor], epoch: int, number: int) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        # gradients of the weights would cost as much again and are not used
        for weight in self._weights:
            weight.requires_grad_(False)
        loss = self._arch_loss(*batch)
        finite(loss, "architecture", epoch, number, "arch_lr", self.settings)
        loss.backward()  # type: ignore[no-untyped-call]
        for weight in self._weights:
            weight.requires_grad_(True)
        self._optimizer.step()
        # weights that are all but infinite may give a finite loss, and no finite gradient
        total = torch.stack([p.detach().sum() for p in self.relaxation.parameters()]).sum()
        finite(total, "architecture", epoch, number, "weight_lr", self.settings)

    def _arch_loss(self, x: Tensor, y: Tensor) -> Tensor:
        loss = self.task.loss(self.supernet(x), y)
        return self._latency.with_loss(loss, self.relaxation.probabilities())

    def _current(self, epoch: int, phase: str) -> Trial:
        best = self.candidates(1)
        if not best:
            check_limits(self.bounds.limits())
        arch = best[0]
        ((_, scored),) = self._evaluator([Request(epoch, arch, self.seed)])
        if isinstance(scored, str):
            return Trial(epoch, arch, failure=scored, phase=phase)
        metrics = {
            **scored,
            **self.bounds.known(arch),
            **self._latency.expected(self.relaxation.probabilities()),
        }
        return Trial(epoch, arch, metrics, phase=phase)

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
        self._progress = state["progress"]
