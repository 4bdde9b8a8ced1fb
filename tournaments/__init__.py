"""Which growth is worth its parameters? Evidence, closed-form screening, paired trials, selection, and the economy."""

from tournaments.candidate import Candidate
from tournaments.economy import Ledger
from tournaments.evidence import Evidence, collect
from tournaments.findings import Findings
from tournaments.history import Firing, History
from tournaments.objective import losses, score
from tournaments.place import GramCache, PlaceStatistics, Residual, Spectrum, residual, spectrum
from tournaments.proposals import PROPOSERS, Proposer
from tournaments.screening import line_search, shortlist
from tournaments.selection import Choice, Contender, select
from tournaments.statistics import Audit, PairedGain, audit, paired_gains
from tournaments.tournament import ArmLosses, Decision, Rung, Verdict, hold
from tournaments.triggers import judge

__all__ = [
    "PROPOSERS",
    "ArmLosses",
    "Audit",
    "Candidate",
    "Choice",
    "Contender",
    "Decision",
    "Evidence",
    "Findings",
    "Firing",
    "GramCache",
    "History",
    "Ledger",
    "PairedGain",
    "PlaceStatistics",
    "Proposer",
    "Residual",
    "Rung",
    "Spectrum",
    "Verdict",
    "audit",
    "collect",
    "hold",
    "judge",
    "line_search",
    "losses",
    "paired_gains",
    "residual",
    "score",
    "select",
    "shortlist",
    "spectrum",
]
