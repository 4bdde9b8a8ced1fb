"""The commands of the instruments: `evo ladder`, `rescue`, `seed`, `check` and `sweep`."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from evo.complaints import plainly
from evo.options import (
    Budget,
    ConfigFile,
    Data,
    Device,
    Epochs,
    Json,
    Name,
    OutSetting,
    Recipe,
    Seed,
    Set,
    Target,
    Task,
    settings,
)  # fmt: skip
from evo.output import print_json, quiet_stdout

if TYPE_CHECKING:
    from evo.instruments import Bench, Request, Result

Workers = Annotated[int | None, typer.Option(help="Networks side by side, on Ray; 0: one by one in this process.")]
Seeds = Annotated[int, typer.Option(help="Seeds, from --seed on, of everything that is compared.")]
Hidden = Annotated[str | None, typer.Option(help="Units layer by layer, as 300,100; '' for no hidden layer.")]
Margin = Annotated[float, typer.Option(help="Nats above chance, at 95% confidence.")]


@plainly
def ladder(
    task: Task = None, hidden: Hidden = None,
    densities: Annotated[str | None, typer.Option(help="As 1,.1,.01. Default: from 1 to .0005.")] = None,
    seeds: Seeds = 3, recipe: Recipe = None, config: ConfigFile = None, assign: Set = None, seed: Seed = None,
    out: OutSetting = None, name: Name = None, workers: Workers = None, budget: Budget = None, epochs: Epochs = None,
    device: Device = None, data: Data = None, target: Target = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Accuracy and information against density, without growth: where is the cliff?"""
    given = functools.partial(
        settings, config, assign, seed, out, name, workers, budget, epochs, device, data, target, task, recipe
    )
    asked = functools.partial(_settings, given, hidden)

    def begin() -> tuple[Request, Callable[[Request, Bench], Result]]:
        from evo.instruments import defaults
        from evo.instruments.ladder import ladder as measure

        options = {"densities": list(defaults.densities(densities))}
        return _request("ladder", asked(lambda usual: {}), options, seeds), measure

    _carry_out(begin, as_json)


