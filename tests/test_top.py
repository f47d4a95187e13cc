"""What `top` shows: the last of everything, and nothing of what is stale."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import monotonic

import pytest
from rich.console import Console
from typer.testing import CliRunner

import cli
from analytics.inventory import held
from analytics.subjects import By, Sort
from analytics.top import Line, Overview, overview
from collector.store import Store
from dashboards.terminal import View, chosen, frame, pressed, shortened, sparkline, watts

T0 = 1_767_225_600_000_000_000
S = 1_000_000_000
NOW = T0 + 600 * S


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three devices on two hosts; b went silent three minutes ago; c never spoke, and c/1 is a partition of a."""
    path = tmp_path_factory.mktemp("top") / "store"
    store = Store.create(path)
    times = [T0 + s * S for s in range(0, 601, 10)]
    until = [time for time in times if time <= NOW - 180 * S]
    for device, host, watt, when in (
        ("a", "one", 300.0, times),
        ("b", "two", 200.0, until),
        ("a/1", "one", 9.0, times),
    ):
        rows = {
            "device": [device] * len(when),
            "time": when,
            "source": ["s"] * len(when),
            "host": [host] * len(when),
            "power_w": [watt] * len(when),
            "utilization_ratio": [0.5] * len(when),
        }
        store.write("device_samples", rows, writer=device.replace("/", "-"))
    store.write(
        "devices",
        {
            "device": ["a", "b", "c", "a/1"],
            "time": [T0] * 4,
            "source": ["s"] * 4,
            "host": ["one", "two", "one", "one"],
            "parent": [None, None, None, "a"],
            "power_limit_w": [700.0] * 4,
        },
    )
    store.write(
        "workload_samples",
        {
            "workload": ["w"] * len(times),
            "time": times,
            "source": ["s"] * len(times),
            "tokens_out": [10.0 * (time - T0) / S for time in times],
        },
    )
    # It began a year before the window, and has not ended.
    start = T0 - 365 * 86_400 * S
    store.write("allocations", {"workload": ["w"], "device": ["a"], "start": [start], "time": [start], "source": ["s"]})
    return path


def lines(root: Path, by: By) -> dict[str, Line]:
    return {line.name: line for line in overview(root, by=by, now_ns=NOW).lines}


def test_a_device_that_fell_silent_is_stale_and_its_last_power_is_not_shown(root: Path) -> None:
    found = lines(root, By.DEVICE)
    assert (found["a"].power_w, found["a"].stale) == (300.0, False)
    assert (found["b"].power_w, found["b"].utilization_ratio, found["b"].stale) == (None, None, True)
    assert found["b"].age_s == 180.0


def test_a_device_that_was_never_read_is_shown_as_missing(root: Path) -> None:
    line = lines(root, By.DEVICE)["c"]
    assert (line.stale, line.age_s, set(line.trend)) == (True, None, {None})


def test_totals_leave_out_partitions_and_what_is_stale(root: Path) -> None:
    seen = overview(root, by=By.DEVICE, now_ns=NOW)
    assert (seen.power_w, seen.devices, seen.stale) == (300.0, 3, 2)


def test_hosts_sum_their_devices_and_say_how_many_answer(root: Path) -> None:
    found = lines(root, By.HOST)
    assert (found["one"].power_w, found["one"].about) == (300.0, "1 of 2 devices")
    assert (found["two"].power_w, found["two"].stale) == (None, True)


def test_the_trend_has_gaps_where_nothing_was_measured(root: Path) -> None:
    trend = lines(root, By.DEVICE)["b"].trend
    assert trend[0] == 200.0
    assert trend[-1] is None


def test_workloads_have_tokens_and_joules_within_the_window_alone(root: Path) -> None:
    line = lines(root, By.WORKLOAD)["w"]
    assert line.tokens_per_s == pytest.approx(10.0)
    assert line.joules_per_token == pytest.approx(30.0)
    assert [value for value in line.trend if value is not None] == pytest.approx(
        [10.0] * sum(v is not None for v in line.trend)
    )


def test_an_allocation_is_cut_to_the_window_and_the_latest_word_counts() -> None:
    import polars as pl

    time = pl.Datetime("ns")
    frame = pl.LazyFrame(
        {
            "workload": ["w", "w", "v"],
            "device": ["d"] * 3,
            "start": [0, 0, 50],
            "time": [1, 60, 50],
            "end": [None, 60, None],
        },
        schema_overrides={"start": time, "time": time, "end": time},
    )
    found = held(frame, 40, 100).select("workload", pl.col("start", "end").cast(pl.Int64)).sort("workload").collect()
    assert found.rows() == [("v", 50, 100), ("w", 40, 60)]
    assert held(frame, 70, 100).select("workload").collect()["workload"].to_list() == ["v"]


# --------------------------------------------------------------------------------------------------------- the screen


def drawn(seen: Overview, view: View, *, columns: int = 80, rows: int = 24, unicode: bool = True) -> list[str]:
    console = Console(width=columns, no_color=True, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(frame(seen, view, columns=columns, rows=rows, unicode=unicode), end="")
    return capture.get().splitlines()


MANY = Overview(
    by=By.DEVICE,
    now_ns=NOW,
    window_s=600.0,
    lines=tuple(
        Line(
            name=f"GPU-{n:08d}-aaaa-bbbb-cccc-{n:012d}",
            about=f"host-{n}:0 X",
            power_w=float(n),
            age_s=1.0,
            trend=(1.0,) * 20,
        )
        for n in range(100)
    ),
    power_w=4950.0,
    devices=100,
)


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (200, 50), (60, 10)])
@pytest.mark.parametrize("by", By)
def test_a_frame_fits_the_terminal(root: Path, by: By, columns: int, rows: int) -> None:
    for seen in (MANY, overview(root, by=by, now_ns=NOW)):
        text = drawn(seen, View(by=seen.by), columns=columns, rows=rows)
        assert len(text) <= rows
        assert max(map(len, text)) <= columns


