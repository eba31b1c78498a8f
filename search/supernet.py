"""All architectures of a space in one network that shares their weights.

A supernet holds every candidate of every decision; how they are combined is the strategy's: one
path (SPOS, arXiv:1904.00420), binary gates (ProxylessNAS), softmax weights (DARTS). Its weights are
an artifact of their own, since names say where they belong: ``stage1_block2.candidates.3.project``
in the supernet is ``stage1_block2.project`` in a network that takes choice 3 there.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from nasdeploy.errors import UsageError
from nasdeploy.search.meta import without_values
from nasdeploy.search.space import Arch

_CANDIDATE = re.compile(r"\.candidates\.\d+")


class Mixing(Protocol):
    """How the candidates of one decision become one output."""

    def __call__(self, decision: int, candidates: Sequence[nn.Module], *inputs: Tensor) -> Tensor:
        """The output of `decision` (its index in the space) on `inputs`."""
        ...


class SinglePath:
    """One candidate per decision; only that one is computed."""

    def __init__(self, arch: Arch) -> None:
        self.arch = arch

    def __call__(self, decision: int, candidates: Sequence[nn.Module], *inputs: Tensor) -> Tensor:
        return cast(Tensor, candidates[self.arch[decision]](*inputs))

    def only(self, decision: int) -> int:
        """The one choice that `decision` takes; a mixing of several has no such method."""
        return self.arch[decision]


class Mixed(nn.Module):
    """A part of a supernet whose output depends on its mixing."""

    def __init__(self, mixing: Mixing) -> None:
        super().__init__()
        self.mixing = mixing

    def only(self, decision: int) -> int | None:
        """The choice of `decision` if the mixing takes one path, else None."""
        only = getattr(self.mixing, "only", None)
        return None if only is None else int(only(decision))


class Choice(Mixed):
    """One decision: its candidates, combined by the supernet's mixing."""

    def __init__(self, decision: int, candidates: Iterable[nn.Module], mixing: Mixing) -> None:
        super().__init__(mixing)
        self.decision = decision
        self.candidates = nn.ModuleList(candidates)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.mixing(self.decision, cast(Sequence[nn.Module], self.candidates), *inputs)


class Supernet(nn.Module):
    """A network with a `Choice` for each decision.

    Args:
        body: Named as the stand-alone networks are, with a `Choice` where they have the chosen
            module.
        build: The stand-alone network of an architecture, at the same shape.
        partial: Candidates take one channel in so many (`search.wired.PartialChoice`), and have the
            weights for those only.
    """

    def __init__(
        self, body: nn.Module, build: Callable[[Arch], nn.Module], *, partial: int = 1
    ) -> None:
        super().__init__()
        self.partial = partial
        self.body = body
        self._build = build
        self._mixed = [module for module in body.modules() if isinstance(module, Mixed)]
        # a module that stands at two places has its names at both
        named = body.named_modules(remove_duplicate=False)
        self._choices = {name: module for name, module in named if isinstance(module, Choice)}

    def forward(self, *inputs: Tensor) -> Tensor:
        return cast(Tensor, self.body(*inputs))

    @contextmanager
    def mixed_by(self, mixing: Mixing) -> Iterator[None]:
        """Combine candidates by `mixing` for a while."""
        before = [part.mixing for part in self._mixed]
        for part in self._mixed:
            part.mixing = mixing
        try:
            yield
        finally:
            for part, former in zip(self._mixed, before, strict=True):
                part.mixing = former

    def weights_of(self, arch: Arch) -> dict[str, Tensor]:
        """The weights that `arch` chooses, under the names that its network has; not copied.

        Those of edges that a topology decision leaves out are among them.
        """
        weights: dict[str, Tensor] = {}
        for name, value in self.body.state_dict().items():
            kept = self._name_in(arch, name)
            if kept is not None:
                weights[kept] = value
        return weights

    def _name_in(self, arch: Arch, name: str) -> str | None:
        for path, choice in self._choices.items():
            prefix = f"{path}.candidates."
            if name.startswith(prefix):
                candidate = name.removeprefix(prefix).partition(".")[0]
                if int(candidate) != arch[choice.decision]:
                    return None
        return _CANDIDATE.sub("", name)

    def extract(self, arch: Arch) -> nn.Module:
        """The stand-alone network of `arch` with a copy of the weights on its path.

        It computes what this supernet computes on that path; nothing random is drawn.

        Raises: `UsageError` if candidates take a part of the channels: their weights fit no
            network with all of them.
        """
        if self.partial > 1:
            raise UsageError(
                f"Candidates of this supernet take one channel in {self.partial}: their weights "
                "fit no stand-alone network. Train it from its own first weights."
            )
        with without_values():
            network = self._build(arch)
        # edges that end in no node are in the supernet and not in the network
        own, path = network.state_dict(), self.weights_of(arch)
        weights = {name: path[name].detach().clone() for name in own}
        network.load_state_dict(weights, assign=True)
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        return network.train(self.training)

    def path(self, arch: Arch) -> nn.Module:
        """What this supernet computes on the path of `arch`, with a copy of the weights on it.

        That is the stand-alone network, but where candidates take a part of the channels: then it
        is this supernet without the candidates that were not chosen, and deploys nowhere.
        """
        if self.partial == 1:
            return self.extract(arch)
        only = SinglePath(arch)
        # what is not copied is not needed: other candidates, and whatever mixes them now
        spared: dict[int, Any] = {id(part.mixing): only for part in self._mixed}
        for choice in self._choices.values():
            for index, candidate in enumerate(choice.candidates):
                if index != arch[choice.decision]:
                    spared[id(candidate)] = nn.Identity()
        return copy.deepcopy(self.body, spared).train(self.training)


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Whatever is computed for a while, the buffers are then what they were."""
    buffers = list(model.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        if buffers:
            torch._foreach_copy_(buffers, before)


@torch.no_grad()
def recalibrate_batch_norm(
    model: nn.Module, batches: Iterable[tuple[Tensor, Any]], *, limit: int | None = None
) -> None:
    """Replace the running statistics of every batch norm by plain averages over some batches.

    A path of a supernet inherits statistics of all the paths that crossed it, with which it scores
    near chance (SPOS, arXiv:1904.00420, section 3.4).

    Args:
        batches: (images, anything); what stands second is not looked at.
        limit: At most so many batches.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: a cumulative average in place of a moving one
        norm.train()
    for index, (x, _) in enumerate(batches):
        if limit is not None and index >= limit:
            break
        model(x.to(device, memory_format=torch.channels_last))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)
