"""What `chat` does with what is typed: a turn of the program, or a command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codegen_edge.cli.completions import completion_fields
from codegen_edge.cli.interruption import run_interruptibly
from codegen_edge.cli.messages import one_line
from codegen_edge.cli.output import print_json
from codegen_edge.errors import CodegenEdgeError, InvalidInputError

if TYPE_CHECKING:
    from codegen_edge.cli.conversation_input import Input
    from codegen_edge.cli.conversation_settings import ConversationSettings
    from codegen_edge.generation.cancel import CancelToken
    from codegen_edge.generation.model import Draft, Model

HELP = """What is typed is added to the program and continued; an empty line continues it
as it is. Lines that are pasted together are one input. Lines that begin with /:
  /undo              forget the last turn
  /show              print the program
  /save FILE         write the program
  /save-session FILE write program and cache, to go on later
  /load FILE         go on with a saved session
  /settings          how tokens are chosen
  /set NAME VALUE    change one of them; without a value back to its default
  /help, /quit       this text; leave (as does the end of the input)"""


class Conversation:
    """One session and the commands that change it.

    Args:
        model: writes.
        settings: how; `/set` changes them.
        lines: what is typed.
        draft: as of `generate`.
        as_json: whether each turn is printed as an object.
    """

    def __init__(
        self, model: Model, settings: ConversationSettings, lines: Input, *, draft: Draft | None, as_json: bool
    ) -> None:
        self._model = model
        self._settings = settings
        self._lines = lines
        self._draft = draft
        self._as_json = as_json
        self._session = model.session()
        self._marks: list[int] = []  # lengths before each turn

    def run(self) -> None:
        """Read until the end of the input."""
        click.echo(HELP, err=True)
        while True:
            try:
                text = self._lines.read(">>> ")
            except EOFError:
                click.echo(err=True)
                return
            except KeyboardInterrupt:
                click.echo("\n/quit leaves", err=True)
                continue
            except UnicodeDecodeError as exc:
                click.echo(f"error: the line is not {exc.encoding} at byte {exc.start}", err=True)
                continue
            name, _, argument = text.partition(" ")
            if name == "/quit":
                return
            try:
                if text.startswith("/") and "\n" not in text:
                    self._command(name, argument.strip())
                else:
                    self._turn(text)
            except CodegenEdgeError as exc:
                click.echo(f"error: {one_line(self._settings.in_its_terms(str(exc)))}", err=True)
            except (OSError, ValueError) as exc:
                click.echo(f"error: {one_line(str(exc))}", err=True)

    def _command(self, name: str, argument: str) -> None:
        if name == "/undo" and self._marks and not argument:
            self._session.rewind(self._marks.pop())
        elif name == "/show" and not argument:
            click.echo(self._session.text)
        elif name == "/save" and argument:
            self._write(argument, self._session.text.encode("utf-8"))
        elif name == "/save-session" and argument:
            if self._may_write(Path(argument).expanduser()):
                self._session.save(Path(argument).expanduser())
        elif name == "/load" and argument:
            self._session, self._marks = self._model.load_session(Path(argument).expanduser()), []
        elif name == "/settings" and not argument:
            click.echo(self._settings.table(), err=True)
        elif name == "/set" and argument:
            click.echo(self._settings.change(*argument.split(maxsplit=1)), err=True)
        elif name == "/help":
            click.echo(HELP, err=True)
        else:
            raise InvalidInputError(f"{name} cannot be done; /help lists what can")

    def _write(self, name: str, content: bytes) -> None:
        from codegen_edge.bundle.storage import replace_file

        path = Path(name).expanduser()
        if self._may_write(path):
            replace_file(path, content)
            click.echo(f"wrote {path}", err=True)

    def _may_write(self, path: Path) -> bool:
        """Whether a file may be written; where there is one already the user is asked."""
        if not path.exists():
            return True
        if not path.is_file():
            raise InvalidInputError(f"{path} is no regular file; give another one")
        if not self._lines.is_terminal:
            raise InvalidInputError(f"{path} exists, and nobody can be asked whether to replace it; give another one")
        return self._lines.read(f"{path} exists; replace it? [y/N] ").strip().lower() in ("y", "yes")

    def _turn(self, text: str) -> None:
        from codegen_edge.generation.cancel import CancelToken

        self._marks.append(self._session.num_tokens)
        cancel = CancelToken()
        try:
            if text:
                so_far = self._session.text
                border = "" if not so_far or so_far.endswith("\n") else "\n"
                self._session.append(f"{border}{text}\n")
            run_interruptibly(lambda: self._print(cancel), cancel)
        except KeyboardInterrupt:
            click.echo("\ninterrupted; the turn is forgotten", err=True)
            self._session.rewind(self._marks.pop())
        except CodegenEdgeError:
            self._session.rewind(self._marks.pop())
            raise

    def _print(self, cancel: CancelToken) -> None:
        options: dict[str, Any] = {"cancel": cancel, "draft": self._draft, **self._settings.fields}
        if self._as_json:
            print_json(completion_fields(self._session.generate(**options)))
            return
        for event in self._session.stream(**options):
            click.echo(event.text, nl=False)
        click.echo()
