"""The `seal` command: one file a verb, found by its name and imported only when it runs.

To add `seal make-data`, put `make_data.py` into this folder. The first line of its docstring is its line
in `seal --help`; its function `make_data`, with parameters annotated for typer, is what runs; a verb that
has verbs of its own (`seal arc show`) defines a `typer.Typer` called `app` instead. Files whose names
begin with `_` are not verbs. A verb raises `SealError` for whatever the user can put right, imports heavy
modules inside its function, and leaves errors, exit codes and `--debug` to `main`.

Exit codes: 0 done, 1 a bug (or a check that failed), 2 something the user can put right, 130 interrupted.
"""

from __future__ import annotations

import difflib
import errno
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from seal import __version__
from seal.errors import GenerationError, GradingError, SealError, ServeError, lacks_memory

_ALIASES = {"judge-again": "regrade"}
_FIRST = ("train", "resume", "report", "watch", "doctor", "init", "presets")  # the order of `--help`
#: How long a thread of GNU OpenMP turns in place before it sleeps until its sisters have come. With the
#: default, a neighbour that keeps one of two cores busy slows small operations thirtyfold; with this,
#: twofold, and on a quiet machine they lose an eighth.
_THREADS = {"GOMP_SPINCOUNT": "10000"}
_LESS = "Use a smaller model or fewer inner.workers"
_NO_MEMORY = f"error: there is not enough memory. {_LESS}\n".encode()
_DEBUG = "--debug, with any command, shows the full traceback of an error."


_command: ContextVar[tuple[str, ...]] = ContextVar("command", default=())


def command() -> tuple[str, ...]:
    """The arguments that this command was given."""
    return _command.get()


class Interrupted(Exception):
    """Ctrl-C, with a line that says how to go on."""


@contextmanager
def going_on(again: str) -> Iterator[None]:
    """An interruption, or the outage of a server, a judge or a writer, ends with a line on how to go on.

    Args:
        again: the sentence that says so, in lower case.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {again}") from None
    except (GenerationError, GradingError, ServeError) as error:
        raise type(error)(error.message, f"{error.fix or 'mend that'}; then {again}") from error


def main(argv: Sequence[str] | None = None, prog: str = "seal") -> int:
    """Run one command; return the exit code. Errors become one line on stderr."""
    for name, value in _THREADS.items():
        os.environ.setdefault(name, value)
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    _print_anywhere()
    _command.set(tuple(arguments))
    try:
        return _dispatch(arguments, prog)
    except (KeyboardInterrupt, Interrupted) as error:
        print(str(error) or "interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `seal presets | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 (the border of the process)
        try:
            if debug:
                traceback.print_exc()
            return _explain(error, prog)
        except MemoryError:  # there is none left to say anything else with
            os.write(2, _NO_MEMORY)
            return 2


def _print_anywhere() -> None:
    """Letters that the terminal cannot show become escapes: under cron, in containers, on old consoles."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def verbs() -> list[str]:
    """The commands there are: the usual ones first, the others by name."""
    names = {path.stem.replace("_", "-") for path in Path(__file__).parent.glob("[!_]*.py")}
    return [name for name in _FIRST if name in names] + sorted(names - set(_FIRST))


def _dispatch(arguments: list[str], prog: str) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"seal {__version__}")
        return 0
    verb, *rest = arguments
    verb = _ALIASES.get(verb, verb)
    if verb not in verbs():
        near = difflib.get_close_matches(verb, verbs(), 1)
        hint = f"Did you mean `{prog} {near[0]}`?" if near else f"`{prog} --help` lists them"
        return _fail(f"there is no command {verb!r}. {hint}", 2)
    return _run(verb, rest, prog)


def _run(verb: str, arguments: list[str], prog: str) -> int:
    import typer

    usage_error = cast("type[Exception]", typer.BadParameter.__mro__[1])  # typer names no base class itself
    command = parser(verb)
    try:
        # train.py is a program of its own: its usage line does not show the verb
        code = command.main(
            arguments,
            f"{prog} {verb}" if prog == "seal" else prog,
            standalone_mode=False,
            help_option_names=["-h", "--help"],
        )
    except typer.Abort:
        raise KeyboardInterrupt from None
    except usage_error as error:  # an unknown option, a missing argument
        text = _message(error)
        return _fail(f"{text.rstrip('.')}. See `{prog} {verb} --help`", 2)
    if code == 130:  # typer's silent answer to Ctrl-C
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def parser(verb: str) -> Any:
    """What reads the arguments of a command."""
    import typer

    name = verb.replace("-", "_")
    module = import_module(f"seal.cli.{name}")
    app: typer.Typer | None = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(epilog=_DEBUG)(getattr(module, name))
    return typer.main.get_command(app)


def _message(error: Exception) -> str:
    format_message = getattr(error, "format_message", None)
    return str(format_message()) if format_message else str(error)


def _help() -> str:
    lines = [
        "seal: a language model teaches itself (SEAL, arXiv 2506.10943)",
        "",
        "usage: seal COMMAND [OPTIONS]     `seal COMMAND --help` explains one",
        "",
    ]
    lines += [f"  {verb:<14} {summary(verb)}" for verb in verbs()]
    return "\n".join([*lines, "", _DEBUG])


def summary(verb: str) -> str:
    """First line of the verb's docstring, read without importing it."""
    file = Path(__file__).parent / f"{verb.replace('-', '_')}.py"
    with file.open(encoding="utf-8") as lines:
        return lines.readline().strip().strip('"').rstrip()


def _explain(error: Exception, prog: str) -> int:
    if isinstance(error, SealError):
        lacking = "memory" in error.message and lacks_memory(error)  # then not the file is at fault
        fix = _LESS if lacking else error.fix[:1].upper() + error.fix[1:]
        return _fail(error.message.rstrip(".") + (f". {fix}" if fix else ""), 2)
    if lacks_memory(error):
        return _fail(f"there is not enough memory. {_LESS}", 2)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(f"{where}the disk is full. Free some space, then go on with `seal resume RUN`", 2)
        return _fail(f"{where}{error.strerror or error}", 2)
    cause = " ".join(str(error).split())
    return _fail(f"unexpected {type(error).__name__}: {cause}. Run it again with --debug and report it", 1)


def _fail(text: str, code: int) -> int:
    from seal.run.log import redact

    print(redact(f"error: {text}"), file=sys.stderr)
    return code
