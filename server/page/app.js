// The page of `codegen-edge serve`. Text of a model enters the document as text nodes only, never as markup.

const byId = (id) => document.getElementById(id);
const NONE = "–";
const ALTERNATIVES = 3; // log probabilities asked for per token, beside the chosen one's

// ---- Python, coloured ------------------------------------------------------------------------------------------

const KEYWORDS = new Set(
  `and as assert async await break class continue def del elif else except finally for from global if import in is
   lambda nonlocal not or pass raise return try while with yield`.split(/\s+/),
);
const NAMES = new Set(
  `False None True self cls abs all any bool bytes dict enumerate filter float getattr hasattr int isinstance iter len
   list map max min next object open print range repr reversed round set sorted str sum super tuple type zip
   Exception IndexError KeyError RuntimeError StopIteration TypeError ValueError`.split(/\s+/),
);
// A string that is not closed yet ends with its line, a triple-quoted one with the text.
const LEXEME = new RegExp(
  [
    String.raw`(?<comment>#[^\n]*)`,
    String.raw`(?<string>(?:\b[rRbBuUfF]{1,2})?(?:"""(?:[^\\]|\\[^]?)*?(?:"""|(?![^]))|'''(?:[^\\]|\\[^]?)*?(?:'''|(?![^]))` +
      String.raw`|"(?:[^"\\\n]|\\[^])*"?|'(?:[^'\\\n]|\\[^])*'?))`,
    String.raw`(?<decorator>^[ \t]*@[\w.]+)`,
    String.raw`(?<word>[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)`,
    String.raw`(?<number>0[xX][\da-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?[jJ]?)`,
  ].join("|"),
  "gm",
);

/** Cut Python text into pieces {text, kind}; kind is a class of the style sheet, or "" for plain text. */
function pythonPieces(text) {
  const pieces = [];
  let end = 0;
  let wordBefore = "";
  for (const match of text.matchAll(LEXEME)) {
    const { word } = match.groups;
    let kind = Object.keys(match.groups).find((name) => match.groups[name] !== undefined);
    if (word !== undefined) {
      if (KEYWORDS.has(word)) kind = "keyword";
      else if (wordBefore === "def" || wordBefore === "class") kind = "defined";
      else kind = NAMES.has(word) ? "name" : "";
    }
    wordBefore = word ?? "";
    if (!kind) continue;
    if (match.index > end) pieces.push({ text: text.slice(end, match.index), kind: "" });
    pieces.push({ text: match[0], kind });
    end = match.index + match[0].length;
  }
  if (end < text.length) pieces.push({ text: text.slice(end), kind: "" });
  return pieces;
}

/** The pieces of a text from a position on. */
function piecesFrom(pieces, position) {
  const rest = [];
  let start = 0;
  for (const piece of pieces) {
    const cut = Math.max(position - start, 0);
    if (cut < piece.text.length) rest.push({ ...piece, text: piece.text.slice(cut) });
    start += piece.text.length;
  }
  return rest;
}

const drawn = new WeakMap();

/** Show pieces in an element, one node for each, and touch only those that changed. */
function draw(element, pieces) {
  const before = drawn.get(element) ?? [];
  const same = (one, other) => one.text === other.text && one.kind === other.kind && one.token === other.token;
  const shorter = Math.min(before.length, pieces.length);
  let head = 0;
  while (head < shorter && same(before[head], pieces[head])) head += 1;
  let tail = 0;
  while (tail < shorter - head && same(before.at(-1 - tail), pieces.at(-1 - tail))) tail += 1;
  for (let index = before.length - tail - 1; index >= head; index -= 1) element.childNodes[index].remove();
  const next = element.childNodes[head] ?? null;
  for (const piece of pieces.slice(head, pieces.length - tail)) element.insertBefore(nodeOf(piece), next);
  drawn.set(element, pieces);
}

