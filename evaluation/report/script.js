// The report's script: it moves the focus in the grid and shows completions side by side. Text is only ever set as text.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const text = (place) => (place === undefined ? "" : data.texts[place]);

// Lines above this product are not aligned: the table of the comparison would be too large.
const MOST_CELLS = 4e6;

document.documentElement.dataset.script = "yes";

function create(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// ---- Theme ---------------------------------------------------------------------------------------------------------

function kept(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null; // a page from a file may have no storage
  }
}

byId("theme").value = kept("theme") ?? "system";
document.documentElement.dataset.theme = byId("theme").value;
byId("theme").addEventListener("change", () => {
  document.documentElement.dataset.theme = byId("theme").value;
  try {
    localStorage.setItem("theme", byId("theme").value);
  } catch {
    // then it holds until the page is closed
  }
});

// ---- Which lines two texts share -------------------------------------------------------------------------------------

/** For each line of `base` the place of its partner in `other`, or -1: a longest common subsequence. */
function partners(base, other) {
  const found = new Array(base.length).fill(-1);
  let start = 0;
  let baseEnd = base.length;
  let otherEnd = other.length;
  while (start < baseEnd && start < otherEnd && base[start] === other[start]) {
    found[start] = start;
    start += 1;
  }
  while (baseEnd > start && otherEnd > start && base[baseEnd - 1] === other[otherEnd - 1]) {
    baseEnd -= 1;
    otherEnd -= 1;
    found[baseEnd] = otherEnd;
  }
  const rows = baseEnd - start;
  const columns = otherEnd - start;
  if (rows * columns > MOST_CELLS) {
    return found;
  }
  const width = columns + 1;
  const lengths = new Uint32Array((rows + 1) * width);
  for (let i = rows - 1; i >= 0; i -= 1) {
    for (let j = columns - 1; j >= 0; j -= 1) {
      const isSame = base[start + i] === other[start + j];
      const below = lengths[(i + 1) * width + j];
      const right = lengths[i * width + j + 1];
      lengths[i * width + j] = isSame ? lengths[(i + 1) * width + j + 1] + 1 : Math.max(below, right);
    }
  }
  for (let i = 0, j = 0; i < rows && j < columns; ) {
    if (base[start + i] === other[start + j]) {
      found[start + i] = start + j;
      i += 1;
      j += 1;
    } else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) {
      i += 1;
    } else {
      j += 1;
    }
  }
  return found;
}

/**
 * Lines of `base` and of each of `others` in rows: equal lines beside one another, blanks where one has fewer.
 * Gives a list of {line, isChanged} or null for each text, `base` first.
 */
function aligned(base, others) {
  const matches = others.map((other) => partners(base, other));
  const columns = [base, ...others].map(() => []);
  const places = others.map(() => 0);
  let from = 0;
  const fill = (until, ends) => {
    const pieces = [
      base.slice(from, until).map((line, at) => ({ line, isChanged: matches.some((match) => match[from + at] < 0) })),
      ...others.map((other, at) => {
        const shared = new Set(matches[at]);
        return other
          .slice(places[at], ends[at])
          .map((line, offset) => ({ line, isChanged: !shared.has(places[at] + offset) }));
      }),
    ];
    const most = Math.max(...pieces.map((piece) => piece.length));
    pieces.forEach((piece, at) => {
      columns[at].push(...piece, ...new Array(most - piece.length).fill(null));
    });
  };
  for (let at = 0; at < base.length; at += 1) {
    const ends = matches.map((match) => match[at]);
    if (ends.every((end) => end >= 0)) {
      fill(at, ends);
      from = at;
      others.forEach((_, other) => {
        places[other] = ends[other];
      });
      fill(at + 1, ends.map((end) => end + 1));
      from = at + 1;
      others.forEach((_, other) => {
        places[other] = ends[other] + 1;
      });
    }
  }
  fill(base.length, others.map((other) => other.length));
  return columns;
}

function showLines(pane, rows, sign) {
  pane.replaceChildren(
    ...rows.map((row) => {
      const isTurn = row?.line.startsWith(TURN);
      const names = ["row", row === null && "blank", row?.isChanged && "changed", isTurn && "turn"];
      const line = create("span", { className: names.filter(Boolean).join(" ") }, row?.line ?? "");
      line.dataset.sign = row?.isChanged ? sign : " ";
      return line;
    }),
  );
}

// ---- The chosen problem ------------------------------------------------------------------------------------------------

const TURN = "\u2500 turn ";
const view = { problem: 0, runs: { first: null, second: null } };

function linesOf(sample) {
  const turns = sample?.turns.map(text) ?? [];
  const named = turns.length === 1 ? turns : turns.map((turn, at) => `${TURN}${at + 1}\n${turn}`);
  const lines = named.join("\n").replace(/\n+$/, "").split("\n");
  return turns.length ? lines : [];
}

