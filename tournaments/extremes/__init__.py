"""Proposals driven by extrema: what to do about units that are dead, and units that are saturated."""

from tournaments.extremes.cloning import clone_vertical
from tournaments.extremes.highways import highway
from tournaments.extremes.patching import patch
from tournaments.extremes.reactivation import reactivate
from tournaments.extremes.routing import route
from tournaments.extremes.withdrawal import withdraw

__all__ = ["clone_vertical", "highway", "patch", "reactivate", "route", "withdraw"]
