"""The families of networks that can be grown, by name."""

from collections.abc import Mapping

from search_spaces.families.mlp import Mlp
from search_spaces.network import Network

FAMILIES: Mapping[str, type[Network]] = {Mlp.family: Mlp}

__all__ = ["FAMILIES", "Mlp"]
