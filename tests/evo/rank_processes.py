"""Ranks as processes on GPUs of this machine, over NCCL, without Ray."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from grown_networks import CONFIG, grown_of, split_of

from evo.batches import batch_orders, cosine_rates
from evo.ranks import Address, Meeting, Ranks
from evo.segments import digests
from evo.task import Split
from evo.training import Moment, Session
from evo.trials import pack
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed

STEPS, BATCH, HOME = 24, 17, "127.0.0.1"

Found = tuple[dict[str, np.ndarray], dict[str, str], list[float]]
"""Weights and statistics, digests of all that is held, and losses."""


def trained(kind: str, capture: bool, number: int, size: int, address: Address | None, shuffle: int = 0) -> Found:
    """A grown network, trained on GPU `number`, by itself or as one of several ranks."""
    torch.set_num_threads(1)
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    network, state = grown_of(kind)
    network.to(device)
    moved: dict[str, Any] = {p: {k: t.to(device) for k, t in v.items()} for p, (v, _) in state.parts().items()}
    held = split_of(kind)
    data = Split(held.x.to(device), held.y.to(device))
    ranks = None if address is None else Ranks.join(address, number, size, device, HOME, 60.0)
    session = Session(
        network,
        OptimizerState(**moved),
        data,
        "classification",
        CONFIG,
        capture=capture,
        at=Moment(0, 100),
        ranks=ranks,
    )
    orders = batch_orders(80, STEPS, BATCH, keyed("test", "batches"))
    if shuffle:
        orders = keyed("test", "order", shuffle).permuted(orders, axis=1)
    losses = session.run(orders, cosine_rates(CONFIG, 0, STEPS, 100)).losses
    body = pack(network, session.close())
    return {k: t.cpu().double().numpy() for k, t in body.weights.items()}, digests(body), losses.tolist()


def on_gpus(size: int, kind: str, capture: bool) -> list[Found]:
    """What each rank has in the end."""
    address = Meeting(HOME)
    convened = address.convene()
    with ProcessPoolExecutor(size, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(trained, kind, capture, number, size, convened) for number in range(size)]
        return [future.result(timeout=120) for future in futures]
