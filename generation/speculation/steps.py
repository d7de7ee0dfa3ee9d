"""The drafts of a batch's step, whether one row decodes or several."""

from __future__ import annotations

from collections.abc import Sequence

from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.row import Row
from codegen_edge.generation.speculation.choice import free_speculator
from codegen_edge.generation.speculation.policy import Speculator
from codegen_edge.generation.speculation.rows import RowsSpeculator, RowText
from codegen_edge.runtimes.runtime import Runtime


class StepDrafts:
    """Chooses the drafts of each step, and learns from what became of them.

    Args:
        runtime: runs the steps. Only one that runs rows of any lengths together gets drafts for several rows.
        speculator: for a row that is alone; None drafts where the runtime's steps have room for tokens that cost
            nothing.
    """

    def __init__(self, runtime: Runtime, speculator: Speculator | None) -> None:
        self._alone = speculator or free_speculator(runtime)
        is_ragged = getattr(runtime, "runs_ragged", False)
        self._several = RowsSpeculator() if is_ragged and self._alone is not None and self._alone.is_free else None

    def draft(self, rows: Sequence[Row], capacity: int, cancels: Sequence[CancelToken]) -> None:
        """Set the draft of each row: tokens to feed behind its last one, none where they would not pay."""
        room = [max(0, min(row.params.max_new_tokens - row.num_new - 1, capacity - len(row.ids))) for row in rows]
        if len(rows) == 1 and self._alone is not None:
            (row,) = rows
            if not cancels:
                row.draft = self._alone.draft(row.ids, room[0], row.chooser)
                return
            with cancels[0].calling(self._alone.interrupt):
                row.draft = self._alone.draft(row.ids, room[0], row.chooser)
        elif self._several is not None:
            texts = [RowText(row.number, row.ids, most, row.chooser) for row, most in zip(rows, room, strict=True)]
            for row, draft in zip(rows, self._several.draft(texts), strict=True):
                row.draft = draft

    def record_step(self, rows: Sequence[Row], seconds: float) -> None:
        """A step of these rows and their drafts took so long."""
        num_drafted = sum(len(row.draft) for row in rows)
        if len(rows) == 1 and self._alone is not None:
            self._alone.record_step(num_drafted, seconds)
        elif self._several is not None:
            self._several.record_step(len(rows), num_drafted, seconds)

    def record_outcome(self, row: Row, num_rows: int, num_drafted: int, num_accepted: int) -> None:
        """So many drafts of a row, in a step of so many rows, were accepted."""
        if num_rows == 1 and self._alone is not None:
            self._alone.record_outcome(num_drafted, num_accepted)
        elif self._several is not None:
            self._several.record_outcome(row.number, num_drafted, num_accepted)
            if self._alone is not None:
                self._alone.count(num_drafted, num_accepted)
