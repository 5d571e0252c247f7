"""The command `tbps`: which commands there are, and what happens when one goes wrong.

Each command is the function `command` of a module beside this one, imported when it is asked for;
none of them imports torch before it runs, so `tbps --help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import typer
from typer.core import TyperCommand, TyperGroup

from tbps_cli.errors import TbpsError, UsageError

COMMANDS = {
    "prepare-data": "prepare_data",
    "train": "train",
    "eval": "evaluate",
    "compare": "compare",
    "index": "index",
    "search": "search",
    "export": "export",
    "convert": "convert",
    "recipes": "recipes",
    "runs": "runs",
    "cache": "cache",
    "doctor": "doctor",
}
"""Command -> module of this package, in the order of the help."""

_INTERRUPTED = 130


@runtime_checkable
class _ParserError(Protocol):
    """What typer raises for a wrong command line, whichever click it is built on."""

    exit_code: int

    def format_message(self) -> str: ...


class CommandGroup(TyperGroup):
    """The group of all commands: finds them by name and turns mistakes into lines and a status."""

    def list_commands(self, ctx: object) -> list[str]:
        return [name for name in COMMANDS if _is_written(name)]

    def get_command(self, ctx: object, cmd_name: str) -> Any:
        return load_command(cmd_name) if cmd_name in COMMANDS and _is_written(cmd_name) else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, COMMANDS, n=1)
            hint = f"Did you mean tbps {near[0]}?" if near else f"Commands: {', '.join(COMMANDS)}."
            raise UsageError(f"there is no command {name!r}.", hint)
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line. Standalone, the process ends: 0 done, 1 a mistake, 2 a wrong command line, 130."""

        def run() -> Any:
            return super(CommandGroup, self).main(args, prog_name, complete_var, False, windows_expand_args, **extra)

        if standalone_mode:
            sys.exit(status_of(run))
        return run()

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            _tell(TbpsError("interrupted."))
            raise typer.Exit(_INTERRUPTED) from None
        except BrokenPipeError:
            _forget_stdout()
            return None
        return result


def status_of(run: Callable[[], object]) -> int:
    """Run a command line, report a mistake, and say with which status the process ends."""
    try:
        result = run()
    except TbpsError as mistake:
        _tell(mistake)
        return mistake.status
    except typer.Abort:
        return _INTERRUPTED
    except Exception as mistake:
        if not isinstance(mistake, _ParserError):
            raise
        _tell(UsageError(_sentence(mistake.format_message()), _help_hint(mistake)))
        return UsageError.status
    return result if isinstance(result, int) else 0


app = typer.Typer(
    cls=CommandGroup,
    name="tbps",
    no_args_is_help=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tbps {version()}")
        raise typer.Exit


@app.callback()
def tbps(
    ctx: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Text-based person search: describe a pedestrian, get the images that fit, ranked."""
    from tbps_cli.cli import render

    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit
    render.show_log()
    if ctx.invoked_subcommand != "train":
        _stay_alone(ctx.invoked_subcommand)


def _stay_alone(command: str) -> None:
    """Under torchrun, let the first process alone do what is not training; the others end."""
    from tbps_cli.cli import render

    if os.environ.get("RANK", "0") != "0":
        raise typer.Exit
    started = os.environ.pop("WORLD_SIZE", "1")
    if started != "1":
        render.note(f"tbps {command} works in one process; the others that torchrun started have ended.")


def _is_written(name: str) -> bool:
    return (Path(__file__).parent / f"{COMMANDS[name]}.py").is_file()


def load_command(name: str) -> TyperCommand:
    """The parser and function of one command; a module may bring a `Parser` of its own."""
    module = importlib.import_module(f"tbps_cli.cli.{COMMANDS[name]}")
    single = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    single.command(name, cls=getattr(module, "Parser", None))(module.command)
    made = typer.main.get_command(single)
    assert isinstance(made, TyperCommand)
    return made


def version() -> str:
    """The installed version; "unknown" for a bare checkout."""
    try:
        return metadata.version("tbps")
    except metadata.PackageNotFoundError:
        return "unknown"


def main(args: Sequence[str] | None = None) -> None:
    """The entry point of `tbps` and of `python -m tbps_cli`."""
    typer.main.get_command(app)(args=args, prog_name="tbps")


def _tell(mistake: TbpsError) -> None:
    from tbps_cli.cli import render

    render.error(mistake)


def _sentence(message: str) -> str:
    """One line that ends in a full stop."""
    text = " ".join(message.split())
    return text if text.endswith((".", "?", "!")) else text + "."


def _help_hint(mistake: object) -> str:
    ctx = getattr(mistake, "ctx", None)
    return f"See: {getattr(ctx, 'command_path', 'tbps')} --help"


def _forget_stdout() -> None:
    """The reader of our output has left (`tbps ... | head`): end quietly, also at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
