"use strict";
(() => {
  const theme = JSON.parse(document.getElementById("theme").textContent);
  const options = { actions: false, renderer: "svg", ast: true, config: theme, logLevel: 1, tooltip: { theme: "custom" } };
  if (matchMedia("(max-width: 62rem)").matches) document.querySelector("aside details[open]")?.removeAttribute("open");
  const copy = (value) => JSON.parse(JSON.stringify(value));
  const inside = (root, selector) => [...root.querySelectorAll(selector)];

  // A column comes as its values, or as its different values and the place of each among them.
  const unpack = (column) => (Array.isArray(column) ? column : column.at.map((place) => column.of[place]));

  // Put a value where a JSON pointer says.
  function patch(spec, pointer, value) {
    const path = pointer.split("/").slice(1);
    const last = path.pop();
    let at = spec;
    for (const step of path) at = at[step] ??= {};
    at[last] = value;
  }

  // A filter that asks for a valid field marks where the figure's choice of lines or network goes.
  function choose(node, field, filter) {
    if (Array.isArray(node)) node.forEach((each) => choose(each, field, filter));
    else if (node && typeof node === "object") {
      for (const [key, value] of Object.entries(node)) {
        if (key === "filter" && value && value.field === field && value.valid) node[key] = filter;
        else if (key !== "values") choose(value, field, filter);
      }
    }
  }

  function picked(root, name) {
    const select = root.closest("article").querySelector(`select[data-pick="${CSS.escape(name)}"]`);
    return select ? select.value : null;
  }

  class Chart {
    constructor(figure) {
      this.figure = figure;
      this.view = figure.querySelector(".view");
      this.given = JSON.parse(figure.querySelector("script").textContent);
      this.drawn = 0;
      this.queue = Promise.resolve();
    }
    rows() {
      const columns = Object.entries(this.given.columns).map(([name, column]) => [name, unpack(column)]);
      return (columns[0]?.[1] ?? []).map((_, i) => Object.fromEntries(columns.map(([name, values]) => [name, values[i]])));
    }
    spec() {
      const spec = copy(this.given.spec);
      spec.data = { values: this.rows() };
      inside(this.figure, "select[data-control]").forEach((select) => {
        const patches = this.given.controls[select.dataset.control][select.value];
        for (const [pointer, value] of Object.entries(patches)) patch(spec, pointer, copy(value));
      });
      const field = this.figure.dataset.field;
      const by = this.figure.dataset.pickedBy;
      if (by) choose(spec, field, { field, equal: picked(this.figure, by) });
      else {
        const boxes = inside(this.figure, ".series input");
        const shown = boxes.filter((box) => box.checked).map((box) => box.value);
        choose(spec, field, boxes.length ? { field, oneOf: shown } : "true");
      }
      return spec;
    }
    // One drawing after another; those that were overtaken are left out.
    draw() {
      const turn = ++this.drawn;
      this.queue = this.queue.then(async () => {
        if (turn !== this.drawn) return;
        this.result?.finalize();
        this.view.style.minHeight = `${this.view.offsetHeight}px`;
        this.result = await vegaEmbed(this.view, this.spec(), options);
        this.view.style.minHeight = "";
        this.view.dataset.drawn = turn;
      }).catch((error) => console.error(`${this.figure.id}: ${error}`));
      return this.queue;
    }
  }

  const charts = new Map();
  const late = [];
  inside(document, "figure.chart").forEach((figure) => {
    const chart = new Chart(figure);
    charts.set(figure, chart);
    late.push(chart);
    figure.addEventListener("change", (event) => {
      if (event.target.matches("[data-control], .series input")) chart.draw();
    });
    figure.addEventListener("click", (event) => {
      const all = event.target.dataset.all;
      if (!all) return;
      inside(figure, ".series input").forEach((box) => (box.checked = all === "true"));
      chart.draw();
    });
  });

  // Tables of many rows are written as text in JSON and become cells when they are opened.
  const rows = new Map();
  inside(document, "script[data-rows]").forEach((script) => {
    rows.set(document.getElementById(script.dataset.rows), script);
  });
  function fill(table) {
    const script = rows.get(table);
    const folded = table.closest("details");
    if (!script || (folded && !folded.open)) return;
    const given = JSON.parse(script.textContent);
    const heads = inside(table, "th");
    const group = unpack(given.group);
    const columns = given.columns.map(unpack);
    const choice = table.dataset.pickedBy ? picked(table, table.dataset.pickedBy) : null;
    const body = document.createElement("tbody");
    group.forEach((name, i) => {
      if (choice !== null && name !== choice) return;
      const line = body.insertRow();
      columns.forEach((texts, j) => {
        const cell = line.insertCell();
        cell.textContent = texts[i];
        cell.className = heads[j].className;
      });
    });
    table.tBodies[0].replaceWith(body);
  }
  inside(document, "details.data").forEach((details) => {
    details.addEventListener("toggle", () => inside(details, "table").forEach(fill));
  });

  function pick(select) {
    const article = select.closest("article");
    const name = select.dataset.pick;
    inside(article, `[data-picked-by="${CSS.escape(name)}"]`).forEach((part) => {
      if (charts.has(part)) {
        if (charts.get(part).drawn) charts.get(part).draw();
      } else if (rows.has(part)) fill(part);
      else inside(part, "[data-picked]").forEach((row) => (row.hidden = row.dataset.picked !== select.value));
    });
  }
  inside(document, "select[data-pick]").forEach((select) => {
    select.addEventListener("change", () => pick(select));
    pick(select);
  });
  rows.forEach((_, table) => fill(table));

  // Sort by a column: numbers by their exact value where it is there, else by what is shown of it.
  const units = { K: 1e3, k: 1e3, M: 1e6, G: 1e9, T: 1e12 };
  function number(cell) {
    if ("v" in cell.dataset) return cell.dataset.v === "" ? NaN : Number(cell.dataset.v);
    const text = cell.textContent.replaceAll(",", "").replace("−", "-");
    return parseFloat(text) * (units[text.match(/\d ?([KkMGT])/)?.[1]] ?? 1);
  }
  document.addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (!head || !event.target.closest("button")) return;
    const table = head.closest("table");
    const column = [...head.parentNode.children].indexOf(head);
    const down = head.getAttribute("aria-sort") === "ascending";
    inside(table, "th").forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const of = (row) => {
      const cell = row.cells[column];
      return head.classList.contains("n") ? number(cell) : cell.textContent;
    };
    const order = (a, b) => {
      const [x, y] = [of(a), of(b)];
      if (typeof x === "string" || typeof y === "string") return String(x).localeCompare(String(y), undefined, { numeric: true });
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return x - y;
    };
    const sorted = [...table.tBodies[0].rows].sort((a, b) => (down ? order(b, a) : order(a, b)));
    table.tBodies[0].append(...sorted);
  });

  // The charts that are looked at first are drawn first, the others when nothing else is to do.
  const watch = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting || charts.get(target).drawn) continue;
      charts.get(target).draw();
    }
  }, { rootMargin: "400px" });
  late.forEach((chart) => watch.observe(chart.figure));
  const idle = window.requestIdleCallback ?? ((run) => setTimeout(run, 50));
  function rest() {
    const chart = late.find((each) => !each.drawn);
    if (!chart) {
      document.documentElement.dataset.ready = "yes";
      return;
    }
    chart.draw().then(() => idle(rest));
  }
  window.addEventListener("load", () => idle(rest));
})();
