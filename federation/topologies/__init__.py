"""Topologies: who sends what to whom and when.

A topology turns what arrives into updates with age and weight and hands them to the method's
``merge``; a method never learns who sent them or when.
"""

from collections.abc import Callable

from federation.round import RoundConfig
from federation.topologies.synchronous import Synchronous
from federation.topologies.topology import Topology

TOPOLOGIES: dict[str, Callable[[RoundConfig], Topology]] = {"synchronous": Synchronous}
