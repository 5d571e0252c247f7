"""The command `tbps`: which commands there are, and what happens when one goes wrong.

Each command is the function `command` of a module beside this one, imported when it is asked for;
none of them imports torch before it runs, so `tbps --help` answers at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import typer
from typer.core import TyperGroup

from tbps_cli import interrupts
from tbps_cli.cli import complete, output, process
from tbps_cli.cli import help as pages
from tbps_cli.cli.options import as_typed
from tbps_cli.errors import MissingPackage, TbpsError, UsageError


@dataclass(frozen=True)
class ListedCommand:
    """One command: the group of the help that it stands in, the module that holds it, a call to imitate."""

    group: str
    module: str
    example: str


COMMANDS = {
    "prepare-data": ListedCommand("Data", "prepare_data", "tbps prepare-data synthetic --identities 200"),
    "train": ListedCommand("Training", "train", "tbps train irra --set train.epochs=30 --out runs/mine"),
    "recipes": ListedCommand("Training", "recipes", "tbps recipes irra"),
    "runs": ListedCommand("Training", "runs", "tbps runs"),
    "eval": ListedCommand(
        "Evaluation", "evaluate", "tbps eval --ckpt runs/mine --data cuhk-pedes,rstpreid --format latex"
    ),
    "compare": ListedCommand("Evaluation", "compare", "tbps compare runs/irra-0001 runs/rde-0001"),
    "index": ListedCommand("Search", "index", "tbps index photos --ckpt runs/mine"),
    "search": ListedCommand("Search", "search", 'tbps search "a man in a white shirt" --in photos --html answer.html'),
    "watch": ListedCommand(
        "Search", "watch", 'tbps watch cameras --query "a man in a red coat" --budget 5/day --jsonl alerts.jsonl'
    ),
    "serve": ListedCommand("Search", "serve", "tbps serve photos street.mp4 --ckpt runs/mine"),
    "export": ListedCommand("Files", "export", "tbps export --ckpt runs/mine --out exported"),
    "convert": ListedCommand("Files", "convert", "tbps convert logs/CUHK-PEDES/irra --out runs/irra-official"),
    "cache": ListedCommand("Files", "cache", "tbps cache --clean features --older-than 30"),
    "doctor": ListedCommand("Files", "doctor", "tbps doctor"),
}
"""The commands in the order of the help."""

_INTERRUPTED = 130


@runtime_checkable
class _ParserError(Protocol):
    """What typer raises for a wrong command line, whichever click it is built on."""

    exit_code: int

    def format_message(self) -> str: ...


class CommandGroup(TyperGroup):
    """The group of all commands: finds them by name and turns mistakes into lines and a status."""

    def list_commands(self, ctx: object) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: object, cmd_name: str) -> Any:
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, COMMANDS, n=1)
            hint = f"Did you mean tbps {near[0]}?" if near else f"Commands: {', '.join(COMMANDS)}."
            raise UsageError(f"there is no command {name!r}.", hint)
        return super().resolve_command(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        return pages.taking_plain_values(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, entry in COMMANDS.items():
            groups.setdefault(entry.group, []).append((name, (load_command(name).help or "").split("\n\n")[0]))
        options = pages.sections(self.get_params(ctx))
        pages.show("tbps COMMAND [OPTIONS]", self.help or "", groups | options, "tbps search --help")
        raise typer.Exit

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

        if {"--install-completion", "--show-completion"} & set(sys.argv[1:] if args is None else args):
            complete.mend_zsh()
        if not standalone_mode:
            return run()
        output.stdout.written.clear()
        status = status_of(run)
        sys.exit(status_of(output.stdout.flush) or status)

    def invoke(self, ctx: Any) -> Any:
        try:
            with interrupts.recognised():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            _tell(TbpsError("interrupted."))
            raise typer.Exit(_INTERRUPTED) from None


def status_of(run: Callable[[], object]) -> int:
    """Run a command line, report a mistake, and say with which status the process ends."""
    try:
        result = run()
    except TbpsError as mistake:
        _tell(mistake)
        return mistake.status
    except typer.Abort:
        return _INTERRUPTED
    except output.ReaderLeftError:
        return 0
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "tbps_cli":
            raise
        _tell(MissingPackage(error.name.partition(".")[0]))
        return MissingPackage.status
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the system
            raise
        what = f"{error.filename}: " if error.filename is not None else ""
        _tell(TbpsError(f"{what}{error.strerror}."))
        return TbpsError.status
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
        from tbps_cli.cli import render

        render.line(f"tbps {version()}")
        raise typer.Exit


@app.callback()
def tbps(
    ctx: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Text-based person search: describe a pedestrian, get the images that fit, ranked."""
    from tbps_cli.cli import render

    if ctx.invoked_subcommand is None:
        ctx.get_help()
        raise typer.Exit
    process.check_folder()
    render.show_log()
    if ctx.invoked_subcommand not in ("train", "index"):
        if process.is_extra():
            raise typer.Exit
        if process.leave_group():
            render.note(f"tbps {ctx.invoked_subcommand} runs in one process; the extra ones exit.")


def load_command(name: str) -> pages.Command:
    """The parser and function of one command; a module may bring a `Parser` of its own."""
    entry = COMMANDS[name]
    module = importlib.import_module(f"tbps_cli.cli.{entry.module}")
    single = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    parser = getattr(module, "Parser", pages.Command)
    single.command(name, cls=parser, epilog=entry.example)(as_typed(module.command))
    made = typer.main.get_command(single)
    assert isinstance(made, pages.Command)
    return made


def version() -> str:
    """The installed version; "unknown" for a bare checkout."""
    from importlib import metadata

    from tbps_cli.errors import installed_as

    name = installed_as()
    return "unknown" if name is None else metadata.version(name)


def main(args: Sequence[str] | None = None) -> None:
    """The entry point of `tbps` and of `python -m tbps_cli`."""
    process.prepare()
    try:
        typer.main.get_command(app)(args=args, prog_name="tbps")
    finally:
        if args is None:
            process.be_ended_by_signals()


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
