"""A URL reproduces a page."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import ConfigError
from dashboards.controls import DEVICES, SITES, UNTIL, WINDOW, WINDOWS, Choice, Choices, One, read, write
from dashboards.selection import Selection, selection_of

BY = Choice("by", "Group by", ("site", "host"), "host")
PHASE = Choices("phase", "Phase", usual=("run_1",))
JOB = One("id", "Job")
CONTROLS = (WINDOW, BY, UNTIL, SITES, DEVICES, PHASE, JOB)

names = st.lists(st.text(min_size=1, max_size=12), max_size=3).map(tuple)


@given(
    st.fixed_dictionaries(
        {
            "window": st.sampled_from(sorted(WINDOWS)),
            "by": st.sampled_from(BY.values),
            "site": names,
            "device": names,
            "phase": names,
            "id": st.text(max_size=12),
            "until": st.none()
            | st.datetimes(datetime(2000, 1, 1), timezones=st.just(UTC)).map(lambda t: t.replace(microsecond=0)),
        }
    )
)
def test_what_is_chosen_survives_the_url(values: dict[str, object]) -> None:
    assert read(CONTROLS, write(CONTROLS, values)) == values  # type: ignore[arg-type]
    assert read(CONTROLS, write(CONTROLS, values), strict=True) == values  # type: ignore[arg-type]


def test_the_usual_page_has_a_bare_url() -> None:
    assert write(CONTROLS, read(CONTROLS, "")) == ""
    assert read(CONTROLS, "")["phase"] == ("run_1",)


def test_nothing_chosen_where_something_usually_is_is_said() -> None:
    everything = {**read(CONTROLS, ""), "phase": ()}
    assert write(CONTROLS, everything) == "?phase="
    assert read(CONTROLS, "?phase=") == everything


@pytest.mark.parametrize("query", ["?window=99y", "?by=rack", "?until=soon", "?window=&by=", "?nonsense=1"])
def test_what_a_url_says_wrongly_is_as_if_it_were_not_there(query: str) -> None:
    assert read(CONTROLS, query) == read(CONTROLS, "")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?window=99y", "window: '99y' is none of 15m, 1h, 6h, 24h, 7d"),
        ("?by=rack", "by: 'rack' is none of site, host"),
        ("?until=soon", "until: Invalid isoformat string: 'soon'"),
        ("?nonsense=1", "nonsense: is no parameter of this page; known are window, by, until, site, device, phase, id"),
    ],
)
def test_a_program_is_told_what_it_says_wrongly(query: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(CONTROLS, query, strict=True)
    assert str(raised.value) == message


def test_a_selection_is_what_the_controls_of_a_page_say() -> None:
    values = read(CONTROLS, "?window=6h&site=oslo&until=2026-03-04T12:00:00Z")
    assert selection_of(values) == Selection(window="6h", sites=("oslo",), until=datetime(2026, 3, 4, 12, tzinfo=UTC))
