"""
What a page can be asked, as its URL says it and as its head shows it.

A page lists its controls. Each has a key in the URL's query, a usual value that the URL leaves out, and a component.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol
from urllib.parse import parse_qs, urlencode

import dash_mantine_components as dmc
from dash import html

from collector.errors import ConfigError

Value = str | tuple[str, ...] | datetime | None
Values = Mapping[str, Value]
"""What was asked, by key."""

WINDOWS: Final = {"15m": 900, "1h": 3600, "6h": 21_600, "24h": 86_400, "7d": 604_800}
"""The windows on offer, in seconds."""


Sort = Literal["one", "many", "time"]
"""What a component's value is: a word, a list of words, a time without a zone."""


class Control(Protocol):
    """
    One question: its key, its name for people, and its value in three forms; `sort` is which of those the browser has.

    `said` is the value in the URL's words (raises ValueError for what it cannot be), `words` the way back, `picked` the
    value as the component gives it. `offered` is whether what there is to choose from depends on the store.
    """

    @property
    def key(self) -> str: ...  # noqa: D102 - see above
    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def usual(self) -> Value: ...  # noqa: D102
    @property
    def offered(self) -> bool: ...  # noqa: D102
    @property
    def sort(self) -> Sort: ...  # noqa: D102

    def said(self, words: Sequence[str]) -> Value: ...  # noqa: D102
    def words(self, value: Value) -> Sequence[str]: ...  # noqa: D102
    def picked(self, raw: Any) -> Value: ...  # noqa: D102
    def component(self, id: str, value: Value, offer: Sequence[str], /) -> Any: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few."""

    key: str
    label: str
    values: tuple[str, ...]
    usual: str
    offered: bool = False
    sort: Sort = "one"

    def said(self, words: Sequence[str]) -> str:
        """The last word, which must be one of the values."""
        if words[-1] not in self.values:
            raise ValueError(f"{words[-1]!r} is none of {', '.join(self.values)}")
        return words[-1]

    def words(self, value: Value) -> Sequence[str]:
        """The value."""
        return (str(value),)

    def picked(self, raw: Any) -> str:
        """The value."""
        return raw if raw in self.values else self.usual

    def component(self, id: str, value: Value, _offer: Sequence[str], /) -> Any:
        """A row of buttons."""
        control = dmc.SegmentedControl(id=id, data=list(self.values), value=str(value), size="sm")
        named: dict[str, Any] = {"role": "group", "aria-labelledby": f"{id}-label"}
        label = dmc.Text(self.label, size="sm", fw=500, id=f"{id}-label", mb=2)
        return html.Div([label, control], className="pw-choice", **named)


@dataclass(frozen=True, slots=True)
class Choices:
    """Any of many; none chosen is all."""

    key: str
    label: str
    usual: tuple[str, ...] = ()
    offered: bool = True
    sort: Sort = "many"

    def said(self, words: Sequence[str]) -> tuple[str, ...]:
        """All words; an empty one alone says that nothing is chosen, where something usually is."""
        return tuple(word for word in words if word)

    def words(self, value: Value) -> Sequence[str]:
        """The values, or one empty word."""
        return _several(value) or ("",)

    def picked(self, raw: Any) -> tuple[str, ...]:
        """The values."""
        return tuple(raw or ())

    def component(self, id: str, value: Value, offer: Sequence[str], /) -> Any:
        """A field that searches."""
        chosen = _several(value)
        select = dmc.MultiSelect(
            id=id,
            label=self.label,
            data=sorted({*offer, *chosen}),
            value=list(chosen),
            placeholder="" if chosen else "all",
            searchable=True,
            clearable=True,
            hidePickedOptions=True,
            limit=200,
            # Hundreds of options that nobody looks at would be made anew with each choice.
            comboboxProps={"keepMounted": False},
            size="sm",
            nothingFoundMessage="there is none",
            clearButtonProps={"aria-label": f"Clear {self.label.lower()}"},
        )
        return html.Div(select, className="pw-choices")


@dataclass(frozen=True, slots=True)
class One:
    """One of many; `placeholder` says what none picked means."""

    key: str
    label: str
    usual: str = ""
    offered: bool = True
    placeholder: str = ""
    sort: Sort = "one"

    def said(self, words: Sequence[str]) -> str:
        """The last word."""
        return words[-1]

    def words(self, value: Value) -> Sequence[str]:
        """The value."""
        return (str(value),)

    def picked(self, raw: Any) -> str:
        """The value; nothing picked is the usual one."""
        return raw or self.usual

    def component(self, id: str, value: Value, offer: Sequence[str], /) -> Any:
        """A field that searches."""
        select = dmc.Select(
            id=id,
            label=self.label,
            data=sorted({*offer, *([str(value)] if value else [])}),
            value=str(value) or None,
            placeholder=self.placeholder,
            searchable=True,
            clearable=True,
            limit=200,
            # Hundreds of options that nobody looks at would be made anew with each choice.
            comboboxProps={"keepMounted": False},
            size="sm",
            nothingFoundMessage="there is none",
            clearButtonProps={"aria-label": f"Clear {self.label.lower()}"},
        )
        return html.Div(select, className="pw-choices")


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within limits."""

    key: str
    label: str
    usual: str
    low: int
    high: int
    offered: bool = False
    sort: Sort = "one"

    def said(self, words: Sequence[str]) -> str:
        """The last word, which must be such a number."""
        if not words[-1].isdecimal() or not self.low <= int(words[-1]) <= self.high:
            raise ValueError(f"{words[-1]!r} is no whole number from {self.low} to {self.high}")
        return str(int(words[-1]))

    def words(self, value: Value) -> Sequence[str]:
        """The number."""
        return (str(value),)

    def picked(self, raw: Any) -> str:
        """The number; what is none is the usual one."""
        try:
            return self.said([str(raw)])
        except ValueError:
            return self.usual

    def component(self, id: str, value: Value, _offer: Sequence[str], /) -> Any:
        """A field with steps; it answers when the typing stops."""
        field = dmc.NumberInput(
            id=id,
            label=self.label,
            value=int(str(value)),
            min=self.low,
            max=self.high,
            allowDecimal=False,
            allowNegative=False,
            clampBehavior="strict",
            debounce=600,
            size="sm",
        )
        return html.Div(field, className="pw-whole")