function nodeOf({ text, kind, token }) {
  if (!kind) return document.createTextNode(text);
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = text;
  if (token !== undefined) {
    span.dataset.token = token;
    span.tabIndex = -1;
  }
  return span;
}

// ---- What the browser keeps ------------------------------------------------------------------------------------

/** A store of the browser that may be switched off. */
function store(kind) {
  try {
    return window[kind];
  } catch {
    return null;
  }
}

function kept(kind, name) {
  return store(kind)?.getItem(`codegen-edge.${name}`) ?? null;
}

function keep(kind, name, value) {
  try {
    store(kind)?.setItem(`codegen-edge.${name}`, value);
  } catch {
    // Full: the page works without.
  }
}

// ---- Errors ----------------------------------------------------------------------------------------------------

/** What the server refused: its status, and a message for the reader. */
class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function showError(message) {
  const line = document.createElement("p");
  line.textContent = message;
  byId("error-line").hidden = false;
  byId("error").append(line);
}

function clearErrors() {
  byId("error").replaceChildren();
  byId("error-line").hidden = true;
}

function announce(message) {
  byId("announcer").textContent = message;
}

// ---- The server ------------------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  const key = kept("sessionStorage", "key");
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, `The server does not answer: ${error.message}. Check that codegen-edge serve is running.`);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const text = await response.text();
  let message;
  try {
    message = JSON.parse(text).error.message;
  } catch {
    message = text.slice(0, 300) || response.statusText;
  }
  const wait = response.headers.get("Retry-After");
  if (response.status === 401) message = `${message} Enter it above.`;
  if (response.status === 429 && wait) message = `${message} Try again in ${wait} s.`;
  return new ApiError(response.status, `${message} (HTTP ${response.status})`);
}

/** The data of server-sent events, in the order of their arrival. */
async function* eventsOf(response) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let rest = "";
  let data = [];
  for (;;) {
    const { done, value } = await reader.read();
    const lines = (rest + decoder.decode(value, { stream: !done })).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      else if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      } // anything else is a comment that keeps the connection open
    }
    if (done) return;
  }
}

let models = [];

function describe(model) {
  const window = model.max_model_len ? `${model.max_model_len.toLocaleString("en")} tokens of context` : "";
  return [model.id, model.precision, window].filter(Boolean).join(" · ");
}

async function loadModels() {
  models = (await (await ask("v1/models")).json()).data;
  if (!models.length) throw new ApiError(0, "The server has no model.");
  panes.forEach((pane, index) => pane.offer(models, index));
  showModels();
}

function showModels() {
  const names = [...new Set(activePanes().map((pane) => pane.model))];
  const shown = names.map((name) => models.find((model) => model.id === name)).filter(Boolean);
  const lines = shown.map((model) => {
    const line = document.createElement("span");
    line.textContent = describe(model);
    return line;
  });
  byId("model-line").replaceChildren(...(lines.length ? lines : ["No model"]));
  document.title = `codegen-edge: ${names.join(", ")}`;
}

// ---- A pane: one model's completion ----------------------------------------------------------------------------

const LEVELS = [0.9, 0.7, 0.5, 0.25, 0.1]; // least probability of the classes p0 to p4; the legend says the same

function levelOf(logprob) {
  if (logprob === null) return "unknown";
  const level = LEVELS.findIndex((least) => Math.exp(logprob) >= least);
  return `p${level < 0 ? LEVELS.length : level}`;
}

class Pane {
  constructor(letter) {
    this.root = byId("pane").content.cloneNode(true).firstElementChild;
    this.root.setAttribute("aria-label", `Completion ${letter}`);
    this.select = this.root.querySelector("select");
    this.output = this.root.querySelector(".output");
    this.output.setAttribute("aria-label", `Text of completion ${letter}`);
    this.acceptButton = this.root.querySelector(".accept");
    this.hint = this.root.querySelector(".hint");
    this.controller = null;
    this.reset("");
    this.listen();
  }

