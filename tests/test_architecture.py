"""Imports go down only, and each package imports only what is its own."""

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = {"collector": 0, "analytics": 1, "dashboards": 2, "cli": 3}
VOCABULARY = {
    "collector.units",
    "collector.catalogue",
    "collector.nvidia",
    "collector.sample",
    "collector.errors",
    "collector.config",
}

# What a package may import from outside the standard library; the longest prefix decides.
ALLOWED = {
    "collector": set(),
    "collector.commands": {"typer"},
    "collector.options": {"typer"},
    "collector.exposition": {"prometheus_client"},
    "collector.server": {"prometheus_client"},
    "collector.web_config": {"yaml", "bcrypt"},
    "collector.imports": {"polars", "typer", "aiohttp"},
    "collector.sources.nvml": {"pynvml"},
    "collector.sources.scrape": {"aiohttp", "yaml"},
    "collector.sources.simulated": {"numpy"},
    "collector.store": {"duckdb"},
    "collector.store.arrays": {"numpy"},
    "collector.store.encoding": {"numpy"},
    "collector.store.repacking": {"numpy"},
    "collector.store.places": {"numpy"},
    "collector.store.rolling": {"numpy"},
    "collector.store.windows": {"numpy"},
    "analytics": {"polars", "numpy", "sklearn", "scipy"},
    "analytics.anomalies.expectation": {"polars", "numpy", "sklearn", "threadpoolctl"},
    "analytics.commands": {"polars", "typer"},
    "analytics.forecasts.methods": {"numpy", "sklearn", "threadpoolctl"},
    "analytics.effects": {"polars", "numpy", "scipy"},
    "dashboards": {
        "polars",
        "dash",
        "dash_mantine_components",
        "dash_ag_grid",
        "plotly",
        "fastapi",
        "starlette",
        "uvicorn",
    },
    "dashboards.commands": {"typer"},
    "dashboards.terminal": {"rich"},
    "cli": {"typer", "rich"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("collector", "analytics", "dashboards"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path
    yield "cli", ROOT / "cli.py"


def imports(path: Path, *, module: str = "") -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


MODULES = dict(modules())


def is_module(name: str) -> bool:
    return name in MODULES


def allowed(module: str) -> set[str]:
    prefixes = [key for key in ALLOWED if module == key or module.startswith((f"{key}.", f"{key}_"))]
    return ALLOWED[max(prefixes, key=len)]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_and_stay_within_the_allow_list(module: str) -> None:
    for name in imports(MODULES[module], module=module):
        top = name.split(".")[0]
        if top in LAYERS:
            assert LAYERS[top] <= LAYERS[module.split(".", maxsplit=1)[0]], f"{module} imports {name}"
        else:
            assert top in sys.stdlib_module_names or top in allowed(module), f"{module} imports {name}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("collector.sources.")])
def test_a_source_knows_neither_store_nor_exposition_nor_another_source(module: str) -> None:
    family = module.removeprefix("collector.sources.").split(".")[0].split("_")[0]
    for name in filter(is_module, imports(MODULES[module])):
        if name.startswith("collector.sources."):
            other = name.removeprefix("collector.sources.").split(".")[0]
            assert other.split("_")[0] == family or other in {"one_by_one", "mappings"}, f"{module} imports {name}"
        else:
            assert name in VOCABULARY | {"collector", "collector.sources"}, f"{module} imports {name}"


@pytest.mark.parametrize("module", sorted(VOCABULARY - {"collector.config"}))
def test_the_vocabulary_needs_the_standard_library_only(module: str) -> None:
    for name in filter(is_module, imports(MODULES[module])):
        assert name in VOCABULARY | {"collector"}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("dashboards.pages.")])
def test_pages_never_import_pages(module: str) -> None:
    others = {name for name in imports(MODULES[module]) if name.startswith("dashboards.pages.")}
    assert not {name for name in others if is_module(name) and name != module}


def test_the_wheel_has_four_top_level_names(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
        ".",
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/", 1)[0].removesuffix(".py") for name in names if ".dist-info/" not in name}
    assert tops == {"analytics", "cli", "collector", "dashboards"}
    assert any(name.endswith("collector/METRICS.md") for name in names)
