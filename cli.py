"""The command line: parses, calls one library function, prints."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from analytics import commands as analytics_commands
from analytics import (
    commands_capacity,
    commands_compare,
    commands_cost,
    commands_efficiency,
    commands_forecast,
    commands_incidents,
    commands_jobs,
    commands_models,
    commands_percentiles,
    commands_quality,
    commands_report,
    commands_results,
)
from collector import commands as collector_commands
from collector.errors import TelemetryError
from collector.imports import commands as import_commands
from collector.options import INTERRUPTED, ConfigOption, QuietOption, begin, exit_code, warn
from dashboards import commands as dashboards_commands


class Program(TyperGroup):
    """The program's errors and ends: one line on stderr and a documented exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what a user can fix is told in a line, what is a bug keeps its traceback."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except TelemetryError as error:
            warn(f"perfwatt: {error}")
            raise typer.Exit(exit_code(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever reads has read enough (`| head`): no error, nor may Python's own flush at the end make it one.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None


app = typer.Typer(
    cls=Program,
    help="""Power and performance of ML accelerators: measured, stored, explained.

    Stdout is data, everything else is on stderr. Exit codes: 0 done; 1 the data or a statement is at fault; 2 usage or
    configuration; 3 try again later; 4 a --check found something; 130 interrupted.""",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    add_completion=True,
)
app.add_typer(collector_commands.app)
app.add_typer(analytics_commands.app)
app.add_typer(commands_compare.app)
app.add_typer(commands_cost.app)
app.add_typer(commands_efficiency.app)
app.add_typer(commands_percentiles.app)
app.add_typer(commands_quality.app)
app.add_typer(commands_results.app)
app.add_typer(commands_report.app)
app.add_typer(commands_jobs.app)
app.add_typer(commands_capacity.app)
app.add_typer(commands_forecast.app)
app.add_typer(commands_incidents.app)
app.add_typer(commands_models.app)
app.add_typer(dashboards_commands.app)
app.add_typer(import_commands.app)
app.add_typer(collector_commands.config_app)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version  # a third of the time of --help

        try:
            typer.echo(version("perfwatt"))
        except PackageNotFoundError:
            typer.echo("unknown (not installed)")
        raise typer.Exit


def _no_color(value: bool) -> None:
    if value:
        os.environ["NO_COLOR"] = "1"


@app.callback()
def main(
    config: ConfigOption = None,
    quiet: QuietOption = False,
    no_color: Annotated[
        bool, typer.Option("--no-color", callback=_no_color, help="No colours, as NO_COLOR and TERM=dumb.")
    ] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Begin a run; the options before a command hold for every command."""
    begin(quiet=quiet)


if __name__ == "__main__":
    app(prog_name="perfwatt")