  listen() {
    this.acceptButton.addEventListener("click", () => this.accept());
    this.select.addEventListener("change", () => {
      this.stop();
      this.clear(); // what stands here is the other model's
      showModels();
      keepState();
    });
    this.output.addEventListener("keydown", (event) => this.onKey(event));
    const tokenAt = (event) => event.target.closest("[data-token]");
    this.output.addEventListener("pointerover", (event) => tokenAt(event) && tip.show(this, tokenAt(event)));
    this.output.addEventListener("pointerout", () => tip.hideSoon());
    this.output.addEventListener("click", (event) => tokenAt(event) && tip.show(this, tokenAt(event), { stays: true }));
    this.output.addEventListener("focusin", (event) => {
      if (!tokenAt(event)?.matches(":focus-visible")) return;
      tip.show(this, tokenAt(event), { stays: true });
      announce(tip.sentence(this.tokens[tokenAt(event).dataset.token]));
    });
    this.output.addEventListener("focusout", () => tip.hide());
    this.output.addEventListener("scroll", () => tip.hide());
  }

  get model() {
    return this.select.value;
  }

  get text() {
    return this.points.join("");
  }

  get isRunning() {
    return this.controller !== null;
  }

  /** Fill the choice of models; keep what was chosen where the server still has it. */
  offer(models, index) {
    const before = this.model || (kept("sessionStorage", "models") ?? "").split("\n")[index];
    const options = models.map((model) => {
      const label = model.precision && !model.id.includes(model.precision) ? `${model.id} (${model.precision})` : model.id;
      return new Option(label, model.id);
    });
    this.select.replaceChildren(...options);
    const isThere = models.some((model) => model.id === before);
    this.select.value = isThere ? before : models[Math.min(index, models.length - 1)].id;
  }

  reset(prompt) {
    this.prompt = prompt;
    this.points = []; // code points: the server counts in them, a string's index does not
    this.tokens = []; // {start, text, logprob, top}
    this.chunks = 0;
    this.usage = null;
    this.finish = "";
    this.startedAt = 0;
    this.firstAt = 0;
    this.lastAt = 0;
  }

  clear() {
    this.reset("");
    this.render();
    byId("comparison").textContent = "";
  }

  async run(body) {
    this.reset(body.prompt);
    this.controller = new AbortController();
    this.finish = "running";
    this.startedAt = performance.now();
    this.output.setAttribute("aria-busy", "true"); // screen readers get the text once it is complete
    this.render();
    try {
      await this.stream({ ...body, model: this.model });
    } catch (error) {
      if (error.name === "AbortError") {
        this.finish = "stopped";
      } else {
        this.finish = "error";
        if (error.status === 401) askForKey();
        const message = error instanceof ApiError ? error.message : `The stream broke off: ${error.message}.`;
        showError(activePanes().length > 1 ? `${this.model}: ${message}` : message);
      }
    } finally {
      this.controller = null;
      this.render();
      this.output.setAttribute("aria-busy", "false");
    }
  }

  async stream(body) {
    const response = await ask("v1/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: this.controller.signal,
    });
    for await (const data of eventsOf(response)) {
      if (data === "[DONE]") {
        if (this.finish === "running") this.finish = "unknown";
        return;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(0, chunk.error.message);
      this.take(chunk);
    }
    throw new ApiError(0, "The stream broke off before its end.");
  }

  take({ choices, usage }) {
    this.usage = usage ?? this.usage;
    for (const choice of choices) {
      if (choice.text) {
        this.points.push(...choice.text);
        this.chunks += 1;
        this.lastAt = performance.now();
        this.firstAt ||= this.lastAt;
      }
      if (choice.logprobs) this.takeTokens(choice.logprobs);
      this.finish = choice.finish_reason ?? this.finish;
    }
    this.renderSoon();
  }

