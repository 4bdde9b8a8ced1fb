"""Mutation: one action drawn at random, that a child begins with. No tournament asks whether it is any good.

The proposers of the config propose, as in a tournament, but for what is credit's and the price's business; one of them
is drawn, then one of its candidates. Its closed-form values are scaled as those of a candidate on trial are.
"""

from __future__ import annotations

from typing import Any

from evo import events, proposing
from evo.decision import findings_of, room
from evo.life import Life
from evo.surroundings import Surroundings
from search_spaces import actions, surgery
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from tournaments.evidence import collect
from tournaments.screening import line_search


def mutated(
    around: Surroundings, life: Life, network: Network, state: OptimizerState
) -> tuple[Network, OptimizerState, dict[str, Any]]:
    """The network after one legal action, as it was where there is none, and the event that tells.

    life: as of birth. What is drawn depends on the network's name, not on its cycles, so a birth that was killed and is
    done again comes out the same.
    """
    around = around.seen(life)
    key = (around.config.seed, around.network, "mutation")
    evidence = collect(network, around.evidence.x, around.evidence.y, around.task.kind, keyed(*key, "fisher"))
    told = {"cycle": 0, "step": 0, "epoch": 0.0, "delta_parameters": 0}
    if not evidence.finite:
        said = "activations or gradients overflow, so no action could be drawn"
        return network, state, events.row("mutation", **told, action="NoChange", reason=said)
    grow = room(around, life, network)
    findings = findings_of(around, life, network, state, evidence, grow, key)
    found, proposed = proposing.any_legal(around, life, findings, keyed(*key, "choice"))
    if found is None:
        said = f"none of {proposed} candidates is legal here"
        return network, state, events.row("mutation", **told, action="NoChange", reason=said)
    chosen = line_search(network, found, evidence)
    grown, edited = surgery.apply(network, chosen.actions, state)
    assert edited is not None
    delta = grown.count() - network.count()
    assert delta == chosen.cost, f"{chosen.name}: cost was told as {chosen.cost}, but {delta} parameters came"
    row = events.row(
        "mutation",
        **{**told, "delta_parameters": delta},
        action=chosen.name,
        site=chosen.site,
        action_json=actions.to_json(chosen.actions),
        proposer=chosen.proposer,
        predicted_nats=chosen.predicted,
        active_parameters=grown.count(),
        reason=f"{chosen.reason}; drawn at random from {proposed} candidates, on no trial",
    )
    return grown, edited, row
