"""An analysis: what one analyzer found out about a network, with units, standard errors and what it cost.

An analyzer is one function from `Findings` to an `Analysis`, listed in `analyzers.ANALYZERS`. It runs when a proposer,
a trigger or the record asks for it by `findings.analysis(analyzer)`, and not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Measure:
    """One figure. site: a layer, a link, or "" for the whole network. name: what, as `dead_share`.

    se: standard error in the same unit; 0 where the figure is exact, as a count of edges is. unit: `nats`, `share`,
    `edges`, `1` for a pure number.
    """

    site: str
    name: str
    value: float
    se: float
    unit: str


def share_error(share: NDArray[np.float64] | float, count: int) -> NDArray[np.float64]:
    """Binomial standard error of a share of so many, with half a one added at either side, so that none is certain."""
    eased = (np.asarray(share) * count + 0.5) / (count + 1)
    return np.asarray(np.sqrt(eased * (1 - eased) / count))


@dataclass(frozen=True)
class Cost:
    """What an analysis took. samples: rows it looked at. operations: multiply-adds or comparisons, to within a factor
    of two, from a formula that the analyzer states; never a clock, so that events stay equal from run to run.
    """

    samples: int
    operations: float


@dataclass(frozen=True, eq=False)
class Analysis:
    """measures: what is recorded. arrays: what proposers read, by "LAYER", "LAYER.name", or "name" where the
    rows are layers; shapes in the analyzer.
    """

    analyzer: str
    measures: tuple[Measure, ...]
    cost: Cost
    arrays: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def value(self, site: str, name: str) -> float:
        """The figure `name` of `site`. Raises KeyError where there is none."""
        for measure in self.measures:
            if (measure.site, measure.name) == (site, name):
                return measure.value
        raise KeyError(f"{self.analyzer} has no {name!r} of {site!r}")