  takeTokens({ tokens, token_logprobs, top_logprobs, text_offset }) {
    tokens.forEach((text, index) => {
      const last = this.tokens.at(-1);
      const offset = text_offset?.[index];
      this.origin = last ? this.origin : (offset ?? 0); // servers count from the prompt's start or from its end
      const after = last ? last.start + [...last.text].length : 0;
      const start = Number.isInteger(offset) && offset - this.origin >= (last?.start ?? 0) ? offset - this.origin : after;
      this.tokens.push({ start, text, logprob: token_logprobs[index] ?? null, top: top_logprobs?.[index] ?? {} });
    });
  }

  stop() {
    this.controller?.abort();
  }

  accept() {
    if (this.isRunning || !this.points.length) return;
    editor.append(this.text);
    panes.forEach((pane) => pane.clear());
    announce("Accepted.");
  }

  onKey(event) {
    if (event.key === "Tab" && !event.shiftKey && this.points.length && !this.isRunning && !isEscaped) {
      event.preventDefault();
      this.accept();
    }
    const spans = [...this.output.querySelectorAll("[data-token]")];
    const at = spans.indexOf(document.activeElement);
    const aims = { ArrowRight: at + 1, ArrowLeft: Math.max(at - 1, 0), Home: 0, End: spans.length - 1 };
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || !(event.key in aims)) return;
    const aim = spans[aims[event.key]];
    if (!aim) return;
    event.preventDefault();
    aim.focus();
  }

  /** Draw with the next frame, however many chunks arrive until then. */
  renderSoon() {
    this.frame ??= requestAnimationFrame(() => this.render());
  }

  render() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    const output = this.output;
    const wasAtEnd = output.scrollTop + output.clientHeight >= output.scrollHeight - 4;
    const isColoured = byId("colour").checked;
    draw(output, isColoured && this.tokens.length ? this.tokenPieces() : this.codePieces());
    if (this.isRunning && wasAtEnd) output.scrollTop = output.scrollHeight;
    this.hint.hidden = !(isColoured && this.points.length && !this.tokens.length && !this.isRunning);
    this.acceptButton.setAttribute("aria-disabled", String(this.isRunning || !this.points.length));
    this.renderFigures();
  }

  codePieces() {
    return piecesFrom(pythonPieces(this.prompt + this.text), this.prompt.length);
  }

  tokenPieces() {
    const pieces = [];
    this.tokens.forEach(({ start, logprob }, token) => {
      const text = this.points.slice(start, this.tokens[token + 1]?.start).join("");
      const breaks = text.startsWith("\n") ? " breaks" : "";
      if (text) pieces.push({ text, kind: `token ${levelOf(logprob)}${breaks}`, token });
    });
    return pieces;
  }

  /** Tokens so far. Without usage and log probabilities only the chunks are known; each has one token or more. */
  get counted() {
    if (this.usage) return { count: this.usage.completion_tokens, isExact: true };
    return this.tokens.length ? { count: this.tokens.length, isExact: true } : { count: this.chunks, isExact: false };
  }

  renderFigures() {
    const show = (figure, text) => {
      this.root.querySelector(`[data-figure=${figure}]`).textContent = text || NONE;
    };
    const { count, isExact } = this.counted;
    const least = isExact ? "" : "≥ ";
    const seconds = (this.lastAt - this.firstAt) / 1000;
    const speed = count > 1 && seconds > 0 ? (count - 1) / seconds : 0;
    show("speed", speed && `${least}${speed < 100 ? speed.toFixed(1) : speed.toFixed(0)} tokens/s`);
    show("first", this.firstAt && `${(this.firstAt - this.startedAt).toFixed(0)} ms`);
    show("tokens", count && `${least}${count}${this.usage ? ` (prompt ${this.usage.prompt_tokens})` : ""}`);
    show("finish", this.finish);
    this.root.dataset.finish = this.finish;
  }
}

// ---- The alternatives of a token -------------------------------------------------------------------------------

function percent(logprob) {
  const value = 100 * Math.exp(logprob);
  return value > 0 && value < 0.1 ? "< 0.1 %" : `${value.toFixed(1)} %`;
}

