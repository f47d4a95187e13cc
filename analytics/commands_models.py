"""The commands of models: list, compare, promote, rollback."""

# ruff: noqa: ARG001 (the options --quiet and --config act by themselves, when they are read)

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from analytics.models.comparison import HandOver

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
        " As a job would, if not given: where the truth is known what errs least within the budget.",
    ),
]
WithdrawOption = Annotated[
    float | None,
    typer.Option(
        "--withdraw",
        metavar="MARGIN",
        min=0.0,
        max=0.5,
        help="With --hand-over: how far it must be to withdraw an alarm; the same if not given.",
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
    withdraw: WithdrawOption = None,
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
    from analytics.models.versions import compared

    asked, root = request(output, file, limit, None, None, "UTC"), store_root(store)
    chosen = version or _candidate(root, model)
    how = _asked(root, model, chosen, hand_over, withdraw)
    found = compared(root, model, chosen, hand_over=how)
    say(f"{model} {chosen}: {found.windows:,} windows, of which the truth is known of {found.known:,}; {_how(how)}")
    give("models.compare", [Field(name, kind) for name, kind in _COMPARED], found.figures, asked, check)


@app.command()
def promote(
    model: ModelName,
    version: CandidateName = None,
    store: StoreOption = None,
    hand_over: SureOption = None,
    withdraw: WithdrawOption = None,
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
    from analytics.models.versions import in_use
    from analytics.models.versions import promote as put_in_use

    root = store_root(store)
    chosen = version or _candidate(root, model)
    if force:
        warn(f"{model} {chosen} takes over without a comparison")
    how = _asked(root, model, chosen, 0.0 if force and hand_over is None else hand_over, withdraw)
    put_in_use(root, model, chosen, by=by or getpass.getuser(), reason=reason, hand_over=how, force=force)
    # As it is: who promotes the champion changes nothing of how it took over.
    say(f"{model} {chosen} is in use, {_how(in_use(root, model)[-1].hand_over)}")


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


def _asked(root: Path, model: str, version: str, add: float | None, withdraw: float | None) -> "HandOver | None":
    """
    The hand-over that the options ask for, None being outright.

    Raises: ConfigError (margins that do not go together), StoreError, NotEnoughData.
    """
    from analytics.models.comparison import HandOver
    from analytics.models.versions import usual_hand_over

    if withdraw is not None and not add:
        raise ConfigError("--withdraw", "is for a hand-over by the rule: give --hand-over above 0 with it")
    if add is None:
        return usual_hand_over(root, model, version)
    return HandOver(add, add if withdraw is None else withdraw) if add else None


def _how(hand_over: "HandOver | None") -> str:
    if hand_over is None:
        return "taking over outright"
    return f"handed over by {hand_over.add:g}, alarms withdrawn by {hand_over.withdraw:g}"


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
