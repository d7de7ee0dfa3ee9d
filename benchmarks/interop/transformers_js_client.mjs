// Generate greedily from a bundle with transformers.js on Node.
//
// A job on stdin, one line of JSON on stdout; run.py says what stands in them. Packages come from the folder
// in which this program is started, as `import` would look for them beside this file only.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname } from "node:path";
import { cwd, version as node } from "node:process";

const require = createRequire(`${cwd()}/`);
const { AutoModelForCausalLM, Tensor, env } = require("@huggingface/transformers");

async function generate(model, prompt, maxNewTokens) {
  const inputIds = new Tensor("int64", BigInt64Array.from(prompt, BigInt), [1, prompt.length]);
  const attentionMask = new Tensor("int64", new BigInt64Array(prompt.length).fill(1n), [1, prompt.length]);
  const sequences = await model.generate({
    inputs: inputIds,
    attention_mask: attentionMask,
    do_sample: false,
    max_new_tokens: maxNewTokens,
  });
  return Array.from(sequences.data, Number).slice(prompt.length);
}

const job = JSON.parse(readFileSync(0, "utf8"));
env.allowRemoteModels = false;
env.localModelPath = dirname(job.bundle);
const model = await AutoModelForCausalLM.from_pretrained(basename(job.bundle), { dtype: "fp32" });

const tokenIds = [];
for (const prompt of job.prompts) {
  tokenIds.push(await generate(model, prompt, job.max_new_tokens));
}
const versions = { "@huggingface/transformers": env.version, node: node.slice(1) };
versions["onnxruntime-node"] = require("onnxruntime-node/package.json").version;
console.log(JSON.stringify({ versions, token_ids: tokenIds }));