const tip = {
  element: byId("tip"),
  timer: 0,
  stays: false, // opened by the keyboard or a tap: does not go with the pointer

  /** The chosen token and the others, likeliest first. */
  rows({ text, logprob, top }) {
    const all = new Map(Object.entries(top));
    if (logprob !== null) all.set(text, logprob);
    const rows = [...all].map(([token, value]) => ({ token, value, isChosen: token === text }));
    return rows.sort((one, other) => other.value - one.value);
  },

  sentence(token) {
    const rows = this.rows(token).map(({ token: text, value }) => `${JSON.stringify(text)} ${percent(value)}`);
    return `Token ${JSON.stringify(token.text)}. ${rows.join(", ")}`;
  },

  show(pane, span, { stays = false } = {}) {
    clearTimeout(this.timer);
    const token = pane.tokens[span.dataset.token];
    if (!token) return;
    this.stays = stays;
    this.anchor?.removeAttribute("aria-describedby");
    this.anchor = span;
    span.setAttribute("aria-describedby", "tip");
    const title = document.createElement("p");
    title.textContent = token.logprob === null ? "No log probability" : `log probability ${token.logprob.toFixed(3)}`;
    const list = document.createElement("ol");
    list.append(...this.rows(token).map((row) => this.line(row)));
    this.element.replaceChildren(title, list);
    this.element.hidden = false;
    this.place(span.getClientRects()[0] ?? span.getBoundingClientRect());
  },

  line({ token, value, isChosen }) {
    const item = document.createElement("li");
    item.className = isChosen ? "chosen" : "";
    const parts = [JSON.stringify(token).slice(1, -1).replaceAll('\\"', '"').replaceAll(" ", "␣"), percent(value)];
    for (const [index, text] of parts.entries()) {
      const part = document.createElement(index ? "span" : "code");
      part.textContent = text;
      item.append(part);
    }
    const bar = document.createElement("i");
    bar.style.width = `${100 * Math.exp(value)}%`;
    item.append(bar);
    return item;
  },

  place(rect) {
    const { offsetWidth: width, offsetHeight: height } = this.element;
    const left = Math.min(Math.max(rect.left, 8), document.documentElement.clientWidth - width - 8);
    const above = rect.top - height - 6;
    this.element.style.left = `${Math.max(left, 8)}px`;
    this.element.style.top = `${above > 8 ? above : rect.bottom + 6}px`;
  },

  hide() {
    clearTimeout(this.timer);
    this.element.hidden = true;
    this.anchor?.removeAttribute("aria-describedby");
    this.anchor = null;
    this.stays = false;
  },

  /** After a moment, in which the pointer may reach the tooltip or the next token. */
  hideSoon() {
    clearTimeout(this.timer);
    if (!this.stays) this.timer = setTimeout(() => this.hide(), 150);
  },
};

// ---- The editor ------------------------------------------------------------------------------------------------

/** Whether the last key was Escape: Tab then leaves a place where it has a meaning of its own. */
let isEscaped = false;

