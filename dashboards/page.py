"""
What every page is and does: a URL that says all of it, a head with the same controls, content that follows both.

A page is a value: it says what it can be asked, which parts it has and how they are filled; nothing registers itself.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

import polars as pl
from dash import Dash, Input, Output, State, dcc, html
from plotly.utils import PlotlyJSONEncoder as _Encoder

from collector.errors import TelemetryError
from dashboards.controls import UNTIL, Control, Values, read, write
from dashboards.data.fleet import Known
from dashboards.data.stored import Stored
from dashboards.figures.figure import Figure
from dashboards.figures.style import fitted, hidden
from dashboards.grids import Grid, height
from dashboards.markup import markup
from dashboards.parts import REFRESH_S, labelled, legend, notice
from dashboards.words import when

_FORMS: Final = ("csv", "json")
# In the browser, so that the URL is there before anything else can happen: an answer of the server that came after
# somebody went back would take the page forth again.
_REMEMBER: Final = """function(...given) {
    const page = %s, here = given[page.controls.length];
    return window.perfwatt.remembered(page, given, here);
}"""
_SHOW: Final = "function(news) { return window.perfwatt.show(%s, news); }"
_BUSY: Final = """function() {
    window.perfwatt.busy("page", true);
    return window.dash_clientside.no_update;
}"""

Offer = Mapping[str, Sequence[str]]
"""What there is to choose from, by a control's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A chart: the figure, the sentence that says the same, and what its colours mean."""

    figure: Figure
    words: str
    legend: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a page shows: `charts`, `grids` (frames) and `slots` (components) by name; `notice` is above everything."""

    status: str = ""
    notice: Any = None
    tiles: Sequence[Any] = ()
    charts: Mapping[str, Drawn] = field(default_factory=dict)
    grids: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    slots: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """
    A page.

    `name` begins its ids and is its path, unless it is `at` another; `label` and `group` are its place in the
    navigation (no label: none), where a page without a label is `within` another. `body` gives what is below the tiles,
    with the charts, grids and slots that are named here. `content` fills it, `offer` says what there is to choose from,
    and `twins` are its tables as a program takes them, by the name of the chart or grid they belong to; the first is
    the page's own; `linked` are those that are linked elsewhere on it. A page `of` something has it behind its path:
    the value of the control of that key.

    A page without charts comes filled: nothing of it depends on light and dark, which the server does not know.
    """

    name: str
    label: str
    group: str
    title: str
    about: str
    controls: tuple[Control, ...]
    body: Callable[[], Sequence[Any]]
    content: Callable[[Stored, Values, str], Content]
    twins: Mapping[str, Callable[[Stored, Values], pl.DataFrame]]
    offer: Callable[[Stored, Values], Offer] | None = None
    charts: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()
    slots: tuple[str, ...] = ()
    linked: tuple[str, ...] = ()
    within: str = ""
    live: bool = False
    at: str = ""
    of: str = ""

    @property
    def path(self) -> str:
        """Where it is."""
        return self.at or f"/{self.name}"

    def holds(self, path: str) -> bool:
        """Whether *path* is the page's, or of something that the page is of."""
        return path == self.path or bool(self.of and path.startswith(f"{self.path}/"))

    @property
    def filled(self) -> bool:
        """Whether the page comes with its content; others are filled once it is known whether it is light or dark."""
        return not self.charts

    def layout(self, stored: Stored, search: str, path: str = "") -> Any:
        """The page as its URL says it; unless it comes `filled`, still empty."""
        values = self._said(search, path)
        offer = self._offer(stored, values)
        live = self._follows(values)
        unseen = (
            dcc.Interval(id=self.id("tick"), interval=REFRESH_S * 1000, disabled=not live, max_intervals=-1),
            dcc.Store(id=self.id("shown"), data=self._news(stored, values, "light", None) if self.filled else None),
            dcc.Store(id=self.id("has")),
        )
        head = [
            control.component(self.id(control.key), values[control.key], offer.get(control.key, ()))
            for control in self.controls
        ]
        return self._laid(head, unseen)

    def plain(self, stored: Stored, search: str, path: str = "") -> Any:
        """The page with its content in its places, but for charts and grids, as a browser shows it without scripts."""
        # A field is of no use before its script; its place is kept.
        laid = self._laid(
            [html.Div([control.label, html.Div()], className="pw-first-field") for control in self.controls]
        )
        for id, part in self._parts(stored, self._said(search, path), "light").items():
            if "html" in part:
                laid[id].children = part["html"]
        return laid

    def _said(self, search: str, path: str) -> Values:
        values = read(self.controls, search)
        if self.of and path.startswith(f"{self.path}/"):
            values[self.of] = unquote(path.removeprefix(f"{self.path}/"))
        return values

    def _laid(self, head: Sequence[Any], unseen: Sequence[Any] = ()) -> Any:
        return html.Div(
            [
                *unseen,
                html.H1(self.title),
                html.P(self.about, className="pw-small pw-dim pw-about"),
                html.Div(head, className="pw-filters", role="search", **labelled("What is shown")),
                html.Div(id=self.id("notice"), role="status"),
                html.P(id=self.id("status"), className="pw-small pw-dim pw-status"),
                html.Div(id=self.id("tiles"), className="pw-tiles"),
                *self.body(),
            ],
            className="pw-stack",
        )

    def register(self, app: Dash, stored: Stored) -> None:
        """Connect the page to its data."""
        asked = [self.id(control.key) for control in self.controls]
        choices = [Input(id, "value") for id in asked]
        parts = [*self.charts, *(grid.name for grid in self.grids)]
        linked = [name for name in self.twins if name in {*parts, *self.linked}]

        @app.callback(
            Output(self.id("shown"), "data"),
            *choices,
            (State if self.filled else Input)("theme", "data"),
            Input(self.id("tick"), "n_intervals"),
            State(self.id("has"), "data"),
            prevent_initial_call=self.filled,
        )
        async def show(*given: Any) -> str:
            # In a thread: the event loop has others to answer.
            values, theme, has = self._values(given[: len(asked)]), given[len(asked)] or "light", given[-1]
            return await asyncio.to_thread(self._news, stored, values, theme, has)

        addressed = [Output("url", "pathname", allow_duplicate=True)] if self.of else []
        on_client: Any = app.clientside_callback
        on_client(_SHOW % json.dumps(self.name), Output(self.id("has"), "data"), Input(self.id("shown"), "data"))
        if choices:
            still = Output(self.id("has"), "data", allow_duplicate=True)
            on_client(_BUSY, still, *choices, prevent_initial_call=True)
        on_client(
            _REMEMBER % json.dumps(self._spec(linked)),
            *addressed,
            Output("url", "search", allow_duplicate=True),
            Output("written", "data", allow_duplicate=True),
            Output(self.id("tick"), "disabled"),
            *choices,
            State("url", "pathname"),
            prevent_initial_call="initial_duplicate",
        )

        offered = [control for control in self.controls if control.offered]
        if offered:
            fixed = [self.id(control.key) for control in self.controls if not control.offered]

            @app.callback(
                # A list also where there is one: Dash takes a lone output's answer as it is.
                [Output(self.id(control.key), "data") for control in offered],
                Input(self.id("tick"), "n_intervals"),
                *(Input(id, "value") for id in fixed),
                *(State(id, "value") for id in asked),
                prevent_initial_call=True,
            )
            async def choose(*given: Any) -> tuple[Any, ...]:
                values = self._values(given[1 + len(fixed) :])
                return await asyncio.to_thread(self._offered, stored, values, offered)

    def _spec(self, linked: Sequence[str]) -> dict[str, Any]:
        """What the browser has to know of the page to write its URL."""
        controls = [
            {"key": control.key, "sort": control.sort, "usual": list(control.words(control.usual))}
            for control in self.controls
        ]
        twins = {self.id(part, form): f"/{self.name}/{part}.{form}" for part in linked for form in _FORMS}
        return {"path": self.path, "of": self.of, "live": self.live, "controls": controls, "twins": twins}

    def id(self, *words: str) -> str:
        """The id of a part of this page."""
        return "-".join((self.name, *words))

    def _values(self, given: Sequence[Any]) -> Values:
        return {control.key: control.picked(raw) for control, raw in zip(self.controls, given, strict=False)}

    def _follows(self, values: Values) -> bool:
        """Whether the page asks again by itself: it is of now, and the clock goes on."""
        return self.live and values.get(UNTIL.key) is None

    def _offer(self, stored: Stored, values: Values) -> Offer:
        try:
            return {} if self.offer is None else self.offer(stored, values)
        except TelemetryError:
            # The content meets the same error and shows it.
            return {}

    def _offered(self, stored: Stored, values: Values, controls: Sequence[Control]) -> tuple[Any, ...]:
        offer = self._offer(stored, values)
        return tuple(sorted({*offer.get(c.key, ()), *_words(values[c.key])}) for c in controls)

    def _news(self, stored: Stored, values: Values, theme: str, has: Mapping[str, str] | None) -> str:
        """
        What the page shows, as far as the browser does not have it, and what it has then, as JSON.

        A part that is the same is not drawn again. What the browser *has* is known by a digest of each part.
        """
        return changed(self._parts(stored, values, theme), has or {})

    def _parts(self, stored: Stored, values: Values, theme: str) -> dict[str, dict[str, Any]]:
        """By id what the page shows: components as `html`, a `figure`, or the `rows` of a grid with its `height`."""
        try:
            content = self.content(stored, values, theme)
        except TelemetryError as error:
            return {self.id("notice"): {"html": notice("The store cannot be read", str(error), color="red")}}
        told = {"notice": content.notice, "status": content.status, "tiles": list(content.tiles)}
        parts: dict[str, dict[str, Any]] = {}
        for name in self.charts:
            drawn = content.charts.get(name, _NOTHING)
            told |= {f"{name}-words": drawn.words, f"{name}-legend": legend(drawn.legend)}
            parts[self.id(name)] = {"figure": fitted(drawn.figure)}
        for grid in self.grids:
            frame = content.grids.get(grid.name)
            rows = [] if frame is None or frame.is_empty() else grid.rows(frame)
            parts[self.id(grid.name)] = {"rows": rows, "height": height(len(rows))}
        told |= {slot: content.slots.get(slot) for slot in self.slots}
        return parts | {self.id(name): {"html": part} for name, part in told.items()}


