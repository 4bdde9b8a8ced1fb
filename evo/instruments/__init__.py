"""Instruments: questions about a task that many whole lives answer, each one command with a table and a picture."""

from evo.instruments.instrument import Bench, Request, Result, conduct

__all__ = ["Bench", "Request", "Result", "conduct"]
