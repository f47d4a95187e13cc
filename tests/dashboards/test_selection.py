"""A URL reproduces a page."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.selection import BYS, WINDOWS, Selection, from_query, to_query

names = st.lists(st.text(min_size=1, max_size=12), max_size=3).map(tuple)


@given(
    st.builds(
        Selection,
        window=st.sampled_from(sorted(WINDOWS)),
        by=st.sampled_from(BYS),
        sites=names,
        hosts=names,
        devices=names,
        until=st.none()
        | st.datetimes(datetime(2000, 1, 1), timezones=st.just(UTC)).map(lambda t: t.replace(microsecond=0)),
    )
)
def test_what_is_chosen_survives_the_url(selection: Selection) -> None:
    assert from_query(to_query(selection)) == selection


def test_the_usual_page_has_a_bare_url() -> None:
    assert to_query(Selection()) == ""
    assert from_query("") == Selection()


@pytest.mark.parametrize("query", ["?window=99y", "?by=rack", "?until=soon", "?window=&by=", "?nonsense"])
def test_what_a_url_says_wrongly_is_as_if_it_were_not_there(query: str) -> None:
    assert from_query(query) == Selection()
