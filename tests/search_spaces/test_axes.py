"""The grammar of axes, and the map of a dimension against one found by labelling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from search_spaces import axes
from search_spaces.axes import Axis, Dimension, Product, Sum
from search_spaces.edits import FRESH, IndexMap

SIZES = {"a": 2, "b": 3, "c": 1, "d": 4}

quick = settings(max_examples=150, deadline=None, database=None, derandomize=True)


@pytest.mark.parametrize(
    ("expression", "dimensions"),
    [
        ("", ()),
        ("  ", ()),
        ("a", (Axis("a"),)),
        (" hidden1  input ", (Axis("hidden1"), Axis("input"))),
        ("channel2 channel1 3 3", (Axis("channel2"), Axis("channel1"), Axis("3"), Axis("3"))),
        ("hidden2 (channel1 h w)", (Axis("hidden2"), Product((Axis("channel1"), Axis("h"), Axis("w"))))),
        ("(3 head dim) embed", (Product((Axis("3"), Axis("head"), Axis("dim"))), Axis("embed"))),
        ("(a + b) c", (Sum((Axis("a"), Axis("b"))), Axis("c"))),
        ("(a+b)c", (Sum((Axis("a"), Axis("b"))), Axis("c"))),
        ("(a b + c)", (Sum((Product((Axis("a"), Axis("b"))), Axis("c"))),)),
        ("((a + b) c)", (Product((Sum((Axis("a"), Axis("b"))), Axis("c"))),)),
        ("(a (b + (c d)))", (Product((Axis("a"), Sum((Axis("b"), Product((Axis("c"), Axis("d"))))))),)),
        ("((a))", (Axis("a"),)),
    ],
)
def test_grammar(expression: str, dimensions: tuple[Dimension, ...]) -> None:
    assert axes.parse(expression) == dimensions


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("a + b", "outside of brackets"),
        ("a)", "outside of brackets"),
        ("(a", "not closed"),
        ("(a (b c)", "not closed"),
        ("()", "nothing before"),
        ("(+ a)", "nothing before"),
        ("(a +)", "nothing before"),
        ("a-b", "unexpected '-b'"),
        ("a é", "unexpected"),
        ("3x", "unexpected '3x'"),
    ],
)
def test_errors_quote_the_expression_and_say_what_to_write(expression: str, told: str) -> None:
    with pytest.raises(ValueError, match="write") as caught:
        axes.parse(expression)
    assert told in str(caught.value)
    assert repr(expression) in str(caught.value)


def test_sizes() -> None:
    assert [axes.size(d, SIZES) for d in axes.parse("a (b d) 7 (a b + d 2)")] == [2, 12, 7, 14]
    with pytest.raises(ValueError, match="axis 'e' has no size; the network knows a, b, c, d"):
        axes.size(Product((Axis("a"), Axis("e"))), SIZES)


def test_check_names_the_tensor_and_both_shapes() -> None:
    axes.check("a (b d)", (2, 12), SIZES, "links.x")
    with pytest.raises(ValueError, match=r"links.x: axes 'a \(b d\)' describe the shape \(2, 12\).*\(2, 11\)"):
        axes.check("a (b d)", (2, 11), SIZES, "links.x")


@pytest.mark.parametrize(
    ("text", "fine"),
    [("hidden1", True), ("_x", True), ("1x", False), ("a b", False), ("a>b", False), ("", False), ("é", False)],
)
def test_names(text: str, fine: bool) -> None:
    assert axes.is_name(text) is fine


def test_no_map_where_no_axis_changes() -> None:
    (dimension,) = axes.parse("(a (b + c) 3)")
    assert axes.index_map(dimension, SIZES, {"d": IndexMap.keep(4, fresh=1)}) is None


def test_keep_drops_and_appends() -> None:
    assert IndexMap.keep(5, drop=(3, 0), fresh=2).source.tolist() == [1, 2, 4, FRESH, FRESH]


# --- any dimension under any maps


leaves = st.sampled_from([*SIZES, "2"]).map(Axis)
dimensions = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Product(tuple(parts)))
        | st.lists(inner, min_size=2, max_size=3).map(lambda parts: Sum(tuple(parts)))
    ),
    max_leaves=5,
)


@st.composite
def maps(draw: st.DrawFn) -> dict[str, IndexMap]:
    """Any maps: slots kept, dropped, doubled, reordered, fresh; some with factors."""
    result = {}
    for name in draw(st.sets(st.sampled_from(list(SIZES)), min_size=1)):
        source = draw(st.lists(st.integers(FRESH, SIZES[name] - 1), min_size=1, max_size=5))
        consume = None
        if draw(st.booleans()):
            factors = st.lists(st.sampled_from([1.0, 0.5, 3.0]), min_size=len(source), max_size=len(source))
            consume = np.array(draw(factors))
        result[name] = IndexMap(np.array(source, dtype=np.int64), consume)
    return result


def written(dimension: Dimension) -> str:
    match dimension:
        case Axis(name):
            return name
        case Product(factors):
            return f"({' '.join(written(f) for f in factors)})"
        case Sum(terms):
            # A product as a term stands without brackets of its own, one in brackets means the same.
            return f"({' + '.join(written(t) for t in terms)})"


def labelled(dimension: Dimension, sizes: dict[str, int]) -> list[tuple[object, ...]]:
    """What lies at each slot, by brute force: which term of a sum, which slot of each axis."""
    match dimension:
        case Axis(name):
            return [(name, i) for i in range(int(name) if name.isdigit() else sizes[name])]
        case Product(factors):
            slots: list[tuple[object, ...]] = [()]
            for factor in factors:
                slots = [(*slot, label) for slot in slots for label in labelled(factor, sizes)]
            return slots
        case Sum(terms):
            return [(i, label) for i, term in enumerate(terms) for label in labelled(term, sizes)]


def traced(label: object, by: dict[str, IndexMap]) -> tuple[object, float]:
    """The label that stood before the edit where this one stands after it (None if fresh), and its factor."""
    assert isinstance(label, tuple)
    if len(label) == 2 and isinstance(label[0], str):
        name, slot = label
        if name not in by:
            return label, 1.0
        source = int(by[name].source[slot])
        consume = by[name].consume
        return (None if source == FRESH else (name, source)), (1.0 if consume is None else float(consume[slot]))
    result: list[object] = []
    factor = 1.0
    for part in label:
        if isinstance(part, int):
            result.append(part)
            continue
        old, by_part = traced(part, by)
        if old is None:
            result.append(None)
        else:
            result.append(old)
        factor *= by_part
    return (None if None in result else tuple(result)), factor


@quick
@given(dimension=dimensions, by=maps())
def test_map_of_a_dimension_is_the_one_found_by_labelling(dimension: Dimension, by: dict[str, IndexMap]) -> None:
    assert axes.parse(written(dimension)) == (dimension,)
    before = {label: i for i, label in enumerate(labelled(dimension, SIZES))}
    assert len(before) == axes.size(dimension, SIZES)
    after = labelled(dimension, {n: len(by[n].source) if n in by else size for n, size in SIZES.items()})
    traces = [traced(label, by) for label in after]
    expected = [FRESH if old is None else before[old] for old, _ in traces]  # type: ignore[index]
    factors = [factor for _, factor in traces]
    found = axes.index_map(dimension, SIZES, by)
    if found is None:
        assert expected == list(range(len(before)))
        assert set(factors) <= {1.0}
        return
    assert found.source.tolist() == expected
    consume: NDArray[np.float64] = np.ones(len(after)) if found.consume is None else found.consume
    assert consume.tolist() == factors
