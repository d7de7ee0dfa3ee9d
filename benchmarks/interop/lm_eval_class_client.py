"""lm-eval's tasks on a bundle through our model class, and on transformers beside it; see `benchmarks.lm_eval`.

It runs in lm-eval's interpreter and asks no network: the tasks are made on the spot.
stdin: {"bundle": folder, "checkpoint": folder, "documents": [[name, text], ...], "ways": {name: options}}.
The last line on stdout is the result.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

HARNESS = "codegen_edge.evaluation.harness"
CONTEXT_LINES, CHOICES = 12, 4
QUESTIONS_PER_DOCUMENT = 2
ROLLING_DOCUMENTS, ROLLING_CHARACTERS = 6, 3000  # more than one window of 512 tokens
LIMIT_PER_TOKEN = 1e-3
TASKS = ("next_line_choice", "next_line_text", "whole_text")
COMMON = "dataset_path: json\ntest_split: test\ndoc_to_text: {text}\ndoc_to_target: {target}\noutput_type: {kind}\n"
YAML = {
    "next_line_choice": COMMON.format(text="context", target="label", kind="multiple_choice")
    + 'doc_to_choice: choices\ntarget_delimiter: ""\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n',
    "next_line_text": COMMON.format(text="context", target="line", kind="generate_until")
    + 'generation_kwargs:\n  until: ["\\n\\n", "\\ndef"]\n  do_sample: false\n  max_gen_toks: 16\n'
    + "metric_list:\n  - metric: exact_match\n",
    "whole_text": COMMON.format(text='""', target="text", kind="loglikelihood_rolling")
    + "metric_list:\n  - metric: bits_per_byte\n",
}


def questions(documents: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Which line of four follows? The others are of the same program."""
    found = []
    for number, (_, text) in enumerate(documents):
        lines = [line for line in text.splitlines() if line.strip()]
        for question in range(QUESTIONS_PER_DOCUMENT):
            place = CONTEXT_LINES + question * (len(lines) - CONTEXT_LINES - CHOICES) // QUESTIONS_PER_DOCUMENT
            if place + CHOICES > len(lines):
                continue
            label = (number + question) % CHOICES
            choices = [f"\n{line}" for line in lines[place + 1 : place + CHOICES]]
            choices.insert(label, f"\n{lines[place]}")
            context = "\n".join(lines[place - CONTEXT_LINES : place])
            found.append({"context": context, "choices": choices, "label": label, "line": choices[label]})
    return found


def write_tasks(folder: Path, documents: Sequence[Sequence[str]]) -> None:
    """The tasks' data and their descriptions, for lm-eval's `--include_path`."""
    data = {
        "questions": questions(documents),
        "texts": [{"text": text[:ROLLING_CHARACTERS]} for _, text in documents[:ROLLING_DOCUMENTS]],
    }
    for name, rows in data.items():
        (folder / f"{name}.json").write_text("\n".join(json.dumps(row) for row in rows))
    for task in TASKS:
        file = folder / ("texts.json" if task == "whole_text" else "questions.json")
        files = f"dataset_kwargs:\n  data_files:\n    test: {file}\n"
        (folder / f"{task}.yaml").write_text(f"task: {task}\n{files}{YAML[task]}")


def reference_class(checkpoint: str, bundle: str) -> Any:
    """transformers' model behind lm-eval's interface: one text at a time, float32, the softmax in float64."""
    import torch
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from transformers import CodeGenForCausalLM

    from codegen_edge.bundle import open_bundle
    from codegen_edge.tokenizer import Tokenizer

    tokenizer = Tokenizer(open_bundle(bundle).tokenizer_path)
    torch.set_num_threads(1)  # as ours: threads that wait for one another cost most on a busy machine
    model = CodeGenForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    class Reference(TemplateLM):  # type: ignore[misc, unused-ignore]
        eot_token_id = tokenizer.end_of_text_id
        max_length = model.config.n_positions

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return tokenizer.encode(string)

        def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            results = []
            for _key, context, continuation in requests:
                inputs = torch.tensor([(context + continuation)[-(self.max_length + 1) : -1]])
                targets = torch.tensor(continuation)
                with torch.no_grad():
                    logits = model(inputs).logits[0, -len(continuation) :].double()
                chosen = torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])
                results.append((float(chosen.sum()), bool((logits.argmax(-1) == targets).all())))
            return results

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            totals = []
            for request in requests:
                windows = get_rolling_token_windows(
                    self.tok_encode(*request.args), self.eot_token_id, self.max_length, context_len=1
                )
                scored = self._loglikelihood_tokens([(None, *make_disjoint_window(window)) for window in windows])
                totals.append(sum(value for value, _ in scored))
            return totals

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            texts = []
            for request in requests:
                context, asked = request.args
                ids = torch.tensor([tokenizer.encode(context)])
                settings = {"do_sample": False, "max_new_tokens": asked["max_gen_toks"], "pad_token_id": 0}
                output = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
                new = [each for each in output[0, ids.shape[1] :].tolist() if each != self.eot_token_id]
                text = tokenizer.decode(new)
                texts.append(text[: min((text.find(stop) for stop in asked["until"] if stop in text), default=None)])
            return texts

    return Reference()


