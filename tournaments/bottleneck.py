"""Growth where the information-flow analyzer sees most information about the target disappear, and nowhere else."""

from __future__ import annotations

import dataclasses

from tournaments.analyzers.flow import bottleneck as narrowest
from tournaments.analyzers.flow import flow
from tournaments.candidate import Candidate
from tournaments.channels import channels_at
from tournaments.findings import Findings
from tournaments.growing import insert_between, widen_at


def bottleneck(findings: Findings) -> list[Candidate]:
    """A new layer before the layer at which most information is lost, and new units in it; none where none is lost.

    The new layer reads the earlier layer that tells most about the target, whether or not a link joins the two.
    """
    layer = narrowest(findings) if findings.grow else None
    if layer is None:
        return []
    place, found = findings.places[layer], findings.analysis(flow)
    candidates: list[Candidate] = []
    if "Widen" in place.grows:
        candidates += widen_at(findings, layer) if place.positions == 1 else channels_at(findings, layer)
    if "Insert" in place.grows:
        source = max(place.sources, key=lambda name: found.value(name, "information"))
        candidates += insert_between(findings, source, layer)
    lost = f"{found.value(layer, 'drop'):.3g} nats are lost at {layer}"
    return [dataclasses.replace(c, proposer="bottleneck", reason=f"{lost}; {c.reason}") for c in candidates]