def changed(parts: Mapping[str, Mapping[str, Any]], has: Mapping[str, str]) -> str:
    """
    As JSON the *parts* that are not as the browser *has* them, and a digest of each of all that it has then.

    >>> had = json.loads(changed({"a": {"html": html.P("1")}, "b": {"height": "9px"}}, {}))["has"]
    >>> json.loads(changed({"a": {"html": html.P("2")}, "b": {"height": "9px"}}, had))["parts"]
    {'a': {'html': '<p>2</p>'}}
    """
    news, digests = [], {}
    for id, part in parts.items():
        text = json.dumps({form: markup(told) if form == "html" else told for form, told in part.items()}, cls=_Encoder)
        digests[id] = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        if digests[id] != has.get(id):
            news.append(f"{json.dumps(id)}: {text}")
    # No part is put into words a second time.
    return f'{{"parts": {{{", ".join(news)}}}, "has": {json.dumps({**has, **digests})}}}'


def no_samples(path: str, controls: Sequence[Control], values: Values, known: Known) -> Any:
    """Why a page over a window is empty, and the way to where something is."""
    if known.newest is None:
        text = "No agent has written a sample into this store yet. The page follows as soon as one does."
        return notice("The store is empty", text)
    if known.hosts:
        return notice("Nothing matches the filter", "There are samples in this window, but none of what is chosen.")
    places = {control.key: control.usual for control in controls if control.offered}
    query = write(controls, {**values, **places, UNTIL.key: known.newest})
    newest = f"The newest sample of this store is from {when(known.newest)}. "
    link = html.A("Show the window up to it", href=f"{path}{query}", className="pw-link")
    return notice("No sample in this window", [newest, link, "."])


_NOTHING: Final = Drawn(figure=hidden(), words="")


def _words(value: Any) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (value,) if isinstance(value, str) and value else ()
