"""`codegen-edge chat`: a program written turn by turn, in one session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codegen_edge.cli.generation_options import generation_options, opened_draft, take_runtime_options
from codegen_edge.cli.interruption import run_interruptibly

if TYPE_CHECKING:
    from codegen_edge.generation.model import Model

_HELP = """A line is added to the program and continued; an empty line continues it as it is. Lines that begin with /:
  /undo        forget the last turn      /show        print the program
  /save FILE   save the session          /load FILE   go on with a saved one
  /help        this text                 /quit        leave (as does the end of the input)"""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@generation_options
def chat(
    bundle: Path,
    draft: str | None,
    runtime: str,
    check: Any,
    **params: Any,
) -> None:
    """Write a program with BUNDLE turn by turn (multi-turn synthesis).

    codegen-edge chat my-bundle --single-block
    """
    from codegen_edge.generation import GenerationParams
    from codegen_edge.generation.model import load_model

    options = {"runtime": runtime, **take_runtime_options(params)}
    GenerationParams(**params)  # refuses bad options before the model is loaded
    with (
        load_model(bundle, check=check, **options) as model,
        opened_draft(draft, check, options) as drafter,
    ):
        _Chat(model, {"draft": drafter, **params}).run()


class _Chat:
    def __init__(self, model: Model, options: dict[str, Any]) -> None:
        self._model = model
        self._session = model.session()
        self._options = options
        self._marks: list[int] = []  # lengths before each turn

    def run(self) -> None:
        """Read lines until the end of the input."""
        click.echo(_HELP, err=True)
        while True:
            try:
                line = input(">>> ")
            except EOFError:
                click.echo(err=True)
                return
            except KeyboardInterrupt:
                click.echo("\n/quit leaves", err=True)
                continue
            except UnicodeDecodeError as exc:
                click.echo(f"error: the line is not {exc.encoding} at byte {exc.start}", err=True)
                continue
            if not line.startswith("/"):
                self._turn(line)
            elif line == "/quit":
                return
            else:
                self._command(*line.split(maxsplit=1))

    def _command(self, name: str, argument: str = "") -> None:
        from codegen_edge.errors import CodegenEdgeError

        try:
            if name == "/undo" and self._marks:
                self._session.rewind(self._marks.pop())
            elif name == "/show":
                click.echo(self._session.text)
            elif name == "/save" and argument:
                self._session.save(argument)
            elif name == "/load" and argument:
                self._session, self._marks = self._model.load_session(argument), []
            elif name == "/help":
                click.echo(_HELP, err=True)
            else:
                click.echo(f"error: {name} cannot be done; /help lists what can", err=True)
        except CodegenEdgeError as exc:
            click.echo(f"error: {exc}", err=True)

    def _turn(self, line: str) -> None:
        from codegen_edge.errors import CodegenEdgeError
        from codegen_edge.generation import CancelToken

        self._marks.append(self._session.num_tokens)
        text = self._session.text
        cancel = CancelToken()
        try:
            if line:
                border = "" if not text or text.endswith("\n") else "\n"
                self._session.append(f"{border}{line}\n")
            run_interruptibly(lambda: self._print(cancel), cancel)
        except KeyboardInterrupt:
            click.echo("\ninterrupted; the turn is forgotten", err=True)
            self._session.rewind(self._marks.pop())
        except CodegenEdgeError as exc:
            click.echo(f"error: {exc}", err=True)
            self._session.rewind(self._marks.pop())

    def _print(self, cancel: Any) -> None:
        for event in self._session.stream(cancel=cancel, **self._options):
            click.echo(event.text, nl=False)
        click.echo()
