"""The application: how a command is registered, how its errors become a line and an exit code."""

from __future__ import annotations

import functools
import inspect
import io
import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer
from rich.text import Text

import subspect
from subspect.cli.printing import Formatter, ToStderr, err, let_go_of_stdout, out, said_of
from subspect.ground.errors import SubspectError
from subspect.ground.memory import keep_freed, memory_limit
from subspect.ground.text import legible

app = typer.Typer(
    name="subspect",
    help="Which few features decide each class of a trained image classifier?\n\n"
    "A *feature* is one input of the network's final linear layer, its *head*. The *decomposed head* keeps only a few features "
    "for each class. Its *fidelity* is the share of images on which it predicts the same class as the original, *dense* head. "
    "A *study* is the folder that holds a network's features and all that was computed from them.",
    epilog="Exit codes: 0 success; 1 an input cannot be used; 2 wrong usage; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors to stderr.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of CPU threads; 1 is fastest for small networks.")]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="Memory for features and statistics, such as 4G; default: a quarter of what is free."
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Where the work is done: local, in this process; or ray, by the actors of a Ray cluster."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE", help="The Ray cluster: auto, HOST:PORT or ray://HOST:PORT; default: one on this machine alone."
    ),
]
Actors = Annotated[int | None, typer.Option(min=1, help="Number of Ray actors; default: one fewer than the CPUs.")]
_RESUMED = ("run", "observe", "features", "demo", "retrain", "depth", "cues", "filters")
_GOES_ON = "; run the same command again to resume"
Command = Callable[..., None]


def command(panel: str, *, engine: bool = False) -> Callable[[Command], Command]:
    """Register a command in a panel of the help; its errors become one line on stderr and an exit code.

    Args:
        panel: its heading in the help.
        engine: whether it goes through images in a way that a cluster can, and so takes ``--engine``.
    """

    def register(function: Command) -> Command:
        @functools.wraps(function)
        def guarded(
            *, quiet: bool = False, threads: int | None = None, memory: str | None = None, **kwargs: Any
        ) -> None:
            try:
                if quiet:
                    logging.getLogger("subspect").setLevel(logging.WARNING)
                if threads is not None:
                    _keep_to(threads)
                with (
                    nullcontext() if memory is None else memory_limit(memory),
                    _on(kwargs) if engine else nullcontext(),
                ):
                    function(**_gathered(function, kwargs))
            except (SubspectError, OSError) as error:
                if isinstance(error, BrokenPipeError):
                    raise  # whoever read our output has seen enough
                if isinstance(error, OSError):
                    let_go_of_stdout()
                err.print(Text.assemble(("error: ", "bold red"), legible(said_of(error))), soft_wrap=True)
                raise typer.Exit(1) from error
            except KeyboardInterrupt as error:
                err.print(f"interrupted; what was stored is kept{_GOES_ON if function.__name__ in _RESUMED else ''}")
                raise typer.Exit(130) from error

        parameters = [*_spread(function), *(_spread(_engine) if engine else []), *_spread(_common)]
        guarded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        guarded.__annotations__ = {one.name: one.annotation for one in parameters}
        return app.command(no_args_is_help=any(one.default is one.empty for one in parameters), rich_help_panel=panel)(
            guarded
        )

    return register


def _common(*, quiet: Quiet = False, threads: Threads = None, memory: Memory = None) -> None:
    """Declare the options that every command has."""


def _engine(*, engine: Engine = None, address: Address = None, actors: Actors = None) -> None:
    """Declare the options of commands that a cluster can work for."""


def _on(values: dict[str, Any]) -> AbstractContextManager[None]:
    """Take the engine's options out of a command's, and use that engine."""
    name, address, actors = (values.pop(one) for one in ("engine", "address", "actors"))
    return subspect.engine(name or "local", address, actors)


def _spread(function: Command) -> list[inspect.Parameter]:
    """Return a command's parameters, those that stand for a group of options (a dataclass) as the options themselves."""
    found = []
    for name, one in inspect.signature(function).parameters.items():
        hint = get_type_hints(function, include_extras=True)[name]
        if is_dataclass(hint):
            found += _spread(hint)  # type: ignore[arg-type] # its signature is that of its fields
        else:
            found.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint))
    return found


def _gathered(function: Command, values: dict[str, Any]) -> dict[str, Any]:
    """Put the options of each group back into it."""
    found = {}
    for name, hint in get_type_hints(function).items():
        if is_dataclass(hint):
            found[name] = hint(**{one.name: values.pop(one.name) for one in fields(hint)})  # type: ignore[operator]
    return {**values, **found}


def _keep_to(threads: int) -> None:
    """Compute with some number of threads, in PyTorch and in NumPy's and SciPy's libraries."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(threads)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(subspect.__version__)
        raise typer.Exit


@app.callback()
def _setup(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors to stderr.")] = False,
) -> None:
    handler = ToStderr()
    handler.setFormatter(Formatter())
    logger = logging.getLogger("subspect")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.WARNING if quiet else logging.INFO)


def main() -> None:
    """Run the command line."""
    keep_freed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal or a log that knows only ASCII
    app()