@dataclass(frozen=True, slots=True)
class Until:
    """The end of the window; none is now, and the page follows the clock."""

    key: str = "until"
    label: str = "Until (UTC)"
    usual: None = None
    offered: bool = False
    sort: Sort = "time"

    def said(self, words: Sequence[str]) -> datetime:
        """The time in ISO form; UTC where it names no zone."""
        found = datetime.fromisoformat(words[-1].replace("Z", "+00:00"))
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    def words(self, value: Value) -> Sequence[str]:
        """The time in ISO form, in UTC."""
        return (value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),) if isinstance(value, datetime) else ()

    def picked(self, raw: Any) -> datetime | None:
        """The time; None where nothing is picked."""
        try:
            return self.said([raw]) if raw else None
        except ValueError:
            return None

    def component(self, id: str, value: Value, _offer: Sequence[str], /) -> Any:
        """A calendar with a clock."""
        return dmc.DateTimePicker(
            id=id,
            label=self.label,
            value=value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if isinstance(value, datetime) else None,
            placeholder="now, live",
            valueFormat="YYYY-MM-DD HH:mm:ss",
            withSeconds=True,
            clearable=True,
            size="sm",
            className="pw-until",
            clearButtonProps={"aria-label": "Clear: follow the clock", "tabIndex": 0},
        )


WINDOW: Final = Choice("window", "Window", tuple(WINDOWS), "1h")
UNTIL: Final = Until()
SITES: Final = Choices("site", "Sites")
HOSTS: Final = Choices("host", "Hosts")
DEVICES: Final = Choices("device", "Devices")


def read(controls: Sequence[Control], search: str, *, strict: bool = False) -> dict[str, Value]:
    """
    What a URL's query asks; what it says wrongly is as if it were not there.

    Raises: ConfigError when *strict*, with the key and what it may be.
    """
    query = parse_qs((search or "").removeprefix("?"), keep_blank_values=True)
    known = {control.key: control for control in controls}
    for key in query.keys() - known.keys() if strict else ():
        raise ConfigError(key, f"is no parameter of this page; known are {', '.join(known)}")
    found: dict[str, Value] = {}
    for control in controls:
        found[control.key] = control.usual
        if control.key in query:
            try:
                found[control.key] = control.said(query[control.key])
            except ValueError as error:
                if strict:
                    raise ConfigError(control.key, str(error)) from error
    return found


def write(controls: Sequence[Control], values: Values) -> str:
    """The query that asks the same again; what is usual is left out."""
    pairs = [
        (control.key, word)
        for control in controls
        if values[control.key] != control.usual
        for word in control.words(values[control.key])
    ]
    return "?" + urlencode(pairs) if pairs else ""


def _several(value: Value) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()
