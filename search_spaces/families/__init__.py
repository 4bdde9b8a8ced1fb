"""The families of networks that can be grown, by name."""

from collections.abc import Mapping

from search_spaces.families.convnet import Convnet
from search_spaces.families.mlp import Mlp
from search_spaces.network import Network

FAMILIES: Mapping[str, type[Network]] = {Mlp.family: Mlp, Convnet.family: Convnet}

__all__ = ["FAMILIES", "Convnet", "Mlp"]
