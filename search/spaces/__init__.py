"""The spaces by the names the command line takes. Add one: write it, list it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from nasdeploy.errors import UnknownName, UsageError
from nasdeploy.search.space import SearchSpace
from nasdeploy.search.spaces.darts import DartsSpace
from nasdeploy.search.spaces.enas import EnasMacroSpace, EnasMicroSpace
from nasdeploy.search.spaces.mobile import MobileSpace
from nasdeploy.search.spaces.mobile_elastic import ElasticMobileSpace
from nasdeploy.search.spaces.nasbench201 import NasBench201Space
from nasdeploy.search.spaces.pnas import PnasSpace

SPACES: dict[str, Callable[..., SearchSpace]] = {
    "darts": DartsSpace,
    "enas-macro": EnasMacroSpace,
    "enas-micro": EnasMicroSpace,
    "mobile": partial(MobileSpace, "mobile"),
    "mobile-elastic": ElasticMobileSpace,
    "mobile-small": partial(MobileSpace, "mobile-small"),
    "nasbench201": NasBench201Space,
    "pnas": PnasSpace,
}


def make_space(name: str | Mapping[str, Any], **parameters: Any) -> SearchSpace:
    """The space of a name, or of the `config` that a space gave; parameters override it.

    Raises: `UnknownName` for a space or a parameter that there is not, `UsageError` for a
        parameter that makes no network.
    """
    config = {"name": name} if isinstance(name, str) else dict(name)
    if "name" not in config:
        raise UsageError(f"A space's configuration needs a name; known: {', '.join(SPACES)}.")
    config.update(parameters)
    chosen = str(config.pop("name"))
    if chosen not in SPACES:
        raise UnknownName("space", chosen, SPACES)
    return SPACES[chosen](**config)