@plainly
def rescue(
    task: Task = None, hidden: Hidden = None,
    density: Annotated[float | None, typer.Option(help="Of the seed, below the cliff. Default: by task.")] = None,
    max_density: Annotated[float | None, typer.Option(help="That growth may come to. Default: by task.")] = None,
    mechanisms: Annotated[str | None, typer.Option(help="Proposers to try alone, as a,b. Default: all.")] = None,
    seeds: Seeds = 5, recipe: Recipe = None, config: ConfigFile = None, assign: Set = None, seed: Seed = None,
    out: OutSetting = None, name: Name = None, workers: Workers = None, budget: Budget = None, epochs: Epochs = None,
    device: Device = None, data: Data = None, target: Target = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Start below the cliff, where plain training fails: which mechanisms grow a network that works?"""
    given = functools.partial(
        settings, config, assign, seed, out, name, workers, budget, epochs, device, data, target, task, recipe
    )
    asked = functools.partial(_settings, given, hidden)

    def begin() -> tuple[Request, Callable[[Request, Bench], Result]]:
        from evo.instruments import defaults
        from evo.instruments.rescue import adders
        from evo.instruments.rescue import rescue as measure
        from tournaments.proposals import PROPOSERS

        wanted = asked(lambda usual: {"network.density": usual.density, **usual.growing})
        if density is not None:
            wanted = {**wanted, "network": {**wanted["network"], "density": density}}
        most = defaults.usual(str(wanted["task"])).most if max_density is None else max_density
        alone = defaults.names(mechanisms, adders(list(PROPOSERS)), "--mechanisms")
        options = {"max_density": most, "mechanisms": list(alone)}
        return _request("rescue", wanted, options, seeds), measure

    _carry_out(begin, as_json)


@plainly
def seed_finder(
    task: Task = None, margin: Margin = 0.1, seeds: Seeds = 3, recipe: Recipe = None, config: ConfigFile = None,
    assign: Set = None, seed: Seed = None, out: OutSetting = None, name: Name = None, workers: Workers = None,
    budget: Budget = None, epochs: Epochs = None, device: Device = None, data: Data = None, target: Target = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Find the smallest, sparsest network that beats chance by a margin, to grow from."""
    wanted = settings(config, assign, seed, out, name, workers, budget, epochs, device, data, target, task, recipe)

    def begin() -> tuple[Request, Callable[[Request, Bench], Result]]:
        from evo.instruments.seed import seed as measure

        return _request("seed", wanted, {"margin": margin}, seeds), measure

    _carry_out(begin, as_json)


@plainly
def check(
    task: Task = None, hidden: Hidden = None, margin: Margin = 0.1, recipe: Recipe = None, config: ConfigFile = None,
    assign: Set = None, seed: Seed = None, out: OutSetting = None, name: Name = None, workers: Workers = None,
    budget: Budget = None, epochs: Epochs = None, device: Device = None, data: Data = None, target: Target = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Check an architecture before a long run: exit code 1 where something is wrong, with the cure."""
    given = functools.partial(
        settings, config, assign, seed, out, name, workers, budget, epochs, device, data, target, task, recipe
    )
    wanted = _settings(given, hidden, None)

    def begin() -> tuple[Request, Callable[[Request, Bench], Result]]:
        from evo.instruments.check import check as measure

        return _request("check", wanted, {"margin": margin}, 1), measure

    _carry_out(begin, as_json)


@plainly
def sweep(
    group: Annotated[Literal["growth", "architecture", "rates"], typer.Argument(help="What is varied.")],
    task: Task = None,
    lenient: Annotated[bool, typer.Option("--lenient", help="From settings that let nearly all growth pass.")] = False,
    seeds: Seeds = 3, recipe: Recipe = None, config: ConfigFile = None, assign: Set = None, seed: Seed = None,
    out: OutSetting = None, name: Name = None, workers: Workers = None, budget: Budget = None, epochs: Epochs = None,
    device: Device = None, data: Data = None, target: Target = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Vary one subject over a small, fixed set of settings and compare them seed by seed."""
    wanted = settings(config, assign, seed, out, name, workers, budget, epochs, device, data, target, task, recipe)

    def begin() -> tuple[Request, Callable[[Request, Bench], Result]]:
        from evo.instruments.sweeps import sweep as measure

        return _request("sweep", wanted, {"group": group, "lenient": lenient}, seeds), measure

    _carry_out(begin, as_json)


COMMANDS: Mapping[str, Callable[..., None]] = {
    "ladder": ladder, "rescue": rescue, "seed": seed_finder, "check": check, "sweep": sweep,
}  # fmt: skip


def _settings(
    given: Callable[..., dict[str, Any]], hidden: str | None, usual_of: Callable[[Any], Mapping[str, Any]] | None
) -> dict[str, Any]:
    """The command line's settings over what is usual for the task, where `usual_of` says what of it is wanted."""
    from evo.instruments import defaults

    wanted = given()
    if usual_of is not None:
        usual = defaults.usual(str(wanted["task"]))
        wanted = given(under={"network.hidden": list(usual.hidden), **usual_of(usual)})
    if hidden is not None:
        wanted["network"] = {**wanted["network"], "hidden": defaults.hidden(hidden)}
    return wanted


def _request(kind: str, wanted: Mapping[str, Any], options: Mapping[str, Any], seeds: int) -> Request:
    from evo.instruments import Request
    from evo.settings import build

    return Request(kind, build(wanted), options, seeds)


def _carry_out(begin: Callable[[], tuple[Request, Callable[[Request, Bench], Result]]], as_json: bool) -> None:
    """Progress goes to standard error; then the table, or the JSON object alone."""

    def told(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    from evo.instruments import conduct
    from evo.instruments.crew import OutOfTimeError

    with quiet_stdout() if as_json else contextlib.nullcontext():
        request, measure = begin()
        try:
            folder, result = conduct(request, measure, told, request.config.budget)
        except OutOfTimeError as over:
            print(f"evo: {over}; the same command goes on", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as stopped:
            stopped.add_note("the same command goes on")
            raise
    if as_json:
        print_json({**result.summary, "folder": str(folder), "picture": str(folder / "picture.png")})
    else:
        from evo.instruments import tables

        tables.show(result.table, result.columns, result.notes)
        print(f"\n{folder / 'picture.png'}")
    if not result.passed:
        raise typer.Exit(1)
