"""`evo ensemble`: several snapshots of a run as one predictor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from evo.complaints import plainly
from evo.options import Json, Out, RunName
from evo.output import print_json

if TYPE_CHECKING:
    from evo.ensembles import Ensemble


@plainly
def ensemble(
    run: RunName,
    members: Annotated[str | None, typer.Option(help="Which: n000/000004,n000/000012.")] = None,
    greedy: Annotated[int | None, typer.Option(help="At most so many, chosen greedily on validation data.")] = None,
    phases: Annotated[
        bool, typer.Option("--phases", help="The best of each phase of the best network's life (the default).")
    ] = False,
    test: Annotated[
        bool, typer.Option("--test", help="Read the test set too; report/ensembles.json keeps it.")
    ] = False,
    out: Out = "runs",
    as_json: Json = False,
) -> None:
    """Average several snapshots of a run and compare them with the best single one."""
    from evo import run_folder
    from evo.ensembles import EnsembleError, plain
    from evo.run import Run

    if sum((members is not None, greedy is not None, phases)) > 1:
        raise EnsembleError("--members, --greedy and --phases: each names the members; write one of them")
    names = None if members is None else [name for name in members.split(",") if name.strip()]
    found = Run.open(run_folder.find(run, out)).ensemble(names, greedy, test)
    if as_json:
        print_json(plain(found.to_json()))
    else:
        _print(found)


def _print(found: Ensemble) -> None:
    print(f"{len(found.members)} members, {found.how}\n\nmember         validation nats")
    for name, information in zip(found.members, found.each, strict=True):
        print(f"{'/'.join(name):14} {information:15.4f}")
    figure = "accuracy" if "accuracy" in found.validation else "r2"
    print(f"\n{'':14} {'samples':>8} {'ensemble':>9} {'best one':>9} {'gain, nats':>18}   {figure}")
    for split, f in (("validation", found.validation), ("test", found.test)):
        if f is not None:
            gain = f"{f['gain_nats']:+.4f} ± {f['gain_se_nats']:.4f}"
            both = f"{f[figure]:.4f} against {f[f'best_{figure}']:.4f}"
            sizes = f"{f['samples']:8.0f} {f['information_nats']:9.4f} {f['best_information_nats']:9.4f}"
            print(f"{split:14} {sizes} {gain:>18}   {both}")
