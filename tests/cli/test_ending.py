"""How commands end: exit codes by whose matter it is, one line, and terminals that cannot show every character."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

from codegen_edge import errors
from codegen_edge.bundle import Bundle, open_bundle
from codegen_edge.cli import cli
from codegen_edge.cli.ending import EXIT_CODES, Running, end_of
from codegen_edge.cli.messages import in_terms_of, one_line
from codegen_edge.errors import StorageError
from codegen_edge.workflows import diagnosis
from tests.cli.running import Run

REPOSITORY = Path(__file__).resolve().parents[2]
HIDDEN = "onnxruntime refuses /b/.out.tmp-0123456789abcdef/onnx/model.onnx and /b/.codegen-edge-budget-0123456789abcdef"


def test_message_with_another_ones_line_ends_is_one_line() -> None:
    error = errors.BundleError("refuses graph.cc:1617:\n  the name \x0b is\u2028none")
    assert str(error) == "refuses graph.cc:1617: the name is none"
    assert str(errors.BundleError("two  blanks stay")) == "two  blanks stay"


@pytest.mark.parametrize(
    ("exc", "code"),
    [
        (errors.InvalidInputError("wrong"), 2),
        (errors.CheckpointError("wrong"), 2),
        (errors.IntegrityError("altered"), 2),
        (errors.NumericsError("NaN"), 2),
        (errors.RuntimeUnavailableError("missing"), 3),
        (errors.IncompatibleVersionError("old"), 3),
        (errors.StorageError("full"), 3),
        (errors.BackendError("failed"), 3),
        (errors.ParityError("different"), 1),
        (errors.CancelledError("stopped"), 130),
        (MemoryError(), 3),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 3),
        (OSError(errno.EROFS, "Read-only file system", "/x"), 3),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), 2),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/x"), 2),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (click.UsageError("No such option: --x"), 2),
        (ValueError("a fault"), 70),
        (RecursionError("a fault"), 70),
    ],
    ids=repr,
)
def test_exit_code_says_whose_matter_it_is(exc: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert end_of(exc, Running()) == code
    assert code in EXIT_CODES
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)


def test_every_error_of_ours_has_a_code_of_the_table() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert {kind.exit_code for kind in kinds if issubclass(kind, errors.CodegenEdgeError)} <= EXIT_CODES.keys()


def test_an_import_that_ctrl_c_stopped_is_an_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    failed = ImportError("numpy failed")
    failed.__cause__ = KeyboardInterrupt()
    assert end_of(failed, Running()) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_fault_is_one_line_with_versions_and_a_traceback_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    end_of(ValueError("two\nlines"), Running())
    line = capsys.readouterr().err
    assert line.startswith("error: unexpected ValueError: two lines (codegen-edge ")
    assert "--debug" in line
    end_of(ValueError("x"), Running(is_debug=True))
    assert capsys.readouterr().err.startswith("ValueError: x\nerror: unexpected")


def test_table_of_exit_codes_is_in_the_help_and_in_the_pages(run: Run) -> None:
    shown = run("--help").stdout
    page = (REPOSITORY / "docs" / "command-line.md").read_text()
    for code, meaning in EXIT_CODES.items():
        assert f"{code:<4} {meaning}" in shown
        assert f"| {code} | {meaning} |" in page
    assert "…" not in shown
    assert "..." not in shown.partition("Commands:")[2]


def test_messages_hide_hidden_folders_and_control_characters() -> None:
    assert one_line(HIDDEN) == "onnxruntime refuses /b/out/onnx/model.onnx and /b"
    assert one_line("a\x1b[31mb\u202ec\nd") == "a\\x1b[31mb\\u202ec d"


def test_messages_name_options_where_the_library_names_parameters() -> None:
    command = cli.get_command(click.Context(cli), "generate")
    assert in_terms_of(command, "max_new_tokens must be 1") == "--max-new-tokens must be 1"
    assert in_terms_of(command, 'cut it with prompt_overflow="cut-left"') == "cut it with --prompt-overflow cut-left"
    assert in_terms_of(command, "the prompt has no seed") == "the prompt has no seed"
    assert in_terms_of(command, "runtime x has no device_id; it has: threads") == (
        "runtime x has no --device; it has: --threads"
    )
    assert in_terms_of(None, "max_new_tokens") == "max_new_tokens"


def test_verdict_is_given_where_a_bundle_cannot_be_written(
    run: Run, bundle_copy: Bundle, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise StorageError("cannot write bundle.json: Read-only file system; the old state is intact")

    monkeypatch.setattr(Bundle, "record_parity", refuse)
    done = run("verify", bundle_copy.path, "--reference", tiny_checkpoint, "--steps", 1)
    assert (done.code, "is equal to" in done.stdout) == (0, True)
    assert f"the verdict is not in {bundle_copy.path}: cannot write bundle.json: Read-only" in done.stderr


def test_no_store_leaves_the_bundle_as_it_is(run: Run, bundle_copy: Bundle, tiny_checkpoint: Path) -> None:
    done = run("verify", bundle_copy.path, "--reference", tiny_checkpoint, "--steps", 1, "--no-store")
    assert (done.code, done.stderr) == (0, "")
    assert open_bundle(bundle_copy.path).manifest.parity is None


def test_a_terminal_that_knows_ascii_only_is_served(tiny_bundle: Bundle) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    for words in (
        ("inspect", tiny_bundle.path),
        ("generate", tiny_bundle.path, "--prompt", "def f", "--echo"),
        ("--help",),
    ):
        command = [sys.executable, "-m", "codegen_edge", *map(str, words)]
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr.isascii()
        if words[0] != "generate":  # whose text is given out as it is, in UTF-8
            assert done.stdout.isascii()


def test_doctor_on_a_terminal_that_knows_ascii_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = diagnosis.Finding(part="base", is_ok=True, found="Δ … ×", can_generate=True)
    monkeypatch.setattr(diagnosis, "diagnose", lambda: [finding])
    assert run("doctor").code == 0


def test_ctrl_c_while_the_command_line_is_imported_is_one_line() -> None:
    program = (
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'click':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from codegen_edge.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize(("word", "code"), [("--version", 0), ("--unknown", 2)])
def test_ctrl_c_after_the_end_leaves_the_exit_code(word: str, code: int) -> None:
    program = (
        "import atexit, os, signal, sys\n"
        "class Interrupting:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid(), number=int(signal.SIGINT)):\n"
        "        kill(pid, number)\n"
        "atexit.register(Interrupting().__del__)\n"
        "sys.last = Interrupting()  # goes when the interpreter has taken its handlers back\n"
        "from codegen_edge.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, word], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "interrupted" not in done.stderr


def test_a_reader_that_went_away_is_no_error(tiny_bundle: Bundle) -> None:
    command = [sys.executable, "-m", "codegen_edge", "generate", str(tiny_bundle.path), "--prompt", "a", "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_sigterm_ends_with_its_own_code(tiny_bundle: Bundle) -> None:
    command = [sys.executable, "-m", "codegen_edge", "chat", str(tiny_bundle.path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    while b"/quit" not in process.stderr.readline():
        time.sleep(0)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143


def test_importing_from_the_root_of_a_clone_finds_the_installed_package() -> None:
    """No folder of sources there has the name of the package."""
    program = "import codegen_edge; print(codegen_edge.__file__, codegen_edge.__version__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "None" not in done.stdout
    assert not (REPOSITORY / "codegen_edge").exists()
