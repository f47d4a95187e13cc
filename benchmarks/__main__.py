"""
``make bench``: run the benchmarks and write RESULTS.md.

``python -m benchmarks agent store`` runs those two only and keeps the other results as they stand.
A benchmark that fails is a row that says so; the exit code is 1 when one failed or a bar was missed.
"""

import importlib
import json
import platform
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from benchmarks.rows import Row

HERE = Path(__file__).parent
NAMES = tuple(
    sorted(
        path.stem
        for path in HERE.glob("*.py")
        if not path.stem.startswith("_") and "\ndef run(" in path.read_text(encoding="utf-8")
    )
)


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    kept = HERE / "results.json"
    results: dict[str, dict[str, object]] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    failed = False
    for name in names or NAMES:
        print(f"benchmark {name}", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            rows: list[Row] = importlib.import_module(f"benchmarks.{name}").run()
        except Exception:  # noqa: BLE001 - one benchmark's failure is a result, the others still run
            traceback.print_exc()
            results[name] = {"error": traceback.format_exc(limit=1).strip().splitlines()[-1]}
            failed = True
            continue
        took_s = time.monotonic() - began
        results[name] = {
            "rows": [asdict(row) for row in rows],
            "took_s": round(took_s, 1),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        failed |= any(row.ok is False for row in rows)
    kept.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (HERE / "RESULTS.md").write_text(page(results), encoding="utf-8")
    return int(failed)


def page(results: dict[str, dict[str, object]]) -> str:
    """RESULTS.md: a table for each benchmark, as last run."""
    lines = [
        "# Results",
        "",
        "Written by `make bench`. A peer or bound stands beside each value, measured in the same run on the same",
        f"machine; machines are shared and noisy, so compare within a row. Last machine: {platform.machine()}, "
        f"{platform.python_implementation()} {platform.python_version()}.",
    ]
    for name in sorted(results):
        result = results[name]
        lines += ["", f"## {name}", ""]
        if "error" in result:
            lines.append(f"Failed: {result['error']}")
            continue
        lines += [
            f"{result['date']}, {result['took_s']} s.",
            "",
            "| subject | measure | value | peer | bar | met |",
            "|---|---|---|---|---|---|",
        ]
        rows = result["rows"]
        assert isinstance(rows, list)
        lines += [_line(row) for row in rows]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, object]) -> str:
    peer = "" if row["peer"] is None else f"{row['peer']}: {_number(row['peer_value'])}"
    met = {True: "yes", False: "**no**", None: ""}[row["ok"]]  # type: ignore[index]
    value = f"{_number(row['value'])} {row['unit']}"
    return f"| {row['subject']} | {row['measure']} | {value} | {peer} | {row['bar']} | {met} |"


def _number(value: object) -> str:
    if value is None:
        return "-"
    number = float(value)  # type: ignore[arg-type]
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