def run(model: Any, include: Path) -> dict[str, Any]:
    """All tasks on a model: metrics, seconds, and every answer by its task and document."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    started_at = time.perf_counter()
    found = lm_eval.simple_evaluate(
        model,
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(include)),
        log_samples=True,
        bootstrap_iters=0,
    )
    seconds = time.perf_counter() - started_at
    answers = {
        (task, sample["doc_id"], place): (argument, answer)
        for task in TASKS
        for sample in found["samples"][task]
        for place, (argument, (answer,)) in enumerate(zip(arguments_of(sample), sample["resps"], strict=True))
    }
    metrics = {task: metrics_of(found["results"][task]) for task in TASKS}
    return {"metrics": metrics, "seconds": seconds, "answers": answers}


def arguments_of(sample: dict[str, Any]) -> list[Any]:
    """The requests of a document, in their order."""
    arguments = sample["arguments"]
    if not isinstance(arguments, dict):
        return list(arguments)
    return [tuple(each[key] for key in sorted(each)) for _, each in sorted(arguments.items())]


def metrics_of(result: dict[str, Any]) -> dict[str, float]:
    """A task's metrics, by their names without lm-eval's filters."""
    return {
        name.partition(",")[0]: value
        for name, value in result.items()
        if isinstance(value, float) and "stderr" not in name
    }


def compared(own: dict[str, Any], reference: dict[str, Any], model: Any) -> dict[str, Any]:
    """Our class against transformers, request by request."""
    differences: dict[str, list[float]] = {"loglikelihood": [], "loglikelihood_rolling": []}
    greedy = texts = equal = tokens = 0
    for key, (argument, expected) in reference["answers"].items():
        actual = own["answers"][key][1]
        if key[0] == "next_line_text":
            texts, equal = texts + 1, equal + (actual == expected)
        elif key[0] == "whole_text":
            count = len(model.tok_encode(argument[0]))
            differences["loglikelihood_rolling"].append(abs(actual - expected) / count)
            tokens += count
        else:
            count = len(model._encode_pair(*argument)[1])
            differences["loglikelihood"].append(abs(actual[0] - expected[0]) / count)
            greedy += actual[1] != expected[1]
            tokens += count
    worst = {name: max(values) for name, values in differences.items()}
    return {
        "requests": len(reference["answers"]),
        "scored_tokens": tokens,
        "largest_difference_per_token": worst,
        "greedy_flags_that_differ": greedy,
        "equal_texts": f"{equal} of {texts}",
        "metrics": own["metrics"],
        "seconds": round(own["seconds"], 1),
        "is_within": max(worst.values()) <= LIMIT_PER_TOKEN and not greedy,
    }


def command_line(bundle: str, include: Path) -> dict[str, Any]:
    """The same by `codegen-edge-lm-eval`, which is this module."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", HARNESS, "run", "--model", "codegen-edge"]
        command += ["--model_args", f"bundle={bundle},exact_steps=true,threads=1", "--batch_size", "4"]
        command += ["--tasks", TASKS[0], "--include_path", str(include), "--output_path", folder]
        subprocess.run(command, check=True, stdout=sys.stderr)
        (file,) = Path(folder).rglob("results*.json")
        return metrics_of(json.loads(file.read_text())["results"][TASKS[0]])


def main() -> None:
    job = json.load(sys.stdin)
    with tempfile.TemporaryDirectory(prefix="codegen-edge-lm-eval-") as folder:
        os.environ |= {"HF_HOME": folder, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        include = Path(folder) / "tasks"
        include.mkdir()
        write_tasks(include, job["documents"])
        from codegen_edge.evaluation.harness import CodegenEdgeLM

        reference = run(reference_class(job["checkpoint"], job["bundle"]), include)
        ways = {}
        for name, options in job["ways"].items():
            model = CodegenEdgeLM(job["bundle"], **options)
            ways[name] = compared(run(model, include), reference, model)
            model.close()
        result = {
            "versions": {name: version(name) for name in ("lm-eval", "onnxruntime", "torch", "transformers")},
            "transformers": {"metrics": reference["metrics"], "seconds": round(reference["seconds"], 1)},
            "ways": ways,
            "command_line": command_line(job["bundle"], include),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
