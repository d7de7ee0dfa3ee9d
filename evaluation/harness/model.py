"""The model class that lm-eval runs its tasks on."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

from codegen_edge.bundle import Check
from codegen_edge.evaluation.harness.requests import generation_params, rows_of
from codegen_edge.evaluation.harness.scoring import Pair, score_pairs
from codegen_edge.generation import Request, RowOutput, RunningBatch
from codegen_edge.generation.model import load_model

_MAX_GEN_TOKS = 256  # what lm-eval's own classes generate where a task does not say


@register_model("codegen-edge")
class CodegenEdgeLM(TemplateLM):  # type: ignore[misc]  # lm-eval is untyped
    """A bundle and a runtime. How texts become tokens and tokens become requests is lm-eval's own.

    Args:
        bundle: the folder of a bundle for text generation.
        runtime: "cpu", "cuda", "tensorrt", "static-cpu".
        batch_size: most rows of a step, or "auto" for 8.
        threads: of a CPU runtime; None takes all.
        exact_steps: of cpu, as of `load_model`.
        max_gen_toks: tokens to generate where a task does not say.
        seed: of sampling; each request has random numbers of its own.
        check: "full" compares the bundle's sha256 sums first, "size" its sizes only.
        max_batch_size: given by lm-eval beside `batch_size`; bounds it.
        device: not read: `runtime` says where the model runs, and lm-eval's command line gives "cuda:0" to every model
            that was asked for without one.
        **options: further options of the runtime, such as `device_id` of cuda.

    Raises:
        InvalidInputError: an option is wrong.
        BundleError, RuntimeUnavailableError: as `load_model`.
    """

    def __init__(
        self,
        bundle: str,
        runtime: str = "cpu",
        *,
        batch_size: int | str = 1,
        threads: int | None = None,
        exact_steps: bool | None = None,
        max_gen_toks: int = _MAX_GEN_TOKS,
        seed: int = 0,
        check: Check = "full",
        max_batch_size: int | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.batch_size = rows_of(batch_size, max_batch_size)
        self.max_gen_toks = max_gen_toks
        self._seed = seed
        self._num_generated = 0
        self._model = load_model(
            str(bundle), runtime=runtime, check=check, threads=threads, exact_steps=exact_steps or None, **options
        )

    @property
    def max_length(self) -> int:
        """The model's context in tokens."""
        return self._model.runtime.config.context_length

    @property
    def eot_token_id(self) -> int:
        """The end of text, which also begins a text."""
        return self._model.runtime.config.eos_token_id

    @property
    def tokenizer_name(self) -> str:
        """What cached requests are kept under."""
        return self._model.tokenizer.fingerprint

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results beside the arguments."""
        manifest = self._model.bundle.manifest
        return {
            "model_source": manifest.source.name,
            "model_revision": manifest.source.revision,
            "model_precision": manifest.precision,
            "model_fingerprint": self._model.bundle.fingerprint,
            "runtime": self._model.runtime.name,
        }

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; CodeGen's tokenizer adds none of its own."""
        return self._model.tokenizer.encode(string)

    def tok_decode(self, tokens: Sequence[int], **kwargs: Any) -> str:
        """The text of token ids."""
        return self._model.tokenizer.decode(tokens)

    def close(self) -> None:
        """Free the runtime."""
        self._model.close()

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """[log-likelihood, is greedy] of each (cache key, context, continuation)."""
        results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)  # of an empty continuation
        given = [place for place, (_, _, continuation) in enumerate(requests) if continuation]
        pairs = [Pair(tuple(requests[place][1]), tuple(requests[place][2])) for place in given]
        with tqdm(total=len(pairs), disable=disable_tqdm, desc="Running loglikelihood requests") as progress:
            for batch in score_pairs(self._model.runtime, pairs, batch_size=self.batch_size):
                for number, score in batch:
                    place = given[number]
                    results[place] = (score.log_likelihood, score.is_greedy)
                    if requests[place][0] is not None:
                        self.cache_hook.add_partial("loglikelihood", requests[place][0], results[place])
                progress.update(len(batch))
        return results

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each text, in lm-eval's windows of the whole context."""
        windows: list[tuple[None, list[int], list[int]]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            (text,) = request.args
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            totals[owner] += value
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each context, cut before the first of its `until`.

        The longest contexts go first; when a row ends, the next one joins. A context that leaves no room for
        `max_gen_toks` loses its beginning.
        """
        runtime, tokenizer = self._model.runtime, self._model.tokenizer
        config, vocab_size = runtime.config, tokenizer.vocab_size
        accepted = []
        for place, request in enumerate(requests):
            context, gen_kwargs = request.args
            params = generation_params(gen_kwargs, self.max_gen_toks, self._next_seed())
            token_ids = tokenizer.encode(context) or [self.prefix_token_id]
            accepted.append((place, Request.of([token_ids], params, config, vocab_size)))
        waiting = deque(sorted(accepted, key=lambda each: -each[1].prompt_lengths[0]))
        longest = max((each.prompt_lengths[0] + each.params.max_new_tokens for _, each in accepted), default=1)
        batch = RunningBatch(runtime, num_allowed_ids=vocab_size, capacity=longest)
        outputs: dict[int, tuple[int, RowOutput]] = {}
        texts = [""] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as progress:
            while waiting or batch.rows:
                while waiting and len(batch.rows) < self.batch_size:
                    place, accepted_request = waiting.popleft()
                    prefill = batch.begin(accepted_request)
                    batch.advance(prefill)
                    (row,) = prefill.rows
                    params = accepted_request.params
                    length = accepted_request.prompt_lengths[0]
                    outputs[row] = place, RowOutput(tokenizer, params, config.eos_token_id, length)
                for event in batch.step():
                    place, output = outputs[event.row]
                    output.add(event)
                    if output.is_stopped:
                        batch.finish(event.row)
                    if output.finish_reason is not None:
                        del outputs[event.row]
                        texts[place] = output.text
                        self.cache_hook.add_partial("generate_until", requests[place].args, output.text)
                        progress.update(1)
        return texts

    def _next_seed(self) -> int:
        """A seed of the next request: a prompt that is asked for several times gets several samples."""
        self._num_generated += 1
        state = np.random.SeedSequence((self._seed, self._num_generated)).generate_state(1, np.uint64)
        return int(state[0])