function chosenSample(name) {
  const samples = data.problems[view.problem].samples[view.runs[name]] ?? [];
  return samples[Number(byId(`${name}-sample`).value)] ?? samples[0];
}

function fillRuns(name) {
  const available = Object.keys(data.problems[view.problem].samples).map(Number);
  const select = byId(`${name}-run`);
  select.replaceChildren(
    ...available.map((run) => create("option", { value: String(run) }, data.runs[run].label)),
  );
  if (!available.includes(view.runs[name])) {
    view.runs[name] = (name === "second" && available.find((run) => run !== view.runs.first)) || available[0];
  }
  select.value = String(view.runs[name]);
  fillSamples(name);
}

function fillSamples(name) {
  const samples = data.problems[view.problem].samples[view.runs[name]] ?? [];
  byId(`${name}-sample`).replaceChildren(
    ...samples.map((sample, at) => {
      const which = `${sample.passed ? "passing" : "failing"}, #${sample.sample}`;
      return create("option", { value: String(at) }, which);
    }),
  );
  byId(`${name}-sample`).disabled = samples.length < 2;
  const failing = samples.findIndex((sample) => !sample.passed);
  byId(`${name}-sample`).value = String(Math.max(0, failing));
}

function showVerdict(name) {
  const sample = chosenSample(name);
  const line = byId(`${name}-verdict`);
  if (!sample) {
    line.replaceChildren("No sample of this problem is here.");
    return;
  }
  const verdict = sample.passed ? "\u2713 passed" : `\u2717 failed: ${sample.kind}`;
  const figures = [];
  if (sample.tokens !== null) figures.push(`${sample.tokens} tokens`);
  if (sample.finish) figures.push(`finish: ${sample.finish}`);
  const message = sample.message ? `. ${sample.message}` : "";
  line.replaceChildren(create("b", {}, verdict), `${message}${figures.length ? ` (${figures.join(", ")})` : ""}`);
}

function showLinesOfAll() {
  const problem = data.problems[view.problem];
  const [first, second] = ["first", "second"].map((name) => linesOf(chosenSample(name)));
  const reference = text(problem.reference).replace(/\n+$/, "").split("\n");
  const plain = (lines) => lines.map((line) => ({ line, isChanged: false }));
  let columns;
  if (byId("marked").value === "reference") {
    const [base, one, other] = aligned(reference, [first, second]);
    columns = [one, other, base.map((row) => row && { ...row, isChanged: false })];
  } else if (byId("marked").value === "other") {
    columns = [...aligned(first, [second]), plain(reference)];
  } else {
    columns = [plain(first), plain(second), plain(reference)];
  }
  const sign = byId("marked").value === "reference" ? "+" : "\u2212";
  showLines(byId("first"), columns[0], sign);
  showLines(byId("second"), columns[1], "+");
  showLines(byId("reference"), columns[2], " ");
  ["first", "second"].forEach(showVerdict);
}

function showProblem() {
  const problem = data.problems[view.problem];
  byId("problem").value = String(view.problem);
  byId("previous").disabled = view.problem === 0;
  byId("next").disabled = view.problem === data.problems.length - 1;
  byId("prompt").textContent = text(problem.prompt);
  fillRuns("first");
  fillRuns("second");
  const isAlone = Object.keys(problem.samples).length < 2;
  byId("second-run").closest(".pane").hidden = isAlone;
  byId("marked").querySelector("[value=other]").disabled = isAlone;
  if (isAlone && byId("marked").value === "other") {
    byId("marked").value = "reference";
  }
  for (const cell of grid.cells) {
    const isChosen = cell.dataset.task === problem.task && cell.dataset.problem === problem.id;
    const isShown = isChosen && Object.values(view.runs).includes(Number(cell.dataset.run));
    cell.setAttribute("aria-pressed", String(isShown));
  }
  showLinesOfAll();
}

function chooseProblem(number) {
  view.problem = number;
  showProblem();
}

// ---- The grid ----------------------------------------------------------------------------------------------------------

const grid = { cells: [...document.querySelectorAll("button.cell")], tipped: null };

function tableOf(cell) {
  const rows = [...cell.closest("tbody").rows].filter((row) => !row.hidden);
  return rows.map((row) => [...row.querySelectorAll(".cell")]);
}

function move(cell, key) {
  const rows = tableOf(cell);
  const row = rows.findIndex((cells) => cells.includes(cell));
  const column = rows[row].indexOf(cell);
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const edges = { Home: [row, 0], End: [row, rows[row].length - 1], PageUp: [row - 10, column], PageDown: [row + 10, column] };
  let [down, right] = steps[key] ? [row + steps[key][0], column + steps[key][1]] : edges[key];
  down = Math.max(0, Math.min(rows.length - 1, down));
  const step = key === "ArrowUp" || key === "PageUp" ? -1 : 1;
  let target = rows[down]?.[right];
  while (steps[key]?.[0] && target && target.tagName !== "BUTTON") {
    down += step;
    target = rows[down]?.[right];
  }
  if (target?.tagName === "BUTTON") {
    focusCell(target);
  }
}

