"""The whole catalogue, in order: importing the modules of faults adds them to it."""

from faults import (
    of_calls,
    of_clocks,
    of_databases,
    of_disks,
    of_events,
    of_floods,
    of_groups,
    of_hosts,
    of_moves,
    of_networks,
    of_payouts,
    of_processes,
    of_recoveries,
    of_standbys,
    of_upgrades,
)
from faults.catalogue import FAULTS as _FAULTS

MODULES = (
    of_calls,
    of_clocks,
    of_databases,
    of_disks,
    of_events,
    of_floods,
    of_groups,
    of_hosts,
    of_moves,
    of_networks,
    of_payouts,
    of_processes,
    of_recoveries,
    of_standbys,
    of_upgrades,
)
FAULTS = {
    number: _FAULTS[number]
    for number in sorted(_FAULTS, key=lambda number: (int(number[1:].rstrip("b")), number))
}
