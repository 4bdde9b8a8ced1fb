"""What a network can become: families of networks, actions on them, and the surgery that carries every tensor along."""

from search_spaces.actions import (
    ACTIONS,
    Action,
    Connect,
    Disconnect,
    Edge,
    Insert,
    Narrow,
    NoChange,
    Remove,
    Skip,
    Spoke,
    Unit,
    Widen,
    from_json,
    to_json,
)
from search_spaces.checkpoint import Checkpoint, CheckpointError, load, save
from search_spaces.edits import Edit, IndexMap, Write
from search_spaces.families import FAMILIES, Convnet, Mlp
from search_spaces.network import Network, Place, active
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.surgery import apply

__all__ = [
    "ACTIONS",
    "FAMILIES",
    "Action",
    "Checkpoint",
    "CheckpointError",
    "Connect",
    "Convnet",
    "Disconnect",
    "Edge",
    "Edit",
    "IndexMap",
    "Insert",
    "Mlp",
    "Narrow",
    "Network",
    "NoChange",
    "OptimizerState",
    "Place",
    "Remove",
    "Skip",
    "Spoke",
    "Unit",
    "Widen",
    "Write",
    "active",
    "apply",
    "from_json",
    "keyed",
    "load",
    "save",
    "to_json",
]
