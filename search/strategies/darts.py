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
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar, Unpack

import torch
from torch import Tensor

from nasdeploy.search.bilevel import InnerStep, unrolled_gradients
from nasdeploy.search.collapse import Signs, SkipCounter, relative_entropy
from nasdeploy.search.joint import Batch, Given, JointSearch, JointSettings, Phase
from nasdeploy.search.relaxation import Relaxation, keep_affine_fixed
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.strategy import Trial
from nasdeploy.search.supernet import statistics_kept
from nasdeploy.search.supernet_training import finite, require
from nasdeploy.search.task import evaluate
from nasdeploy.seeds import derived_seed

_log = logging.getLogger(__name__)


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


D = TypeVar("D", bound=DartsSettings)


class Darts(JointSearch[D]):
    """A `Strategy`; a step is an epoch.

    Args:
        partial, edge_weights: Those of PC-DARTS.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        settings: D,
        partial: int = 1,
        edge_weights: bool = False,
        **given: Unpack[Given],
    ) -> None:
        super().__init__(space, settings, given, nesterov=False, partial=partial)
        keep_affine_fixed(self.supernet)
        self._weights = [p for p in self.supernet.parameters() if p.requires_grad]
        self._skips = SkipCounter(self.supernet)
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "alphas"))
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
        self._stopped = False
        self._healthy: list[Tensor] | None = None

    @property
    def finished(self) -> bool:
        return self._stopped or super().finished

    def _warm_up(self, epoch: int) -> list[float]:
        with self.supernet.mixed_by(self.relaxation):
            return [
                self._weight_step(x, y, epoch, number)
                for number, (x, y) in enumerate(self._trainer.batches("weights", epoch))
            ]

    def _search(self, epoch: int) -> list[float]:
        losses = []
        with self.supernet.mixed_by(self.relaxation):
            for number, ((x, y), valid) in enumerate(self._halves(epoch)):
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
        return self.latency.with_loss(loss, self.relaxation.probabilities())

    def _scored(self, epoch: int, phase: Phase) -> tuple[list[Trial], str]:
        """The architecture that the search would end with now, and whether it has collapsed."""
        with torch.no_grad():
            probabilities = self.relaxation.probabilities()
        entropy = relative_entropy(probabilities, self.relaxation.possible)
        complaints: list[str] = []

        def signs(arch: Arch) -> dict[str, float]:
            seen = Signs(self._skips.share(arch), entropy, self._gap(arch))
            limits = self.settings.max_skip_share, self.settings.max_gap
            complaints.extend(seen.complaints(max_skip_share=limits[0], max_gap=limits[1]))
            return {
                "skip_share": seen.skip_share,
                "relative_entropy": seen.entropy,
                "gap": seen.gap,
                "collapsed": float(bool(complaints)),
            }

        trial = self._found_now(epoch, phase, probabilities, signs)
        metric = self.task.metric
        said = f"{metric} {trial.metrics.get(metric, math.nan):.3f}"
        return [trial], said + (self._guard(complaints) if phase == "search" else "")

    def _guard(self, complaints: list[str]) -> str:
        """Warn of a collapse, and end the search before it where that is asked for."""
        parameters = self.relaxation.parameters()
        if not complaints:
            self._healthy = [parameter.detach().clone() for parameter in parameters]
            return ""
        text = f"collapsing: {', '.join(complaints)}"
        if not self.settings.stop_on_collapse:
            _log.warning("Epoch %d, %s. See stop_on_collapse.", self._epoch, text)
            return f"; {text}"
        self._stopped = True
        if self._healthy is None:
            _log.warning("Epoch %d, %s: stopped.", self._epoch, text)
        else:
            _log.warning(
                "Epoch %d, %s: stopped, with the alphas of the last epoch before it.",
                self._epoch, text,
            )  # fmt: skip
            with torch.no_grad():
                for parameter, saved in zip(parameters, self._healthy, strict=True):
                    parameter.copy_(saved)
        return f"; {text}; stopped"

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

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "relaxation": [parameter.detach() for parameter in self.relaxation.parameters()],
            "optimizer": self._optimizer.state_dict(),
            "stopped": self._stopped,
            "healthy": self._healthy,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        with torch.no_grad():
            for parameter, saved in zip(
                self.relaxation.parameters(), state["relaxation"], strict=True
            ):
                parameter.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])
        self._stopped, self._healthy = state["stopped"], state["healthy"]
