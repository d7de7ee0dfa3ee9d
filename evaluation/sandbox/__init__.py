"""Runs generated programs where they can do no harm, and judges them by what they cannot forge. It knows no task.

A sandbox gives every program an unprivileged user, no network, no environment, a read-only system with the interpreter
and its packages, an empty folder of bounded size, and its own process namespace, which ends with it. Time, memory,
output, files, descriptors and processes are limited.

A verdict is a nonce, drawn for the run and sent to the process above the program's, with the number of assertions that
held: never an exit code or a text. Tests see Python's own builtins and modules, whatever the program made of them, and
plain copies of its answers: an answer that has no literal form is an error. Printed values are compared outside, by
whoever reads the outcome. Sets have the same order in every run, so that a verdict can be repeated.

What it does not protect from:

- A program may forge the verdict of tests that run in its own process, if it knows this code: the tests, their frames
  and the channel are in its memory, and it may patch the modules that they use. `strict=True` runs them elsewhere. Only
  a program that answers right passes then; it may tell right answers from the questions, as any program may.
- Bubblewrap shares the kernel: a program that breaks the kernel is out. System calls are not filtered. It can read
  every file of the system and of the Python installation that its user can, but no home folder, `/etc` or `/sys`.
- Caches, timing and load betray a little between programs that run at the same time; a kernel keyring may carry a
  message to a later one.
- With kind "process" the host is not protected at all: a program can read, write and kill what the user can, and can
  reach the network. A descendant that outlives its parents is found and killed, unless it kills the zygote first and no
  control group can be had. The superuser's processes are limited in number by a control group alone, and may read and
  change each other's memory, in strict mode too.
"""

from codegen_edge.evaluation.sandbox.limits import Limits
from codegen_edge.evaluation.sandbox.programs import CheckedProgram, FailureKind, Outcome, PrintedProgram
from codegen_edge.evaluation.sandbox.sandbox import Sandbox
from codegen_edge.evaluation.sandbox.values import Opaque, Series, View

__all__ = [
    "CheckedProgram",
    "FailureKind",
    "Limits",
    "Opaque",
    "Outcome",
    "PrintedProgram",
    "Sandbox",
    "Series",
    "View",
]
