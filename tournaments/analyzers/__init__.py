"""Analyzers: what is found out about a network when somebody asks, each one function from findings to an analysis."""

from collections.abc import Callable

from tournaments.analysis import Analysis
from tournaments.analyzers.extrema import extrema
from tournaments.analyzers.flow import flow
from tournaments.analyzers.gradients import gradients
from tournaments.analyzers.graph import graph
from tournaments.analyzers.homology import homology
from tournaments.findings import Findings

Analyzer = Callable[[Findings], Analysis]

ANALYZERS: dict[str, Analyzer] = {
    "extrema": extrema,
    "flow": flow,
    "gradients": gradients,
    "graph": graph,
    "homology": homology,
}

__all__ = ["ANALYZERS", "Analyzer"]
