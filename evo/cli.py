"""The `evo` command. Imports of anything slow wait until a command needs them, so that `evo --help` answers at once."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evo import cli_dry_run, cli_instruments, cli_queue, cli_watch
from evo.cli_ensemble import ensemble
from evo.cli_recipes import recipes
from evo.complaints import INTERRUPTED, complain, plainly
from evo.mechanisms import mechanisms
from evo.options import (
    Address,
    Budget,
    ConfigFile,
    Data,
    Device,
    DryRun,
    Epochs,
    From,
    Json,
    Name,
    Out,
    OutSetting,
    Recipe,
    RunName,
    Seed,
    Set,
    Target,
    Task,
    Within,
    Workers,
    read_budget,
    settings,
)  # fmt: skip
from evo.output import print_json, quiet_stdout

if TYPE_CHECKING:
    import pandas as pd

    from evo.run import Run

# Click's UsageError, or that of the copy of Click which newer versions of Typer carry.
UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Networks that grow by tournament: the most information per added parameter, or nothing.",
    epilog="Ctrl-C stops at the next safe point and keeps everything; a second one stops at once.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The entry point: every mistake of the user's is one line on standard error and exit code 2."""
    try:
        code = app(args=sys.argv[1:] or ["--help"], prog_name="evo", standalone_mode=False)
    except UsageError as err:
        command = err.ctx.command_path if err.ctx else "evo"
        code = complain(f"{err.format_message().rstrip('.')}; see `{command} --help`")
    except KeyboardInterrupt:
        code = INTERRUPTED + 2
    sys.exit(code if isinstance(code, int) else 0)


