"""Jobs of a second, and outcomes that nobody lived."""

from __future__ import annotations

from typing import Any

from evo.config import Config
from evo.instruments.jobs import Job, Outcome
from evo.settings import build

SMALL: dict[str, Any] = {
    "task": "digits", "seed": 3, "device": "cpu", "data.limit": 300, "training.steps": 90, "training.warmup": 5,
    "growth.cycles": 3, "network.hidden": [6], "network.density": 0.15, "tournament.rungs": [3, 5],
    "tournament.candidates": 2, "tournament.placebo_every": 0, "tournament.evidence_samples": 64,
}  # fmt: skip
"""What makes a life short enough for a test."""

WORDS = [word for key, value in SMALL.items() if "." in key for word in ("--set", f"{key}={value}")]
"""The same for the command line."""


def config(**more: Any) -> Config:
    return build(SMALL, more)


def job(label: str = "a", seed: int = 3, change: dict[str, Any] | None = None, **more: Any) -> Job:
    return Job.of(label, seed, config(), change, **more)


def outcome(**more: Any) -> Outcome:
    figures: dict[str, Any] = {
        "validation_information": 1.0, "validation_se": 0.01, "validation_accuracy": 0.5, "test_information": 1.0,
        "test_accuracy": 0.5, "active_parameters": 100, "active_weights": 90, "born_parameters": 50, "density": 0.04,
        "line_steps": 90, "work": 120, "tournaments": 3, "reason": "lived its whole life", "seconds": 1.0,
    }  # fmt: skip
    return Outcome(**{**figures, **more})
