"""One internal request, whatever dialect it came in: updates while it runs, results at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace

from codegen_edge.errors import CancelledError
from codegen_edge.server.engine import Failed, Job, Piece, Scored
from codegen_edge.server.engine.scoring import TopLogprobs
from codegen_edge.server.http.errors import as_api_error
from codegen_edge.server.http.grammars import AskedGrammar
from codegen_edge.server.http.models import Running, ServedModel

FINISH_REASONS = {
    "stop": "stop",
    "stop_id": "stop",
    "end_of_text": "stop",
    "length": "length",
    "context": "length",
    "deadline": "length",
    "cancelled": "cancelled",
}
"""Ours, and what OpenAI's clients know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token of a prompt or a completion.

    Attributes:
        token_id: of it.
        logprob: None for the first token of a text, which nothing comes before.
        top: the likeliest ids in its place, with theirs.
    """

    token_id: int
    logprob: float | None
    top: TopLogprobs = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A request for completions, checked.

    Attributes:
        served: the model.
        job: for its engine; without its constraint, which is compiled when the job is submitted.
        grammar: which texts are allowed; None allows all.
        prompt_texts: of each prompt.
        num_choices: of each prompt, that are answered.
        num_copies: how often each choice is answered: a greedy choice is computed once.
        is_echoed: whether the prompt's text comes first.
        logprobs: how many of the likeliest ids are answered with each token; None answers none.
        has_token_ids: whether the ids are answered.
        is_empty: whether nothing of what is generated is answered (0 tokens were asked for).
        request_id: of the client, or made up.
        ignored: fields that mean nothing here.
        headers: of the answer.
    """

    served: ServedModel
    job: Job
    prompt_texts: tuple[str, ...]
    grammar: AskedGrammar | None = None
    num_choices: int = 1
    num_copies: int = 1
    is_echoed: bool = False
    logprobs: int | None = None
    has_token_ids: bool = False
    is_empty: bool = False
    request_id: str = ""
    ignored: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def num_answered(self) -> int:
        """Choices of all prompts."""
        return len(self.job.prompts) * self.num_choices * self.num_copies


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A piece of one answered choice.

    Attributes:
        choice: number of the choice over all prompts.
        text: new text; empty only with a finish reason.
        tokens: those that brought it, and those before it that brought no text yet; with the last piece the end of
            text or the stop id, which brings none.
        finish_reason: ours, on the last one.
    """

    choice: int
    text: str
    tokens: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None


@dataclass(slots=True, kw_only=True)
class Result:
    """A whole choice.

    Attributes:
        text: with the prompt, where it is echoed.
        tokens: of that text, where log probabilities are wanted.
        finish_reason: ours.
    """

    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str = "length"

    @property
    def mean_logprob(self) -> float:
        """Of its tokens; what best_of chooses by."""
        known = [token.logprob for token in self.tokens if token.logprob is not None]
        return sum(known) / len(known) if known else float("-inf")


class Updates:
    """What a stream is made of, from a job's events.

    Args:
        wanted: the request.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._scores: dict[int, tuple[TokenLogprob, ...]] = {}
        self._pending: dict[int, list[TokenLogprob]] = {}  # tokens whose text is not certain yet
        self._begun: set[int] = set()

    async def of(self, running: Running) -> AsyncIterator[Update]:
        """In the order in which they come.

        Raises:
            ApiError: the job failed.
        """
        async for event in running.events():
            match event:
                case Failed():
                    raise as_api_error(event.error)
                case Scored():
                    self._scores[event.prompt] = _prompt_tokens(self._wanted.job.prompts[event.prompt], event)
                    if self._wanted.job.is_score_only:
                        for choice in self._wanted.job.choices_of(event.prompt):
                            for update in self._copies(self._update(choice, "", (), "length")):
                                yield update
                case Piece():
                    for update in self._of_piece(event):
                        yield update
                case _:
                    pass

    def _of_piece(self, piece: Piece) -> Iterator[Update]:
        event, tokens = piece.event, self._pending.setdefault(piece.choice, [])
        text = "" if self._wanted.is_empty else event.text
        # The end of text, too: lm-eval leaves out the last token, whatever it is.
        if event.token_id is not None and not self._wanted.is_empty:
            tokens.append(TokenLogprob(token_id=event.token_id, logprob=event.logprob, top=event.top_logprobs))
        if text or event.finish_reason is not None:
            self._pending[piece.choice] = []
            yield from self._copies(self._update(piece.choice, text, tuple(tokens), event.finish_reason))

    def _copies(self, update: Update) -> Iterator[Update]:
        for copy in range(self._wanted.num_copies):
            yield replace(update, choice=update.choice * self._wanted.num_copies + copy)

    def _update(self, choice: int, text: str, tokens: tuple[TokenLogprob, ...], finish_reason: str | None) -> Update:
        """With the prompt in front, where it is echoed and this is the first of its choice."""
        prompt = choice // self._wanted.job.params.n
        if self._wanted.is_echoed and choice not in self._begun:
            self._begun.add(choice)
            text = self._wanted.prompt_texts[prompt] + text
            tokens = (*self._scores.get(prompt, ()), *tokens)
        return Update(choice=choice, text=text, tokens=tokens, finish_reason=finish_reason)


async def results(wanted: Wanted, running: Running) -> list[Result]:
    """All choices that are answered; of `best_of` the best ones.

    Raises:
        ApiError: the job failed.
    """
    found: dict[int, Result] = {}
    async for update in Updates(wanted).of(running):
        result = found.setdefault(update.choice, Result())
        result.text += update.text
        result.tokens += update.tokens
        result.finish_reason = update.finish_reason or result.finish_reason
    if any(result.finish_reason == "cancelled" for result in found.values()):
        raise as_api_error(CancelledError())
    ordered = [found[number] for number in sorted(found)]
    computed = wanted.job.params.n
    if computed > wanted.num_choices * wanted.num_copies:
        groups = [ordered[start : start + computed] for start in range(0, len(ordered), computed)]
        # Stable: of equally likely ones the first stays in front.
        best = [sorted(group, key=lambda each: -each.mean_logprob)[: wanted.num_choices] for group in groups]
        ordered = [result for group in best for result in group]
    return ordered


def _prompt_tokens(prompt: tuple[int, ...], scored: Scored) -> tuple[TokenLogprob, ...]:
    scores = scored.scores
    following = zip(prompt[1:], scores.logprobs, scores.top_logprobs, strict=True)
    return (
        TokenLogprob(token_id=prompt[0], logprob=None),
        *(TokenLogprob(token_id=each, logprob=logprob, top=top) for each, logprob, top in following),
    )
