"""What a simulated device is told before it is measured: the times of what it would be given.

Operators have the times of its table's rows. A network takes the sum of its operators, corrected
as the table's own anchors correct it; a file is that of the network that it was made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nasdeploy.device_agent.simulated import SimulatedDevice
from nasdeploy.pipeline.estimating import estimator_of
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.search.space import Arch, SearchSpace

if TYPE_CHECKING:
    from nasdeploy.latency_tables.table import LatencyTable

SENTINEL_MS = 0.5
EMPTY_MS = 0.005


def tell_probes(context: Context) -> None:
    """The two graphs that tell of the device rather than of a network."""
    from nasdeploy.pipeline.stages.files import EMPTY, SENTINEL

    if isinstance(context.device, SimulatedDevice):
        context.device.expect({SENTINEL: SENTINEL_MS, EMPTY: EMPTY_MS})


def tell_operators(context: Context) -> None:
    """Rows are what an operator takes inside a network; called by itself it costs a call more."""
    table = context.simulated_from
    if isinstance(context.device, SimulatedDevice) and table is not None:
        rows = table.values(table.default_statistic)
        context.device.expect({key: ms + EMPTY_MS for key, ms in rows.items()})


def tell_networks(context: Context, space: SearchSpace, archs: Mapping[str, Arch]) -> None:
    """Of networks by the name that they are measured under; nothing for a device that is one."""
    table = context.simulated_from
    if isinstance(context.device, SimulatedDevice) and table is not None:
        context.device.expect(_network_ms(space, table, archs))


def _network_ms(
    space: SearchSpace, table: LatencyTable, archs: Mapping[str, Arch]
) -> dict[str, float]:
    estimator = estimator_of(space, table, statistic=table.default_statistic)
    return {name: estimator(arch).ms for name, arch in archs.items()}
