"""Architecture search in a few calls: thin names over nasdeploy's strategies and stages.

    from nas import DARTSSearcher
    best = DARTSSearcher(dataset="cifar10", search_space="darts_space", epochs=50).search()

docs/nas.md has every argument. Nothing heavy is imported before a call needs it.
"""

from nas.architecture import Architecture
from nas.evaluator import ArchitectureEvaluator
from nas.searchers import (
    DARTSSearcher,
    ENASSearcher,
    PCDARTSSearcher,
    PNASSearcher,
    ProxylessNASSearcher,
)

__all__ = [
    "Architecture",
    "ArchitectureEvaluator",
    "DARTSSearcher",
    "ENASSearcher",
    "PCDARTSSearcher",
    "PNASSearcher",
    "ProxylessNASSearcher",
]
