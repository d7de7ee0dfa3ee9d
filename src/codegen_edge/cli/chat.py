"""`codegen-edge chat`: a program written turn by turn, in one session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from codegen_edge.cli.bundles import BUNDLE, chosen_runtime, exported, report_runtime
from codegen_edge.cli.generation_options import check_seed, generation_options, opened_draft, take_runtime_options


@click.command()
@click.argument("bundle", type=BUNDLE)
@generation_options
@click.option("--history/--no-history", default=True, show_default=True, help="Keep typed lines for the next chat.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per turn.")
def chat(
    bundle: Path,
    draft: str | None,
    runtime: str | None,
    check: Any,
    is_exporting: bool,
    history: bool,
    as_json: bool,
    **params: Any,
) -> None:
    """Write a program with BUNDLE turn by turn (multi-turn synthesis).

    codegen-edge chat my-bundle --single-block
    """
    from codegen_edge.cli.conversation import Conversation
    from codegen_edge.cli.conversation_input import open_input
    from codegen_edge.cli.conversation_settings import ConversationSettings
    from codegen_edge.generation.model import load_model

    options = take_runtime_options(params)
    command = click.get_current_context().command
    settings = ConversationSettings(command, params)  # refuses bad options before the model is loaded
    check_seed(params)
    folder = exported(str(bundle)) if is_exporting else bundle
    options["runtime"] = chosen_runtime(folder, runtime)
    with (
        load_model(folder, check=check, **options) as model,
        opened_draft(draft, check, options) as drafter,
        open_input(keeps_history=history) as lines,
    ):
        report_runtime(model, options["runtime"], runtime)
        Conversation(model, settings, lines, draft=drafter, as_json=as_json).run()
