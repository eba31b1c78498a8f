"""The spaces by the names the command line takes. Add one: write it, list it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from nasdeploy.errors import UnknownName, UsageError
from nasdeploy.search.space import SearchSpace
from nasdeploy.search.spaces import custom
from nasdeploy.search.spaces.darts import DartsSpace
from nasdeploy.search.spaces.enas import EnasMacroSpace, EnasMicroSpace
from nasdeploy.search.spaces.mobile import MobileSpace
from nasdeploy.search.spaces.mobile_elastic import ElasticMobileSpace
from nasdeploy.search.spaces.nasbench201 import NasBench201Space
from nasdeploy.search.spaces.pnas import PnasSpace
from nasdeploy.search.spaces.python_class import is_class, load_class

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

    A name may also be that of a class, ``module:Class``.

    Raises: `UnknownName` for a space or a parameter that there is not, `UsageError` for a
        parameter that makes no network.
    """
    config = {"name": name} if isinstance(name, str) else dict(name)
    if "name" not in config:
        raise UsageError(f"A space's configuration needs a name; known: {', '.join(SPACES)}.")
    config.update(parameters)
    if config.get("kind") == custom.KIND:
        return _custom(config)
    chosen = str(config.pop("name"))
    if is_class(chosen):
        return load_class(chosen, config)
    if chosen not in SPACES:
        raise UnknownName("space", chosen, SPACES)
    return SPACES[chosen](**config)


def _custom(config: dict[str, Any]) -> SearchSpace:
    """A space that is written as data."""
    fields = {name: value for name, value in config.items() if name != "kind"}
    known = ("name", "input_shape", "classes", "stages")
    for name in fields:
        if name not in known:
            raise custom.Misfit((name,), str(UnknownName("field of a space", name, known)))
    for name in known:
        if name not in fields:
            raise custom.Misfit((), f"the field {name} is missing.")
    return custom.CustomSpace(**fields)
