"""Measure a space on a device: every operator, and a few whole networks, into a table.

Files first, rounds after: on this machine nothing else of ours runs while it measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.device_agent.job import Graph
from nasdeploy.device_agent.measure import MeasureConfig, measure
from nasdeploy.device_agent.session import Session
from nasdeploy.device_agent.statistics import Statistics
from nasdeploy.durable import Journal
from nasdeploy.errors import UsageError
from nasdeploy.export.cache import CachedFile, ExportJob, export_many
from nasdeploy.export.quantise import empty_job, sentinel_job
from nasdeploy.latency_tables.estimate import estimator_for
from nasdeploy.latency_tables.table import Anchor, LatencyTable, Row, write_table
from nasdeploy.pipeline.anchors import spread_archs
from nasdeploy.pipeline.run_folder import now
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.search.space import Arch, SearchSpace, make_network

SENTINEL, EMPTY = "sentinel", "empty"


def network_id(arch: Arch) -> str:
    """What a whole network is called among the graphs of a session."""
    return "network:" + ".".join(map(str, arch))
