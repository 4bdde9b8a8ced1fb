"""The table of `ablation.py` as a page of Markdown, its claims in words below each task's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tournaments.proposals import PROPOSERS


def markdown(about: Mapping[str, Any], tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """about: of the whole. tables: a line a row, by the name of what they were lived on."""
    versions = about["versions"]
    text = [
        "# What each mechanism adds",
        "",
        f"`python benchmarks/ablation.py`: {about['seeds']} paired seeds, {about['work']:,} training steps a life, "
        f"those of trials included, a planned line of {about['steps']:,}. {about['processor']}, torch "
        f"{versions.get('torch')}, revision {str(about['git'])[:7]}.{'' if about['finished'] else ' **Unfinished.**'}",
        "",
        "*Per parameter*: validation information, millinats for each active parameter. Differences are paired by seed "
        "against the row named, with Student's 95% intervals, and in brackets those that hold for all rows of a task "
        "at once (Bonferroni); *p* is two-sided and corrected over all rows of a task, each figure a family of its own "
        "(Holm). In bold where p < .05. Test accuracy decides nothing.",
    ]
    for task, lines in tables.items():
        text += ["", f"## On {task}", ""]
        for group in dict.fromkeys(line["group"] for line in lines):
            text += [*_group([line for line in lines if line["group"] == group]), ""]
        text += _verdicts(lines)
    return "\n".join(text).rstrip() + "\n"


def _group(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    heads = ["row", "seeds", "per parameter", "difference", "p", "nats", "difference", "p", "parameters"]
    heads += ["test accuracy", "adopted"]
    body = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for line in lines:
        cells = [line["row"] if line["against"] in (None, "default") else f"{line['row']} (against {line['against']})",
                 str(len(line["seeds"])), f"{line['per_parameter']:.2f}"]  # fmt: skip
        cells += _difference(line.get("per_parameter_gain"), 2)
        cells += [f"{line['validation_information']:.3f}", *_difference(line.get("validation_information_gain"), 3)]
        most = sorted(line["adopted"].items(), key=lambda item: -item[1])[:3]
        cells += [f"{line['active_parameters']:,.0f}", f"{line['test_accuracy']:.1%}",
                  ", ".join(f"{name} {count}" for name, count in most)]  # fmt: skip
        body.append("| " + " | ".join(cells) + " |")
    return body


def _difference(gain: Mapping[str, Any] | None, digits: int) -> list[str]:
    if gain is None:
        return ["", ""]
    if gain["low"] is None:
        return [f"{gain['mean']:+.{digits}f}", ""]
    reach, p = gain["high"] - gain["mean"], gain["holm"]
    told = f"{gain['mean']:+.{digits}f} ± {reach:.{digits}f} (all: {gain['reach_all']:.{digits}f})"
    return [f"**{told}**" if p < 0.05 else told, f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"]


def _verdicts(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What holds after the correction, in words; and who was never adopted."""
    told = []
    for figure, name in (("per_parameter", "information per parameter"), ("validation_information", "information")):
        for better in (True, False):
            sure = [
                line["row"]
                for line in lines
                if (gain := line.get(f"{figure}_gain")) and gain.get("holm") is not None and gain["holm"] < 0.05
                and (gain["mean"] > 0) == better
            ]  # fmt: skip
            told.append(f"- {'More' if better else 'Less'} {name}, beyond chance: {', '.join(sure) or 'none'}.")
    adopted = {name for line in lines if line["row"] == "full" for name in line["adopted"]}
    if any(line["row"] == "full" for line in lines):
        idle = [name for name in PROPOSERS if name not in adopted]
        told.append(f"- Never adopted in the full set: {', '.join(idle) or 'none'}.")
    return told
