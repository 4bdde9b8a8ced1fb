"""The grammar of axes: along which named axes each dimension of a tensor runs.

    expression := dimension*                  one per dimension of the tensor, separated by blanks
    dimension  := NAME | INTEGER | "(" term ("+" term)* ")"
    term       := dimension+                  a product, flattened row-major; "+" concatenates

`"hidden2 (channel1 h w)"` is a linear layer behind a flattened picture, `"(three head dim) embed"` a fused attention
projection, `"(a + b) c"` a concatenation, `""` a scalar. After einops' notation, which itself forbids a repeated axis
and has no concatenation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.edits import FRESH, IndexMap

_TOKEN = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_>]*|[0-9]+(?![A-Za-z_])|[()+])")


@dataclass(frozen=True)
class Axis:
    name: str


@dataclass(frozen=True)
class Product:
    factors: tuple[Dimension, ...]


@dataclass(frozen=True)
class Sum:
    terms: tuple[Dimension, ...]


Dimension = Axis | Product | Sum


def is_name(text: str) -> bool:
    """Whether an axis may be called so."""
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) is not None


def parse(expression: str) -> tuple[Dimension, ...]:
    """The dimensions of an expression. Raises ValueError with the expression and the place where it breaks."""
    tokens: list[str] = []
    at = 0
    text = expression.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"axes {expression!r}: unexpected {text[at:]!r}; write names, integers, (, ) and +")
        tokens.append(match.group(1))
        at = match.end()
    dimensions: list[Dimension] = []
    position = 0
    while position < len(tokens):
        dimension, position = _dimension(tokens, position, expression)
        dimensions.append(dimension)
    return tuple(dimensions)


def _dimension(tokens: list[str], at: int, expression: str) -> tuple[Dimension, int]:
    if tokens[at] not in "()+":
        return Axis(tokens[at]), at + 1
    if tokens[at] != "(":
        raise ValueError(f'axes {expression!r}: {tokens[at]!r} stands outside of brackets; write "(a + b)"')
    terms: list[Dimension] = []
    factors: list[Dimension] = []
    at += 1
    while at < len(tokens):
        if tokens[at] in "+)":
            if not factors:
                raise ValueError(f"axes {expression!r}: nothing before {tokens[at]!r}; write a name there")
            terms.append(factors[0] if len(factors) == 1 else Product(tuple(factors)))
            factors = []
            if tokens[at] == ")":
                return (terms[0] if len(terms) == 1 else Sum(tuple(terms))), at + 1
            at += 1
        else:
            factor, at = _dimension(tokens, at, expression)
            factors.append(factor)
    raise ValueError(f'axes {expression!r}: a bracket is not closed; write ")" at its end')


def size(dimension: Dimension, sizes: Mapping[str, int]) -> int:
    """Slots along a dimension. Raises ValueError for an axis without a size."""
    match dimension:
        case Axis(name):
            if name.isdigit():
                return int(name)
            if name not in sizes:
                raise ValueError(f"axis {name!r} has no size; the network knows {', '.join(sizes)}")
            return sizes[name]
        case Product(factors):
            return int(np.prod([size(f, sizes) for f in factors]))
        case Sum(terms):
            return sum(size(t, sizes) for t in terms)


def index_map(dimension: Dimension, sizes: Mapping[str, int], maps: Mapping[str, IndexMap]) -> IndexMap | None:
    """The map of a whole dimension, from those of its axes; None where none of them changes.

    sizes: of the axes *before* the edit.
    """
    match dimension:
        case Axis(name):
            return maps.get(name)
        case Product(factors):
            parts = [index_map(f, sizes, maps) for f in factors]
            if all(part is None for part in parts):
                return None
            source, consume = np.zeros(1, dtype=np.int64), np.ones(1)
            for factor, part in zip(factors, parts, strict=True):
                old = size(factor, sizes)
                right = IndexMap(np.arange(old, dtype=np.int64)) if part is None else part
                fresh = (source[:, None] == FRESH) | (right.source[None, :] == FRESH)
                source = np.where(fresh, FRESH, source[:, None] * old + right.source[None, :]).reshape(-1)
                consume = (consume[:, None] * _factor(right)[None, :]).reshape(-1)
            return IndexMap(source, None if np.all(consume == 1) else consume)
        case Sum(terms):
            parts = [index_map(t, sizes, maps) for t in terms]
            if all(part is None for part in parts):
                return None
            sources, factors_, offset = [], [], 0
            for term, part in zip(terms, parts, strict=True):
                old = size(term, sizes)
                piece = IndexMap(np.arange(old, dtype=np.int64)) if part is None else part
                sources.append(np.where(piece.source == FRESH, FRESH, piece.source + offset))
                factors_.append(_factor(piece))
                offset += old
            joined = np.concatenate(factors_)
            return IndexMap(np.concatenate(sources), None if np.all(joined == 1) else joined)


def _factor(part: IndexMap) -> NDArray[np.float64]:
    return np.ones(len(part.source)) if part.consume is None else part.consume


def check(expression: str, shape: tuple[int, ...], sizes: Mapping[str, int], name: str) -> None:
    """Raises ValueError unless the expression describes a tensor of this shape."""
    told = tuple(size(d, sizes) for d in parse(expression))
    if told != shape:
        raise ValueError(f"{name}: axes {expression!r} describe the shape {told}, but the tensor has {shape}")