const editor = {
  area: byId("prompt"),

  get value() {
    return this.area.value;
  },

  /** Put text in place of the selection, such that the browser's undo knows it. */
  insert(text) {
    this.area.focus();
    const isDone = text ? document.execCommand("insertText", false, text) : document.execCommand("delete");
    if (!isDone) {
      this.area.setRangeText(text, this.area.selectionStart, this.area.selectionEnd, "end");
      this.render();
    }
  },

  append(text) {
    this.area.setSelectionRange(this.value.length, this.value.length);
    this.insert(text);
    const scroller = this.area.closest(".editor");
    scroller.scrollTo(0, scroller.scrollHeight);
  },

  render() {
    draw(byId("highlight"), [...pythonPieces(this.value), { text: "\n", kind: "" }]);
    const lines = this.value.split("\n").length;
    byId("gutter").textContent = Array.from({ length: lines }, (_, index) => index + 1).join("\n");
  },

  onKey(event) {
    if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    const { selectionStart: start, selectionEnd: end, value } = this.area;
    const lineStart = value.lastIndexOf("\n", start - 1) + 1;
    const before = value.slice(lineStart, start);
    if (event.key === "Tab" && !isEscaped) {
      event.preventDefault();
      if (event.shiftKey || value.slice(start, end).includes("\n")) this.shift(lineStart, end, event.shiftKey);
      else this.insert(" ".repeat(4 - (before.length % 4)));
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      const isBlock = /:\s*(#.*)?$/.test(before);
      this.insert(`\n${before.match(/^[ \t]*/)[0]}${isBlock ? "    " : ""}`);
    } else if (event.key === "Backspace" && start === end && /^ {2,}$/.test(before)) {
      event.preventDefault();
      this.area.setSelectionRange(start - (before.length % 4 || 4), start);
      this.insert("");
    }
  },

  /** Indent the lines of the selection by four spaces, or take up to four away. */
  shift(from, to, isBack) {
    const lines = this.value.slice(from, to).split("\n");
    const rest = isBack ? this.value.slice(to).match(/^ */)[0].length : 0;
    const until = lines.length === 1 ? to + rest : to; // the caret may stand inside the indentation
    const shifted = this.value.slice(from, until).split("\n").map((line) => (isBack ? line.replace(/^ {1,4}/, "") : line && `    ${line}`));
    this.area.setSelectionRange(from, until);
    const text = shifted.join("\n");
    if (text === this.value.slice(from, until)) return;
    this.insert(text);
    if (lines.length > 1) this.area.setSelectionRange(from, from + text.length);
  },
};

// ---- Runs ------------------------------------------------------------------------------------------------------

const panes = ["A", "B"].map((letter) => new Pane(letter));
const form = byId("parameters");

function activePanes() {
  return byId("compare").checked ? panes : panes.slice(0, 1);
}

const ESCAPES = { n: "\n", t: "\t", r: "\r", "\\": "\\" };

/** The body of a request without its model, or null where a parameter is not valid; the error is then shown. */
function requestBody() {
  const wrong = [...form.elements].find((field) => !field.checkValidity());
  if (wrong) {
    showError(`${wrong.labels[0].textContent}: ${wrong.validationMessage}`);
    wrong.focus();
    return null;
  }
  const body = { prompt: editor.value, stream: true, stream_options: { include_usage: true } };
  for (const name of ["max_tokens", "temperature", "top_p", "seed"]) {
    if (form.elements[name].value !== "") body[name] = Number(form.elements[name].value);
  }
  const stops = form.elements.stop.value.split("\n").filter((line) => line !== "");
  if (stops.length) body.stop = stops.map((line) => line.replace(/\\([ntr\\])/g, (_, letter) => ESCAPES[letter]));
  if (byId("colour").checked) body.logprobs = ALTERNATIVES;
  return body;
}

let isRunning = false;

function setRunning(value) {
  isRunning = value;
  // Not `disabled`: a button that is would lose the keyboard's focus.
  byId("run").setAttribute("aria-disabled", String(value));
  byId("stop").setAttribute("aria-disabled", String(!value));
}

async function run() {
  if (isRunning) return;
  clearErrors();
  tip.hide();
  byId("comparison").textContent = "";
  const body = requestBody();
  if (!body) return;
  setRunning(true);
  announce("Running.");
  try {
    if (!models.length) await loadModels();
    await Promise.all(activePanes().map((pane) => pane.run(body)));
    const ends = activePanes().map((pane) => `${pane.counted.count} tokens, ${pane.finish}`);
    announce(`Finished: ${ends.join("; ")}.`);
    compareTexts();
  } catch (error) {
    failedToLoad(error);
  } finally {
    setRunning(false);
  }
}

function stop() {
  panes.forEach((pane) => pane.stop());
}

/** Say where the texts of two panes part. */
function compareTexts() {
  const [one, other] = panes.map((pane) => pane.points);
  if (activePanes().length < 2 || panes.some((pane) => !["stop", "length"].includes(pane.finish))) return;
  let same = 0;
  while (same < one.length && one[same] === other[same]) same += 1;
  const lines = one.slice(0, same).join("").split("\n");
  byId("comparison").textContent =
    same === one.length && same === other.length
      ? "Both texts are equal"
      : `First difference: line ${lines.length}, column ${[...lines.at(-1)].length + 1}`;
}

function askForKey() {
  byId("key-form").hidden = false;
  byId("key").focus();
}

function failedToLoad(error) {
  byId("model-line").textContent = "No model";
  showError(error.message);
  if (error.status === 401) askForKey();
}

// ---- The page --------------------------------------------------------------------------------------------------

function keepState() {
  const fields = Object.fromEntries([...form.elements].map((field) => [field.name, field.value]));
  const toggles = { compare: byId("compare").checked, colour: byId("colour").checked };
  keep("sessionStorage", "state", JSON.stringify({ prompt: editor.value, fields, toggles }));
  if (models.length) keep("sessionStorage", "models", panes.map((pane) => pane.model).join("\n"));
}

function restoreState() {
  const state = JSON.parse(kept("sessionStorage", "state") ?? "null");
  editor.area.value = state?.prompt ?? 'def fibonacci(n: int) -> int:\n    """Return the n-th Fibonacci number."""\n';
  for (const [name, value] of Object.entries(state?.fields ?? {})) if (form.elements[name]) form.elements[name].value = value;
  for (const [id, value] of Object.entries(state?.toggles ?? {})) byId(id).checked = value;
  byId("theme").value = kept("localStorage", "theme") ?? "system";
}

function showTheme() {
  document.documentElement.dataset.theme = byId("theme").value;
}

function showToggles() {
  const isCompared = byId("compare").checked;
  panes[1].root.hidden = !isCompared;
  byId("panes").classList.toggle("two", isCompared);
  byId("legend").hidden = !byId("colour").checked;
  if (!isCompared) {
    panes[1].stop();
    byId("comparison").textContent = "";
  }
  tip.hide();
  panes.forEach((pane) => pane.render());
  showModels();
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  } else if (event.key === "Escape") {
    tip.hide();
    stop();
  }
});
// The keys of the fields ask whether Escape came before; what they did with Tab is settled when it gets here.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Shift") isEscaped = event.key === "Escape";
});
document.addEventListener("pointerdown", (event) => {
  isEscaped = false;
  if (!event.target.closest("[data-token], #tip")) tip.hide();
});
window.addEventListener("resize", () => tip.hide());
window.addEventListener("scroll", () => tip.hide());
tip.element.addEventListener("pointerenter", () => clearTimeout(tip.timer));
tip.element.addEventListener("pointerleave", () => tip.hideSoon());

editor.area.addEventListener("keydown", (event) => editor.onKey(event));
editor.area.addEventListener("input", () => {
  editor.render();
  keepState();
});
byId("run").addEventListener("click", run);
byId("stop").addEventListener("click", stop);
byId("dismiss").addEventListener("click", clearErrors);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", keepState);
for (const id of ["compare", "colour"]) {
  byId(id).addEventListener("change", () => {
    showToggles();
    keepState();
  });
}
byId("theme").addEventListener("change", () => {
  showTheme();
  keep("localStorage", "theme", byId("theme").value);
});
byId("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  keep("sessionStorage", "key", byId("key").value);
  clearErrors();
  byId("key-form").hidden = true;
  byId("key").value = "";
  editor.area.focus();
  try {
    await loadModels();
  } catch (error) {
    failedToLoad(error);
  }
});

byId("panes").append(...panes.map((pane) => pane.root));
if (navigator.platform.startsWith("Mac")) {
  document.querySelectorAll("[data-keys=run]").forEach((kbd) => (kbd.textContent = "⌘ Enter"));
}
restoreState();
showTheme();
editor.render();
showToggles();
loadModels().catch(failedToLoad);
