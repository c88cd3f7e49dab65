"use strict";

(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  // Text only ever becomes text: nothing that comes from a file is parsed as HTML.
  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key in made && typeof value !== "string") made[key] = value;
      else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }
  function duration(seconds) {
    if (seconds === null || seconds === undefined) return "–";
    for (const [unit, scale] of [["s", 1], ["ms", 1e-3], ["µs", 1e-6]]) if (seconds >= scale) return `${(seconds / scale).toPrecision(3)} ${unit}`;
    return `${(seconds / 1e-9).toPrecision(3)} ns`;
  }

  // All rows.
  const { columns, numbers, words: texts, rows: coded } = read("table-data");
  const rows = coded.map((row) => row.map((cell, index) => (numbers.includes(columns[index]) ? cell : texts[cell])));
  const at = Object.fromEntries(columns.map((name, index) => [name, index]));
  const SHOWN = [
    ["sweep", "sweep"], ["problem", "problem"], ["device", "device"], ["method", "method"], ["status", "status"], ["median", "median"],
    ["rel. error", "error"], ["flags", "flags"], ["reason", "reason"],
  ];
  const TEXT = new Set(["sweep", "problem", "device", "method", "flags"]);
  const PAGE = 25;
  let order = { column: null, descending: false }, limit = PAGE, found = rows;

  function cells(row) {
    return [
      row[at.sweep], row[at.problem], row[at.device], row[at.method], row[at.status], duration(row[at.median]),
      row[at.error] === null ? "–" : row[at.error].toExponential(1), row[at.flags], row[at.reason],
    ];
  }
  function draw() {
    const body = document.querySelector("#row-table tbody");
    body.replaceChildren(...found.slice(0, limit).map((row) => {
      const line = element("tr");
      cells(row).forEach((text, index) => {
        const name = SHOWN[index][0];
        const kind = name === "status" ? `status ${text === "ok" ? "ok" : ""}` : name === "reason" ? "long" : TEXT.has(name) ? "text" : "";
        line.append(element("td", { class: kind }, text));
      });
      return line;
    }));
    document.getElementById("row-count").textContent = `${found.length} of ${rows.length} rows, ${Math.min(limit, found.length)} shown`;
    document.getElementById("row-more").hidden = limit >= found.length;
  }
  function select() {
    const filters = [...document.querySelectorAll("#row-filters select")].map((field) => [at[field.name], field.value]).filter(([, value]) => value);
    const words = document.getElementById("row-search").value.toLowerCase().split(/\s+/).filter(Boolean);
    found = rows.filter((row) => {
      if (!filters.every(([index, value]) => row[index] === value)) return false;
      const text = words.length ? row.join(" ").toLowerCase() : "";
      return words.every((word) => text.includes(word));
    });
    if (order.column !== null) {
      const sign = order.descending ? -1 : 1, index = at[order.column];
      found = [...found].sort((a, b) => {
        const [x, y] = [a[index], b[index]];
        if (x === null || y === null) return (x === null) - (y === null); // what is missing comes last
        return sign * (typeof x === "number" ? x - y : x.localeCompare(y));
      });
    }
    limit = PAGE;
    draw();
  }
  function headings() {
    const line = element("tr");
    for (const [name, column] of SHOWN) {
      const head = element("th", { scope: "col" });
      head.append(element("button", { type: "button" }, name));
      head.firstChild.addEventListener("click", () => {
        order = { column, descending: order.column === column && !order.descending };
        line.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
        select();
      });
      line.append(head);
    }
    document.querySelector("#row-table thead").replaceChildren(line);
  }
  function filters() {
    const form = document.getElementById("row-filters");
    for (const name of ["sweep", "device", "method", "status"]) {
      const values = [...new Set(rows.map((row) => row[at[name]]))].sort();
      const field = element("select", { name }, element("option", { value: "" }, "all"), ...values.map((value) => element("option", { value }, value)));
      form.append(element("label", {}, name, field));
    }
    form.append(element("label", {}, "contains", element("input", { id: "row-search", type: "search", placeholder: "e.g. 784 native" })));
    form.addEventListener("input", select);
    form.addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("row-more").addEventListener("click", () => { limit += PAGE * 8; draw(); });
  }

  // The explorer.
  const machines = read("explorer-data");
  const SIZES = [["L", "hidden layers", 10, 0, 64], ["D", "inputs", 2, 1, 2048], ["K", "hidden width", 30, 1, 2048], ["P", "outputs", 10, 1, 2048], ["N", "samples", 1, 1, 65536]];
  const SURE = {
    measured: "this very problem was measured",
    nearby: "every size is within a factor of two of a measured problem",
    extrapolated: "no measured problem is near; the model carries the prediction",
  };
  function answer() {
    const form = document.getElementById("explorer-form"), target = document.getElementById("explorer-answer");
    const sizes = SIZES.map(([name]) => Number(form.elements[name].value));
    const bad = SIZES.filter(([, , , low, high], k) => !Number.isInteger(sizes[k]) || sizes[k] < low || sizes[k] > high);
    if (bad.length) {
      const [name, words, , low, high] = bad[0];
      target.replaceChildren(element("p", { class: "error" }, `${name} (${words}) must be a whole number from ${low} to ${high}`));
      return;
    }
    const problem = Model.problem(...sizes), chosen = form.elements.device.value;
    const found = (chosen === "all" ? machines : [machines[Number(chosen)]]).map((place) => ({ machine: place, result: Model.recommend(problem, place) }));
    found.sort((a, b) => a.result.best.seconds - b.result.best.seconds);
    const { machine, result } = found[0], { best } = result;
    const [L, D, K, P, N] = sizes, near = result.nearest;
    const other = result.ranked.find((r) => !r.ours);
    const lead = other ? `, ${(other.seconds / best.seconds).toPrecision(3)} times as fast as the best library, ${other.method}` : "";
    const sure = `${result.confidence}: ${SURE[result.confidence]}`;
    const nearest = near && result.confidence !== "measured" ? ` (nearest: ${near.widths.join("-")}, N = ${near.batch ?? 1})` : "";
    const slowest = Math.log(Math.max(...result.ranked.map((r) => r.seconds)) / best.seconds + 1);
    const body = element("tbody", {}, ...result.ranked.map((r) => {
      const length = slowest ? (100 * Math.log(r.seconds / best.seconds + 1)) / slowest : 100;
      return element("tr", {}, element("th", { scope: "row" }, r.method), element("td", {}, r.ours ? "hand-written" : "library"), element("td", {}, duration(r.predicted)),
        element("td", {}, duration(r.measured)), element("td", { class: "bars" }, bar(length, r.ours)));
    }));
    const head = element("tr", {}, ...["method", "by", "predicted", "measured", ""].map((name) => element("th", { scope: "col" }, name)));
    const x = N === 1 ? `torch.randn(${D})` : `torch.randn(${N}, ${D})`, device = machine.device === "cpu" ? "" : `, device="${machine.device}"`;
    const code = [
      "import torch", "import jacobians as jac",
      `mlp = jac.MLP.random(L=${L}, D=${D}, K=${K}, P=${P}${device})  # or jac.MLP.from_torch(your_network)`,
      `x = ${x.slice(0, -1)}${device})`, `J = jac.jacobian(mlp, x, method="${best.method}")`,
    ].join("\n");
    const where = chosen === "all" ? ` on ${machine.name}` : "";
    target.replaceChildren(
      element("p", { class: "use" }, "Use ", element("strong", {}, best.method), `${where}: ${duration(best.seconds)} a call${lead}.`),
      ...(chosen === "all" ? [devices(found)] : []),
      element("p", { class: "meta" }, `How sure: ${sure}${nearest}.`),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Predicted times" }, element("table", {}, element("thead", {}, head), body)),
      element("pre", {}, code),
    );
  }
  function devices(found) {
    const cells = ({ machine, result: { best, confidence } }) => [best.method, duration(best.seconds), confidence, `${(best.seconds / found[0].result.best.seconds).toPrecision(3)}x`]
      .map((text) => element("td", {}, text)).reduce((row, cell) => { row.append(cell); return row; }, element("tr", {}, element("th", { scope: "row" }, machine.name)));
    const head = element("tr", {}, ...["device", "method", "time", "known", "of the fastest"].map((name) => element("th", { scope: "col" }, name)));
    return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Devices for this shape" },
      element("table", {}, element("thead", {}, head), element("tbody", {}, ...found.map(cells))));
  }
  function bar(length, ours) {
    const made = element("span", { class: ours ? "bar" : "bar peer" });
    made.style.width = `${length.toFixed(1)}%`;
    return made;
  }
  function fields() {
    const form = document.getElementById("explorer-form");
    if (!machines.length) {
      form.replaceChildren(element("p", {}, "These results hold no ceilings, which the model needs; run the sweep again with this version."));
      return;
    }
    for (const [name, words, value, low, high] of SIZES) {
      const number = element("input", { type: "number", name, min: String(low), max: String(high), step: "1", value: String(value), required: true });
      // The slider is logarithmic, so that every size is within reach.
      const scale = (size) => Math.log2(size - low + 1), top = scale(high);
      const range = element("input", { type: "range", min: "0", max: "1000", value: String((1000 * scale(value)) / top), "aria-label": `${name}, ${words}` });
      range.addEventListener("input", () => { number.value = Math.round(2 ** ((range.value / 1000) * top) + low - 1); });
      number.addEventListener("input", () => { range.value = (1000 * scale(Math.max(low, Number(number.value)))) / top; });
      form.append(element("div", { class: "size" }, element("label", {}, `${name}: ${words}`, number), range));
    }
    const options = machines.map((machine, index) => element("option", { value: String(index) }, machine.name));
    if (machines.length > 1) options.push(element("option", { value: "all" }, "all devices"));
    form.append(element("label", {}, "device", element("select", { name: "device" }, ...options)));
    form.addEventListener("input", answer);
    form.addEventListener("submit", (event) => event.preventDefault());
    answer();
  }

  headings();
  filters();
  draw();
  fields();
  // A printed page shows what a reader could unfold.
  addEventListener("beforeprint", () => document.querySelectorAll("figure details, details.part").forEach((details) => { details.open = true; }));
})();
