"""The commands of models: list, compare, promote, rollback."""

# ruff: noqa: ARG001 (the options --quiet and --config act by themselves, when they are read)

import getpass
from pathlib import Path
from typing import Annotated

import typer

from collector.errors import ConfigError
from collector.options import (
    CheckOption,
    ConfigOption,
    FileOption,
    LimitOption,
    OutputOption,
    QuietOption,
    StoreOption,
    TzOption,
    give,
    request,
    say,
    store_root,
    warn,
)
from collector.output import Field, Format

app = typer.Typer(name="models", help="Versions of models: which is in use, and why.", rich_markup_mode=None)

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="The model, as `models list` calls it.")]
CandidateName = Annotated[
    str | None, typer.Argument(metavar="[VERSION]", help="The version; the latest candidate if not given.")
]
SureOption = Annotated[
    float | None,
    typer.Option(
        "--hand-over",
        metavar="MARGIN",
        min=0.0,
        max=0.5,
        help="Keep the old verdict unless the new model's probability is this far from one half; 0: take over outright."
        " As a job would, if not given: by 0.45 or 0.49 where the truth is known.",
    ),
]
ByOption = Annotated[str | None, typer.Option("--by", help="Who decides; the user of this process if not given.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is kept with the version.")]

_COMPARED = (
    ("measure", "VARCHAR"),
    ("value", "DOUBLE"),
    ("low", "DOUBLE"),
    ("high", "DOUBLE"),
    ("champion", "DOUBLE"),
    ("limit", "DOUBLE"),
    ("within", "BOOLEAN"),
    ("blocks", "BIGINT"),
)
_SHORT = (
    "model", "version", "state", "time", "reason", "by", "start", "end", "rows", "error", "champion_error",
    "negative_flip_ratio", "lost_alarm_ratio",
)  # fmt: skip


@app.command("list")
def list_models(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Only this model.")] = None,
    store: StoreOption = None,
    full: Annotated[bool, typer.Option("--all", help="Every column of the table model_versions.")] = False,
    output: OutputOption = Format.TABLE,
    file: FileOption = None,
    limit: LimitOption = None,
    tz: TzOption = "UTC",
    check: CheckOption = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """List the versions of each model, the one in use first: since when, why, and what a test found."""
    from analytics.commands import answer
    from analytics.models.versions import listed

    asked = request(output, file, limit, None, None, tz)
    found = listed(store_root(store), model)
    answer("models.list", (found if full else found.select(_SHORT)).lazy(), asked, check)


@app.command()
def compare(
    model: ModelName,
    version: CandidateName = None,
    store: StoreOption = None,
    hand_over: SureOption = None,
    output: OutputOption = Format.TABLE,
    file: FileOption = None,
    limit: LimitOption = None,
    check: CheckOption = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """
    What a version would change beside the one in use, handed over so, on windows that neither was fitted on.

    A limit is held when the upper bound is within it. --check 'within==0' exits with 4 if one is not.
    """
    from analytics.models.versions import compared, usual_margin

    asked, root = request(output, file, limit, None, None, "UTC"), store_root(store)
    chosen = version or _candidate(root, model)
    sure = usual_margin(root, model, chosen) if hand_over is None else hand_over or None
    found = compared(root, model, chosen, sure=sure)
    say(f"{model} {chosen}: {found.windows:,} windows, of which the truth is known of {found.known:,}; {_how(sure)}")
    give("models.compare", [Field(name, kind) for name, kind in _COMPARED], found.figures, asked, check)


@app.command()
def promote(
    model: ModelName,
    version: CandidateName = None,
    store: StoreOption = None,
    hand_over: SureOption = None,
    force: Annotated[bool, typer.Option("--force", help="Without any comparison; --reason says why.")] = False,
    reason: ReasonOption = "",
    by: ByOption = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """
    Put a version in use, if what it costs those who rely on the model is within the budget.

    Exit code 1 if it is not, or if the version cannot be read: what is in use stays.
    """
    if force and not reason:
        raise ConfigError("--reason", "is needed with --force: say why nothing was compared")
    from analytics.models.versions import promote as put_in_use
    from analytics.models.versions import usual_margin

    root = store_root(store)
    chosen = version or _candidate(root, model)
    if force:
        warn(f"{model} {chosen} takes over without a comparison")
    sure = usual_margin(root, model, chosen) if hand_over is None and not force else hand_over or None
    put_in_use(root, model, chosen, by=by or getpass.getuser(), reason=reason, sure=sure, force=force)
    say(f"{model} {chosen} is in use, {_how(sure)}")


@app.command()
def rollback(
    model: ModelName,
    reason: Annotated[str, typer.Option("--reason", help="What was wrong; it is kept with the version.")],
    store: StoreOption = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="VERSION", help="One that was in use; the last before if not given.")
    ] = None,
    by: ByOption = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """Put back the version that was in use before; the one in use is rejected."""
    from analytics.models.versions import rollback as put_back

    found = put_back(store_root(store), model, by=by or getpass.getuser(), reason=reason, to=to)
    say(f"{model} {found} is in use again")


def _how(sure: float | None) -> str:
    return "taking over outright" if sure is None else f"handed over by {sure:g}"


def _candidate(root: Path, model: str) -> str:
    """
    The latest candidate.

    Raises: StoreError, ConfigError (there is none).
    """
    from analytics.models.versions import CANDIDATE, listed

    for row in listed(root, model).iter_rows(named=True):
        if row["state"] == CANDIDATE:
            return str(row["version"])
    raise ConfigError("VERSION", f"{model!r} has no candidate; `models list` shows what there is")
