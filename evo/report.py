"""The report of a run: its pictures as PNG and one self-contained HTML page, in the run's folder under report/."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import pandas as pd

from evo import books, front
from evo.drawing import count
from evo.markup import bullets, nats, quality, share, signed, table, text, tiny, whole
from evo.plots import PICTURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evo.run import Run
    from evo.task import Task

SMALL = 1e-6
"""Nats: the books balance when the residual is below this."""
MOST_DECISIONS = 400


def write(run: Run, task: Task | None = None) -> Path:
    """Writes PNGs and report.html, and returns the page's path.

    The test set is read here, once, if the run is finished and nobody read it before. Give the task where it came from
    memory; without one it is loaded as the run's config says.
    """
    unread = ""
    if run.test is None and run.finished and len(run.front):
        try:
            run.evaluate_test(task)
        except ValueError as err:  # data or a checkpoint that are gone must not cost the rest of the report
            unread = f"the test set could not be read: {err}"
    folder = run.folder / "report"
    images: dict[str, bytes] = {}
    for name, picture in PICTURES.items():
        images[name] = png(picture(run))
        front.write_atomically(folder / f"{name}.png", images[name])
    path = folder / "report.html"
    front.write_atomically(path, page(run, images, unread))
    return path


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def page(run: Run, images: dict[str, bytes], unread: str = "") -> str:
    """The page as HTML. Everything that came from a file is escaped. unread: why there are no test figures."""
    template = Template((Path(__file__).parent / "report_template.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=text(run.name),
        lead=_lead(run),
        tiles=_tiles(run),
        front=_front(run),
        pictures="".join(
            f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(data).decode("ascii")}">'
            for name, data in images.items()
            if name != "lineage" or len(run.networks) > 1
        ),
        decisions=_decisions(run),
        books=_books(run),
        calibration=_calibration(run),
        networks=_networks(run),
        failed=bullets([*failures(run), *([unread] if unread else [])], "bad", "Nothing failed.")
        + bullets(idle(run), "note", "Every mechanism did something."),
        ran=_ran(run),
    )


def failures(run: Run) -> list[str]:
    """What broke off, diverged or is not finished, one line each."""
    events, lines = run.events, []
    for _, network in run.networks.iterrows():
        if network["state"] == "failed":
            lines.append(f"{network['network']} failed: {network['reason'] or 'no reason was recorded'}")
        elif network["state"] == "unfinished":
            lines.append(f"{network['network']} has not ended: it is running, or was killed and can be resumed")
    diverged = events[(events["kind"] == "candidate") & books.true(events["diverged"])]
    if len(diverged):
        kinds = ", ".join(f"{action} {n}" for action, n in diverged["action"].value_counts().items())
        lines.append(f"{count(len(diverged), 'candidate')} diverged and lost the trial: {kinds}")
    return lines


def idle(run: Run) -> list[str]:
    """Mechanisms that did nothing, one line each."""
    events, lines = run.events, []
    contests = events[events["kind"] == "candidate"]
    decided = run.decisions
    if not len(contests):
        lines.append("no tournament was held")
    elif not (decided["action"] != "NoChange").any():
        lines.append(f"NoChange won every one of {len(decided)} decisions: nothing was grown")
    if not books.true(contests["placebo"]).any():
        off = run.setting("tournament", "placebo_every") == 0
        lines.append("no placebo ran" + (": tournament.placebo_every is 0" if off else ""))
    if len(contests) and not contests["audit_nats"].notna().any():
        lines.append("no gain was audited on the other half of the growth data")
    if run.info["kind"] == "search" and not run.networks["parent"].notna().any():
        lines.append("no network started from another's snapshot")
    if run.test is None:
        lines.append("the test set was not read" + ("" if run.finished else ": the run is not finished"))
    if run.setting("record", "mlflow") is False:
        lines.append("MLflow was off")
    return lines


def _lead(run: Run) -> str:
    what = "One network grown" if run.info["kind"] == "grow" else f"A search over {len(run.networks)} networks"
    state = "finished" if run.finished else "not finished: running, or killed and to be resumed"
    task, seed = run.info.get("task", "an unknown task"), run.info.get("seed", "unknown")
    return text(f"{what} on {task}, seed {seed}; {state}.")


def _tiles(run: Run) -> str:
    if not len(run.front):
        return ""
    best, figure = run.best, front.metric(run.events)
    tested = getattr(best, f"test_{figure}")
    judged = quality(getattr(best, figure) if tested is None else tested, figure)
    lived, spent = books.effort(run.events)
    grown = run.decisions[run.decisions["action"] != "NoChange"]
    tiles = [
        (f"{best.validation_information_nats:.3f}", f"nats of information, {best.network} on validation"),
        (judged, f"{'validation' if tested is None else 'test'} {_title(figure)}"),
        (f"{best.active_parameters:,}", "active parameters"),
        (f"{len(grown):,} of {len(run.decisions):,}", "decisions changed a network"),
        (f"{lived:,}", f"training steps, and {spent:,} in forks that lost or training that diverged"),
    ]
    return "".join(f'<div class="tile"><b>{text(b)}</b><span>{text(s)}</span></div>' for b, s in tiles)


def _front(run: Run) -> str:
    entries, figure = run.front, front.metric(run.events)
    if not len(entries):
        return "<p>No snapshot was saved yet, so there is no front.</p>"
    figures = ["information_nats", "validation_information_nats", figure]
    heads = ["network", "snapshot", "#active", "#peak", "#information", "#validation", f"#{_title(figure)}"]
    if "test_information_nats" in entries:
        figures += ["test_information_nats", f"test_{figure}"]
        heads += ["#test information", f"#test {_title(figure)}"]
    rows = [
        [e["network"], e["snapshot"], whole(e["active_parameters"]), whole(e["peak_parameters"])]
        + [nats(e[name]) if name.endswith("_nats") else quality(e[name], figure) for name in figures]
        for _, e in entries.iterrows()
    ]
    chosen = [""] * (len(rows) - 1) + ["chosen"]
    return f"<p>{text(_about_front(run, entries))}</p>{table(heads, rows, chosen, tall=True)}"


def _about_front(run: Run, entries: pd.DataFrame) -> str:
    lead = "Snapshots that no other beats in both validation information and active parameters, in nats a sample. "
    if run.test is None:
        return lead + "The test set was not read."
    when = str(run.test.get("evaluated", "an unknown time"))[:16].replace("T", " ")
    lead += f"Validation chose them; the test set was read once, at {when} UTC."
    missing = int(entries["test_information_nats"].isna().sum())
    lead += f" {missing} joined the front after that and have no test figures." if missing else ""
    return lead + (" Every split of this task is the whole table." if run.test.get("enumerated") else "")


def _decisions(run: Run) -> str:
    rows = run.decisions
    if not len(rows):
        return "<p>No decision was taken: no tournament was held.</p>"
    shown = rows.head(MOST_DECISIONS)
    heads = ["network", "#cycle", "#step", "action", "site", "#Δ parameters", "#predicted", "#measured ± SE", "#audit"]
    cells = []
    for _, d in shown.iterrows():
        spread = f" ± {nats(d['se_nats'])}" if pd.notna(d["se_nats"]) else ""
        cells.append(
            [d["network"], whole(d["cycle"]), whole(d["step"]), d["action"], d["site"], signed(d["delta_parameters"]),
             nats(d["predicted_nats"]), nats(d["measured_nats"]) + spread, nats(d["audit_nats"])]
        )  # fmt: skip
    counts = ", ".join(f"{action} {n}" for action, n in rows["action"].value_counts().items())
    rest = f" The first {MOST_DECISIONS} are shown; the others are in the events." if len(rows) > MOST_DECISIONS else ""
    lead = f"{len(rows):,} decisions: {counts}. Gains are in nats, against NoChange trained just as long.{rest}"
    kinds = ["stayed" if action == "NoChange" else "" for action in shown["action"]]
    return f"<p>{text(lead)}</p>{table(heads, cells, kinds, list(shown['reason']), tall=True)}"


def _books(run: Run) -> str:
    lives = books.books(run.events)
    if not len(lives):
        return "<p>Nothing has happened yet.</p>"
    parts = ("start", "training", "control", "forks", "end")
    rows = [[r["network"], *(nats(r[p]) for p in parts), tiny(r["residual"])] for _, r in lives.iterrows()]
    off = [str(name) for name in lives.loc[lives["residual"].abs() > SMALL, "network"]]
    unknown = int(lives["residual"].isna().sum())
    verdict = f"The books do NOT balance for {', '.join(off)}" if off else f"The books balance to {SMALL:g} nats"
    verdict += f"; of {unknown} the start or end is not recorded." if unknown else "."
    lead = (
        "Information on the deciding half of the growth data: end − start = gains of training between decisions "
        "+ gains of the control during trials + gains of the adopted forks over the control."
    )
    heads = ["network", *(f"#{p}" for p in parts), "#residual"]
    return f'<p>{text(lead)} <b class="{"bad" if off else ""}">{text(verdict)}</b></p>{table(heads, rows, tall=True)}'


def _calibration(run: Run) -> str:
    confidence = run.setting("tournament", "confidence")
    facts = books.calibration(run.events, confidence if isinstance(confidence, int | float) else None)
    stated = "unknown" if facts.stated is None else f"{facts.stated:.0%}"
    rows = [
        ["winners' audits inside their 95% intervals", *share(facts.winners), "95%"],
        ["all candidates' audits inside their 95% intervals", *share(facts.candidates), "95%"],
        ["placebos whose bound exceeded zero", *share(facts.placebos), stated],
    ]
    lead = (
        "Gains are decided on one half of the growth data and audited on the other; a placebo is a second NoChange "
        "that runs as a candidate."
    )
    heads = ["what", "#count", "#rate", "#95% interval of the rate", "#expected"]
    return f"<p>{text(lead)}</p>{table(heads, rows)}<p>{text(foretold(facts))}</p>"


def foretold(facts: books.Calibration) -> str:
    """One line on how well the screening predicted."""
    if not facts.predictions:
        return "The screening predicted nothing."
    rank = "too few for a rank correlation" if math.isnan(facts.rank) else f"rank correlation {facts.rank:.2f}"
    ratio = "" if math.isnan(facts.ratio) else f", median measured/predicted {facts.ratio:.2f}"
    return f"Screening: {facts.predictions:,} predictions, {rank}{ratio}. It ranks; it is not calibrated."


def _networks(run: Run) -> str:
    heads = ["network", "#generation", "parent", "#born with", "#parameters now", "#decisions", "state", "reason"]
    rows = []
    for _, n in run.networks.iterrows():
        parent = n["parent"] if isinstance(n["parent"], str) else "a seed"
        counts = [whole(n[name]) for name in ("born_parameters", "active_parameters", "decisions")]
        rows.append([n["network"], whole(n["generation"]), parent, *counts, n["state"], n["reason"]])
    return table(heads, rows, tall=True) if rows else "<p>No network was born yet.</p>"


def _ran(run: Run) -> str:
    info = run.info
    facts: list[tuple[str, object]] = [("folder", run.folder)]
    facts += [(name, info.get(name)) for name in ("kind", "task", "seed", "created", "git", "processor")]
    facts += [("device", info.get("device") or run.setting("device"))]
    facts += [("seconds", f"{run.seconds:.1f}, from the first event to the last")]
    versions = info.get("versions")
    facts += [(f"{name}'s version", v) for name, v in versions.items()] if isinstance(versions, dict) else []
    listed = "".join(f"<dt>{text(k)}</dt><dd>{text('not recorded' if v is None else v)}</dd>" for k, v in facts)
    config = text(json.dumps(info.get("config"), indent=2, ensure_ascii=False))
    return f"<dl>{listed}</dl><details><summary>Config</summary><pre>{config}</pre></details>"


def _title(figure: str) -> str:
    return "R²" if figure == "r2" else figure