def test_a_frame_of_a_terminal_without_unicode_has_ascii_bars() -> None:
    assert all(ord(c) < 128 or c in "…°" for c in "".join(drawn(MANY, View(), unicode=False)))


def test_lines_are_sorted_with_the_unknown_last_either_way() -> None:
    some = [Line(name="a", power_w=1.0), Line(name="b"), Line(name="c", power_w=3.0)]
    assert [x.name for x in chosen(some, View())] == ["c", "a", "b"]
    assert [x.name for x in chosen(some, View(reverse=True))] == ["a", "c", "b"]
    assert [x.name for x in chosen(some, View(sort=Sort.NAME, reverse=True))] == ["c", "b", "a"]


def test_the_filter_looks_at_names_and_places() -> None:
    some = [Line(name="GPU-1", about="node7:0"), Line(name="GPU-2", about="node8:0")]
    assert [x.name for x in chosen(some, View(match="NODE7"))] == ["GPU-1"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("h", View(by=By.HOST)),
        ("w", View(by=By.WORKLOAD)),
        ("hd", View()),
        ("s", View(sort=Sort.UTILIZATION)),
        ("r", View(reverse=True)),
        ("/q1\r", View(match="q1")),
        ("/ab\x7f", View(match="a", typing=True)),
        ("/ab\x1b", View()),
        ("jjk", View(first=1)),
        ("kk", View()),
        ("wssh", View(by=By.HOST)),
        ("\x00?", View()),
    ],
)
def test_keys_change_the_view(keys: str, expected: View) -> None:
    view: View | None = View()
    for key in keys:
        assert view is not None
        view = pressed(view, key)
    assert view == expected


def test_q_quits_but_not_in_the_filter() -> None:
    assert pressed(View(), "q") is None
    assert pressed(View(typing=True), "q") == View(typing=True, match="q")


def test_a_label_cannot_move_the_cursor() -> None:
    seen = Overview(
        by=By.DEVICE, now_ns=NOW, window_s=600.0, lines=(Line(name="\x1b[2Jevil", about="a\nb", age_s=0.0),)
    )
    text = drawn(seen, View())
    assert "\x1b" not in "".join(text)
    assert sum("evil" in line for line in text) == 1


def test_a_gap_in_a_sparkline_is_a_space_and_bars_begin_at_zero() -> None:
    assert sparkline((0.0, None, 50.0, 100.0), 100.0, 10) == "▁ ▅█"
    assert sparkline((1.0, 2.0, 3.0), 3.0, 2) == "▆█"
    assert sparkline((0.0,), 0.0, 5) == "▁"


def test_words_are_short() -> None:
    assert [watts(v) for v in (None, 5.25, 700.0, 999.96, 28_330.0, 1.5e6)] == [
        "-",
        "5.2 W",
        "700 W",
        "1.00kW",
        "28.33kW",
        "1.50MW",
    ]
    assert shortened("GPU-0123456789-abcdef", 9) == "GPU-…cdef"


class Page(BaseHTTPRequestHandler):
    """An agent with two devices and a service that makes 100 tokens a second, however soon it is looked at again."""

    def do_GET(self) -> None:
        lines = [
            f'accel_power_watts{{device="GPU-{n}",host="far",method="instant",model="X",scope="device"}} {100 * n}'
            for n in (1, 2)
        ]
        lines.append(f'workload_tokens_total{{direction="out",model="m",workload="chat"}} {100 * monotonic():.3f}')
        body = "\n".join([*lines, 'accel_info{device="GPU-1",host="far",ordinal="3"} 1', ""]).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def top(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, ["top", "--once", *arguments], env={"COLUMNS": "120"})
    return result.exit_code, result.stdout, result.stderr


def test_an_agent_is_looked_at_by_its_address(address: str) -> None:
    code, shown, _ = top("--url", address)
    assert code == 0
    assert "300 W  2 devices" in shown
    assert "far:3 X" in shown
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("GPU-")] == ["GPU-2", "GPU-1"]


def test_a_service_of_an_agent_has_a_rate_from_two_looks(address: str) -> None:
    code, shown, _ = top("--url", address, "--by", "workload", "--interval", "0.5")
    (line,) = (line for line in shown.splitlines() if line.startswith("chat"))
    assert code == 0
    assert 50 < float(line.split()[5]) < 150


def test_an_address_that_does_not_answer_is_told_beside_those_that_do(address: str) -> None:
    code, shown, told = top("--url", address, "--url", "127.0.0.1:9")
    assert (code, "300 W" in shown) == (0, True)
    assert "http://127.0.0.1:9/metrics: Cannot connect" in told
    code, shown, told = top("--url", "127.0.0.1:9")
    assert (code, shown) == (3, "")


def test_what_is_no_address_and_what_is_two_places_is_refused(root: Path) -> None:
    assert top("--url", "ftp://x")[0] == 2
    assert top("--url", "x:1", "--store", str(root))[0] == 2