function focusCell(cell) {
  for (const other of cell.closest("tbody").querySelectorAll('[tabindex="0"]')) {
    other.tabIndex = -1;
  }
  cell.tabIndex = 0;
  cell.focus();
}

function showTip(cell) {
  const tip = byId("tip");
  tip.textContent = cell.getAttribute("aria-label");
  tip.hidden = false;
  grid.tipped = cell;
  const box = cell.getBoundingClientRect();
  const size = tip.getBoundingClientRect();
  const isBelow = box.bottom + size.height + 8 < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - size.width - 8))}px`;
  tip.style.top = `${isBelow ? box.bottom + 6 : box.top - size.height - 6}px`;
}

function filterGrid() {
  const wanted = byId("grid-filter").value;
  let shown = 0;
  for (const row of document.querySelectorAll(".grid tbody tr")) {
    row.hidden = wanted !== "all" && row.dataset.state !== wanted;
    shown += row.hidden ? 0 : 1;
  }
  byId("grid-count").textContent = `${shown} of ${data.problems.length} problems`;
  for (const body of document.querySelectorAll(".grid tbody")) {
    const cells = [...body.querySelectorAll("button.cell")];
    for (const cell of cells) {
      cell.tabIndex = -1;
    }
    const first = cells.find((cell) => !cell.closest("tr").hidden);
    if (first) {
      first.tabIndex = 0;
    }
  }
}

function openCell(cell) {
  focusCell(cell);
  view.runs.first = Number(cell.dataset.run);
  if (view.runs.second === view.runs.first) {
    view.runs.second = null;
  }
  chooseProblem(
    data.problems.findIndex((one) => one.task === cell.dataset.task && one.id === cell.dataset.problem),
  );
  byId("completions").scrollIntoView({ block: "start" });
}

document.addEventListener("click", (event) => {
  const cell = event.target.closest("button.cell");
  if (cell) {
    openCell(cell);
    byId("tip").hidden = true;
  }
});
document.addEventListener("keydown", (event) => {
  const cell = event.target.closest?.("button.cell");
  const keys = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End", "PageUp", "PageDown"];
  if (event.key === "Escape") {
    byId("tip").hidden = true;
  }
  if (cell && keys.includes(event.key) && !event.ctrlKey && !event.altKey && !event.metaKey) {
    event.preventDefault();
    move(cell, event.key);
  }
});
// "pointermove", as cells also come under a pointer that rests while keys scroll the grid.
for (const start of ["pointermove", "focusin"]) {
  document.addEventListener(start, (event) => {
    const cell = event.target.closest?.("button.cell");
    if (cell && (byId("tip").hidden || cell !== grid.tipped)) {
      showTip(cell);
    }
  });
}
for (const end of ["pointerout", "focusout"]) {
  document.addEventListener(end, (event) => {
    if (grid.tipped !== null && event.target.closest?.("button.cell") === grid.tipped) {
      byId("tip").hidden = true;
    }
  });
}
// Keys that move the focus may scroll the grid: the tip goes along with its cell while that is in sight.
addEventListener("scroll", () => {
  const cell = grid.tipped;
  if (byId("tip").hidden || !(cell.matches(":hover") || cell === document.activeElement)) {
    byId("tip").hidden = true;
    return;
  }
  const box = cell.getBoundingClientRect();
  const frame = cell.closest(".scroll").getBoundingClientRect();
  if (box.top >= frame.top && box.bottom <= frame.bottom && box.bottom > 0 && box.top < innerHeight) {
    showTip(cell);
  } else {
    byId("tip").hidden = true;
  }
}, { capture: true, passive: true });
byId("grid-filter").addEventListener("change", filterGrid);

// ---- Start ---------------------------------------------------------------------------------------------------------------

byId("marked").append(
  create("option", { value: "other" }, "the other run"),
  create("option", { value: "reference" }, "the reference"),
  create("option", { value: "nothing" }, "nothing"),
);
byId("problem").append(
  ...data.problems.map((one, at) => create("option", { value: String(at) }, `${one.task}: ${one.id}`)),
);
byId("problem").addEventListener("change", () => chooseProblem(Number(byId("problem").value)));
byId("previous").addEventListener("click", () => chooseProblem(view.problem - 1));
byId("next").addEventListener("click", () => chooseProblem(view.problem + 1));
byId("marked").addEventListener("change", showLinesOfAll);
for (const name of ["first", "second"]) {
  byId(`${name}-run`).addEventListener("change", () => {
    view.runs[name] = Number(byId(`${name}-run`).value);
    fillSamples(name);
    showProblem();
  });
  byId(`${name}-sample`).addEventListener("change", showLinesOfAll);
}
filterGrid();
if (data.problems.length) {
  showProblem();
} else {
  byId("completions").hidden = true;
}
