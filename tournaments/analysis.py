"""An analysis: what one analyzer found out about a network, with units, standard errors and what it cost.

An analyzer is one function from `Findings` to an `Analysis`, listed in `analyzers.ANALYZERS`. It runs when a proposer,
a trigger or the record asks for it by `findings.analysis(analyzer)`, and not before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tournaments.outside import CURE, number, shown


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


def checked(said: str, found: object) -> Analysis:
    """What an analyzer from outside found, fit for the record. said: the setting and its name.

    Raises ValueError where it is no analysis, or a figure in it is none.
    """
    if not isinstance(found, Analysis):
        raise ValueError(
            f"{said}: expected a tournaments.analysis.Analysis, got {shown(found)}; return "
            "Analysis(name, measures, Cost(samples, operations), arrays)"
        )
    if not isinstance(found.analyzer, str) or not isinstance(found.measures, tuple | list):
        raise ValueError(
            f"{said}: expected its name and a tuple of Measure, got {shown(found.analyzer)} and "
            f"{shown(found.measures)}; return Analysis(name, (Measure(site, name, value, se, unit), ...), cost, arrays)"
        )
    cost, arrays = found.cost, found.arrays
    if not isinstance(cost, Cost) or not all(_figure(n) and n >= 0 for n in (cost.samples, cost.operations)):
        raise ValueError(
            f"{said}: expected a Cost of finite numbers, none below 0, got {shown(cost)}; "
            "write Cost(samples, operations)"
        )
    if not isinstance(arrays, Mapping) or not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError(f"{said}: expected arrays by name, got {shown(arrays)}; give NumPy arrays, or {{}} for none")
    measures = tuple(_checked_measure(said, measure) for measure in found.measures)
    return dataclasses.replace(found, measures=measures)


def _checked_measure(said: str, measure: object) -> Measure:
    if not isinstance(measure, Measure):
        raise ValueError(
            f"{said}: expected each measure to be a Measure, got {shown(measure)}; "
            "write Measure(site, name, value, se, unit)"
        )
    words = (measure.site, measure.name, measure.unit)
    if not all(isinstance(word, str) for word in words):
        raise ValueError(f"{said}: expected site, name and unit as text, got {shown(words)}; write '' for no site")
    value, se = measure.value, measure.se
    if not _figure(value) or not _figure(se) or se < 0:
        raise ValueError(
            f"{said}: expected {measure.name} of {measure.site or 'the network'} to be finite numbers, the standard "
            f"error not below 0, got {shown(value)} and {shown(se)}; leave out what is not known, or {CURE}"
        )
    return dataclasses.replace(measure, value=float(value), se=float(se))


def _figure(value: object) -> bool:
    return number(value) and math.isfinite(value)
