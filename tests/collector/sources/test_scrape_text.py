"""The columnar reader against the client library's parser, and what its memory of a layout may not do."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from collector.sources.scrape_text import ExpositionError, Layout, Series, read_value

Key = tuple[str, tuple[tuple[str, str], ...]]


def key_of(series: Series) -> Key:
    return series.name, tuple(sorted(series.labels.items()))


def read(layout: Layout, text: str) -> list[tuple[Key, float]]:
    values = layout.read(text.encode())
    return [(key, value) for key, value in zip(layout.bound, values, strict=True)]  # type: ignore[misc]


def oracle(text: str) -> list[tuple[Key, float]]:
    return [
        ((sample.name, tuple(sorted(sample.labels.items()))), float(sample.value))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def same(ours: list[tuple[Key, float]], theirs: list[tuple[Key, float]]) -> bool:
    return len(ours) == len(theirs) and all(
        a == b and (x == y or (math.isnan(x) and math.isnan(y))) for (a, x), (b, y) in zip(ours, theirs, strict=True)
    )


names = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,12}", fullmatch=True)
label_names = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,8}", fullmatch=True)
# Every character that the format treats specially, and what exporters really write.
label_values = st.text(alphabet=st.sampled_from(list('abc 09"\\\n{},=#ä€\t/-.')), max_size=12)
numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True).map(repr),
    st.integers(min_value=-(2**70), max_value=2**70).map(str),
    st.sampled_from(["NaN", "+Inf", "-Inf", "Inf", "7.307144e+06", "5.32523487232e+011", "1E3", "-0", ".5", "1."]),
)


def escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


@st.composite
def lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A line with a place for its value, and two values for it."""
    name = draw(names)
    labels = draw(st.dictionaries(label_names, label_values, max_size=4))
    space = draw(st.sampled_from(["", "", " "]))
    inner = ("," + space).join(f'{key}{space}={space}"{escaped(value)}"' for key, value in labels.items())
    if labels and draw(st.booleans()):
        inner += ","
    braces = "{" + inner + "}" if labels or draw(st.booleans()) else ""
    stamp = draw(st.sampled_from(["", "", "", " 1395066363000", " -5"]))
    end = draw(st.sampled_from(["", "", "\r", " "]))
    gap = draw(st.sampled_from([" ", " ", "  "]))
    return f"{name}{braces}{gap}%s{stamp}{end}", [draw(numbers), draw(numbers)]


others = st.sampled_from(
    [
        *("", "   ", "\r", "#", "# a comment", "# TYPE other_name gauge", "# EOF"),
        '# HELP some_name it helps, says { } " and \\\\',
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(lines(), others), max_size=12), st.randoms(use_true_random=False))
def test_both_parsers_read_the_same_values_from_any_text_and_again_from_the_remembered_layout(parts, random) -> None:
    def text(which: int, items) -> str:
        return "\n".join(item if isinstance(item, str) else item[0] % item[1][which] for item in items) + "\n"

    layout = Layout(key_of)
    assert same(read(layout, text(0, parts)), oracle(text(0, parts)))
    # The same series with other values, then in another order, then without some of them.
    assert same(read(layout, text(1, parts)), oracle(text(1, parts)))
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert same(read(layout, text(0, shuffled)), oracle(text(0, shuffled)))
    fewer = shuffled[: len(shuffled) // 2]
    assert same(read(layout, text(1, fewer)), oracle(text(1, fewer)))


def test_a_scrape_with_other_values_keeps_the_layout() -> None:
    asked: list[Series] = []
    layout = Layout(lambda series: asked.append(series) or series.name)
    layout.read(b'a{x="1"} 1\nb 2\n')
    assert layout.changed
    assert layout.read(b'a{x="1"} 3\nb 4e2\n') == [3.0, 400.0]
    assert not layout.changed
    assert len(asked) == 2


def test_only_a_new_series_is_parsed_when_lines_move() -> None:
    asked: list[str] = []
    layout = Layout(lambda series: asked.append(series.name) or series.name)
    layout.read(b"a 1\nb 2\n")
    assert layout.read(b"b 5\nc 6\na 7\n") == [5.0, 6.0, 7.0]
    assert asked == ["a", "b", "c"]
    assert list(layout.bound) == ["b", "c", "a"]


def test_a_series_that_left_gives_no_value_and_not_its_old_one() -> None:
    layout = Layout(lambda series: series.name)
    layout.read(b"a 1\nb 2\n")
    assert layout.read(b"a 1\n") == [1.0]
    assert list(layout.bound) == ["a"]


def test_a_line_that_only_begins_like_a_known_one_is_read_as_what_it_is() -> None:
    layout = Layout(key_of)
    layout.read(b"a 1\n")
    assert read(layout, 'a {x="1"} 2\n') == [(("a", (("x", "1"),)), 2.0)]


def test_unwanted_series_cost_no_number() -> None:
    layout = Layout(lambda series: series.name if series.name == "a" else None)
    assert layout.read(b"a 1\nb not_looked_at_again 1\n".replace(b"not_looked_at_again 1", b"3")) == [1.0]
    assert layout.read(b"a 2\nb 4\n") == [2.0]


def test_an_exemplar_is_passed_over() -> None:
    layout = Layout(key_of)
    first = read(layout, 'f_bucket{le="1"} 3 # {trace_id="x y}"} 0.5 1.6e9\n# EOF\n')
    assert first == [(("f_bucket", (("le", "1"),)), 3.0)]
    assert read(layout, 'f_bucket{le="1"} 4 # {trace_id="z"} 0.7\n# EOF\n')[0][1] == 4.0


def test_timestamps_are_milliseconds_and_in_openmetrics_seconds_with_a_point() -> None:
    assert read_value(b"1.5 1395066363000").timestamp_ms == 1395066363000
    assert read_value(b"1.5 1395066363.25").timestamp_ms == 1395066363250
    layout = Layout(key_of)
    layout.read(b"a 1 1000\nb 2\n")
    assert layout.timestamps_ms == {0: 1000}
    layout.read(b"a 1 2000\nb 2\n")
    assert layout.timestamps_ms == {0: 2000}
    layout.read(b"a 1\nb 2\n")
    assert layout.timestamps_ms == {}


def test_a_name_in_quotes_is_a_name() -> None:
    layout = Layout(key_of)
    assert read(layout, '{"my.power", unit="W"} 5\n') == [(("my.power", (("unit", "W"),)), 5.0)]


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "a{",
        'a{x="1"',
        'a{x="1} 2',
        "a{x=1} 2",
        'a{x="1" y="2"} 3',
        'a{x="1",x="2"} 3',
        "a one",
        "a 1 2 3",
        "a 1_000",
        '{x="1"} 2',
        "<html><body>Not found</body></html>",
        'a{="1"} 2',
    ],
)
def test_a_line_that_is_not_in_the_format_is_refused_with_its_number(line: str) -> None:
    with pytest.raises(ExpositionError, match="line 2"):
        Layout(key_of).read(f"ok 1\n{line}\n".encode())


def test_a_broken_scrape_leaves_the_layout_as_it_was() -> None:
    layout = Layout(lambda series: series.name)
    layout.read(b"a 1\nb 2\n")
    with pytest.raises(ExpositionError):
        layout.read(b"a 1\nb {\n")
    assert layout.read(b"a 3\nb 4\n") == [3.0, 4.0]


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ExpositionError, match="line 1"):
        Layout(key_of).read(b'a{x="\xff"} 1\n')