@app.command()
@plainly
def grow(
    task: Task = None, recipe: Recipe = None, config: ConfigFile = None, assign: Set = None, seed: Seed = None,
    out: OutSetting = None, name: Name = None, workers: Workers = None, budget: Budget = None, epochs: Epochs = None,
    device: Device = None, data: Data = None, target: Target = None, start: From = None, address: Address = None,
    dry_run: DryRun = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Grow one network on TASK."""
    wanted = settings(
        config, assign, seed, out, name, workers, budget, epochs, device, data, target, task, recipe, address=address
    )
    from evo import api

    if dry_run:
        cli_dry_run.show("grow", wanted, start, as_json)
        return
    _carry_out(functools.partial(api.grow, config=wanted, start_from=start), as_json)


@app.command()
@plainly
def search(
    task: Task = None, recipe: Recipe = None, config: ConfigFile = None, assign: Set = None, seed: Seed = None,
    out: OutSetting = None, name: Name = None, workers: Workers = None, budget: Budget = None, epochs: Epochs = None,
    device: Device = None, data: Data = None, target: Target = None, start: From = None, address: Address = None,
    dry_run: DryRun = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Grow a population of networks on TASK and print its Pareto front."""
    wanted = settings(
        config, assign, seed, out, name, workers, budget, epochs, device, data, target, task, recipe, address=address
    )
    from evo import api

    if dry_run:
        cli_dry_run.show("search", wanted, start, as_json)
        return
    _carry_out(functools.partial(api.search, config=wanted, start_from=start), as_json)


@app.command()
@plainly
def resume(
    run: RunName, out: Out = "runs", workers: Workers = None, budget: Budget = None, address: Address = None,
    networks: Annotated[int | None, typer.Option(help="Of a search, in all: more than it was asked for.")] = None,
    steps: Annotated[int | None, typer.Option(help="Another life of the one network, of so many steps.")] = None,
    epochs: Annotated[float | None, typer.Option(help="The same in epochs.")] = None,
    cycles: Annotated[int | None, typer.Option(help="Its cycles; alone, each as long as those before.")] = None,
    set_aside: Annotated[
        str | None, typer.Option(help="Network of which the newest events or snapshot are damaged: lives them again.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="The run is yours: import the plug-ins, use the servers and files it names.")
    ] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Go on with a run that was stopped, killed or ran out of budget, or give one that has ended more of it."""
    from evo import api
    from evo.config import ConfigError

    limits = read_budget(budget)
    if "training.epochs" in limits:
        raise ConfigError(f"--budget: expected a time, got {budget!r}; write seconds, or --epochs for another life")
    work = functools.partial(
        api.resume, run, out=out, workers=workers, budget=limits.get("budget"), networks=networks, steps=steps,
        epochs=epochs, cycles=cycles, address=address, set_aside=set_aside, trust=trust,
    )  # fmt: skip
    _carry_out(work, as_json)


@app.command()
@plainly
def runs(out: Out = "runs", as_json: Json = False) -> None:
    """List the runs in a folder."""
    from evo import show as shown

    rows = shown.all_runs(out)
    if as_json:
        print_json({"runs": rows})
    else:
        shown.print_runs(rows, out)


@app.command()
@plainly
def show(
    run: RunName,
    out: Out = "runs",
    network: Annotated[str | None, typer.Option(help="Whose decisions: one, or all. Default: the best's.")] = None,
    as_json: Json = False,
) -> None:
    """Show a run: front, growth history, lineage, decisions with reasons."""
    opened = _open(run, out)
    if as_json:
        print_json(opened.summary())
        return
    from evo import show as shown

    shown.print_run(opened, network)


@app.command()
@plainly
def report(run: RunName, out: Out = "runs") -> None:
    """Write a run's pictures (PNG) and one self-contained HTML page."""
    from evo import replica
    from evo import report as reports

    opened = _open(run, out)
    print(reports.write(opened))
    replica.push(opened.folder, "report/")


@app.command()
@plainly
def export(
    run: RunName,
    form: Annotated[str, typer.Option("--format", help="torch (a torch.export program, .pt2) or onnx.")] = "torch",
    output: Annotated[Path | None, typer.Option(help="File to write. Default: export/ in the run's folder.")] = None,
    max_parameters: Within = None,
    out: Out = "runs",
) -> None:
    """Write a run's best network as plain PyTorch or ONNX: masks folded in, dead units gone."""
    from evo import export as exports
    from evo.predictions import preprocessing_of

    opened = _open(run, out)
    entry = opened.choose(max_parameters)
    path = output or opened.folder / "export" / f"{entry.network}-{entry.snapshot}"
    preprocessing = preprocessing_of(entry.checkpoint, entry.folder)
    written = exports.export(entry.checkpoint.network, preprocessing, path, form)
    print(written.path)
    print(f"evo: {written.note}", file=sys.stderr)


@app.command()
@plainly
def predict(
    run: RunName,
    data: Annotated[Path, typer.Option(help="New rows: .parquet, .csv or, for pictures and arrays, .npy, .npz.")],
    output: Annotated[Path | None, typer.Option(help="File to write (.csv or .parquet). Default: print CSV.")] = None,
    max_parameters: Within = None,
    out: Out = "runs",
    as_json: Json = False,
) -> None:
    """Predict new rows with a run's best network, preprocessed exactly as in training."""
    from evo.predictions import predict as predicted

    if output is not None and output.suffix not in (".csv", ".parquet"):
        raise ValueError(f"--output: expected a .csv or .parquet file, got {str(output)!r}; write another ending")
    table = predicted(_open(run, out).folder, data, max_parameters)
    if output is not None:
        _write_table(table, output)
    if as_json:
        print_json({"predictions": json.loads(table.to_json(orient="records", double_precision=15))})
    elif output is None:
        table.to_csv(sys.stdout, index=False)


@app.command()
@plainly
def ui(
    out: Out = "runs",
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 5000,
) -> None:
    """Serve MLflow's web page over the runs until Ctrl-C."""
    from evo.mlflow_ui import ui as served

    # Its workers are processes of their own, which must end with this one, however it is asked to.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), served(out, port, host) as page:
        print(f"evo: MLflow over the runs in {out} at {page.url}; Ctrl-C ends it", file=sys.stderr, flush=True)
        raise typer.Exit(page.wait())


@app.command()
@plainly
def config() -> None:
    """Print every setting with its default and what it is for, as YAML that --config takes."""
    from evo.config import Config
    from evo.settings import to_yaml

    print(to_yaml(Config()), end="")


app.command()(cli_watch.status)
app.command()(cli_watch.watch)
app.add_typer(cli_queue.app, name="queue")
app.command()(ensemble)
app.command()(recipes)
app.command()(mechanisms)
for command, instrument in cli_instruments.COMMANDS.items():
    app.command(command)(instrument)


def _carry_out(work: Callable[..., Run], as_json: bool) -> None:
    """Runs it with its progress on standard error, then prints the front, or the JSON object alone."""
    from evo import progress
    from evo.storage import is_remote

    begun: dict[str, Any] = {}
    with progress.to_stderr() as display, quiet_stdout() if as_json else contextlib.nullcontext():

        def told(update: progress.Update) -> None:
            if update.get("stage") == "start":
                begun.update(update)
            display(update)

        try:
            done = work(progress=told)
        except (KeyboardInterrupt, OSError, ValueError) as err:
            told_how = "go on with `evo resume" in str(err)
            if "run" in begun and not told_how and (is_remote(begun["run"]) or Path(begun["run"]).exists()):
                err.add_note(f"go on with `evo resume {_shortest(begun['run'])}`")
            raise
    if as_json:
        print_json(done.summary())
        return
    from evo import show as shown

    shown.print_front(done)
    name = _shortest(done.address)
    print(f"\nevo show {name}     every decision and its reason\nevo export {name}   the best network as plain PyTorch")
    if not done.finished:
        print(f"evo resume {name}   the rest of it: the budget was spent first")


def _shortest(folder: str) -> str:
    """What the user must write to name this run: its name alone where it lies in the usual folder."""
    from evo.storage import is_remote

    if is_remote(folder):
        return f"'{folder}'"  # a shell would take its question mark for a pattern
    path = Path(folder)
    return path.name if path.parent == Path("runs") else folder


def _open(run: str, out: str) -> Run:
    from evo import run_folder
    from evo.run import Run

    return Run.open(run_folder.find(run, out))


def _write_table(table: pd.DataFrame, path: Path) -> None:
    """As .csv or .parquet, whole or not at all."""
    draft = path.with_name(f".{path.name}")
    try:
        if path.suffix == ".csv":
            table.to_csv(draft, index=False)
        else:
            table.to_parquet(draft, index=False)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
