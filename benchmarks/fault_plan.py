"""Which fault strikes which run where: spread evenly over points, passings and kinds of run, by a fixed key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fault_forks import ERRORS, OPERATION, Fault

from search_spaces.randomness import keyed

SEEDS = (7, 11, 13)
SHARES = {
    "SIGKILL": 88, "disk full": 20, "I/O error": 20, "permission denied": 12, "KeyboardInterrupt": 10, "SIGTERM": 10,
}  # fmt: skip
IN_PROCESS = sum(SHARES.values())

Traces = Mapping[tuple[str, int], Sequence[str]]
"""What each (kind of run, seed) passes."""


@dataclass(frozen=True)
class Strike:
    """Fault number `number` of the table, which strikes a run of this kind and seed."""

    number: int
    life: str
    seed: int
    fault: Fault


def strikes(traces: Traces) -> list[Strike]:
    """All in-process faults, in order. Points take turns; of a point's kinds of run too; passings are drawn by key."""
    passed: dict[str, dict[tuple[str, int], list[bool]]] = defaultdict(lambda: defaultdict(list))
    for run, names in traces.items():
        for i, name in enumerate(names):
            if name != OPERATION:
                # Whether a durable operation follows, which could fail.
                passed[name][run].append(OPERATION in names[i:])
    points = sorted(passed)
    modes = [mode for mode, share in SHARES.items() for _ in range(share)]
    order = keyed("faults", "modes").permutation(len(modes))
    found = []
    for number in range(IN_PROCESS):
        point, mode = points[number % len(points)], modes[order[number]]
        if mode in ERRORS and not any(any(later) for later in passed[point].values()):
            mode = "SIGKILL"  # nothing is written after this point
        lives = sorted({life for life, _ in passed[point]})
        life = lives[number // len(points) % len(lives)]
        seeds = [seed for seed in SEEDS if (life, seed) in passed[point]]
        draw = keyed("faults", number)
        seed = seeds[int(draw.integers(len(seeds)))]
        later = passed[point][life, seed]
        choices = [k for k, writes in enumerate(later, 1) if writes or mode not in ERRORS]
        if not choices:
            mode, choices = "SIGKILL", list(range(1, len(later) + 1))
        found.append(Strike(number, life, seed, Fault(mode, point, choices[int(draw.integers(len(choices)))])))
    return found
