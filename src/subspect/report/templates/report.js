"use strict";
for (const tools of document.querySelectorAll(".tools")) tools.hidden = false;

// Sort a table by a column: numbers by data-value, then as text.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => {
        const given = row.cells[column].dataset.value;
        return given === undefined ? -Infinity : Number(given);
      };
      const rows = [...table.tBodies[0].rows].sort((one, other) => value(one) - value(other));
      table.tBodies[0].append(...(down ? rows.reverse() : rows));
    });
  });
}

// Search: hide what doesn't hold all words.
for (const input of document.querySelectorAll("input.search")) {
  const found = input.closest(".tools").querySelector(".found");
  const items = [...document.getElementById(input.dataset.table).querySelectorAll("[data-name]")];
  const sections = input.dataset.table === "table-classes" ? [...document.querySelectorAll("section.class")] : [];
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const item of [...items, ...sections]) {
      item.hidden = !words.every((word) => item.dataset.name.includes(word));
      if (!item.hidden && !sections.includes(item)) shown += 1;
    }
    found.textContent = words.length ? `${shown} of ${items.length}` : "";
  });
}

// A link to a folded feature unfolds it.
const unfold = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") {
    target.open = true;
    target.scrollIntoView();
  }
};
addEventListener("hashchange", unfold);
unfold();

// What if a class did without a feature? Its logit is computed anew on the images that the cost was measured on.
const block = document.getElementById("what-if");
if (block) {
  const data = JSON.parse(block.textContent);
  const bytes = Uint8Array.from(atob(data.features), (char) => char.charCodeAt(0));
  const x = new Float32Array(bytes.buffer); // feature by feature
  const n = data.labels.length;
  const place = new Map(data.columns.map((feature, column) => [feature, column]));
  const column = (feature) => x.subarray(place.get(feature) * n, (place.get(feature) + 1) * n);
  const left = data.classes.map(() => new Set());
  const logits = data.classes.map((one, label) => logit(label));
  const before = figures();

  function logit(label) {
    const { bias, weights } = data.classes[label];
    const z = new Float64Array(n).fill(bias);
    for (const [feature, weight] of weights) {
      if (left[label].has(feature)) continue;
      const values = column(feature);
      for (let i = 0; i < n; i++) z[i] += weight * values[i];
    }
    return z;
  }
  function figures() {
    const right = data.classes.map(() => 0), images = data.classes.map(() => 0);
    let agree = 0;
    for (let i = 0; i < n; i++) {
      let best = 0;
      for (let c = 1; c < logits.length; c++) if (logits[c][i] > logits[best][i]) best = c;
      images[data.labels[i]] += 1;
      right[data.labels[i]] += best === data.labels[i];
      agree += best === data.said[i];
    }
    const sum = (counts) => counts.reduce((one, other) => one + other, 0);
    return { classes: right.map((count, c) => count / images[c]), all: sum(right) / n, fidelity: agree / n };
  }
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  function tell() {
    const now = figures();
    for (const panel of document.querySelectorAll(".whatif")) {
      const label = Number(panel.dataset.label);
      panel.hidden = left[label].size === 0;
      const change = (from, to) => `${percent(from)} → ${percent(to)}`;
      const own = Number.isNaN(now.classes[label]) ? "" : `this class ${change(before.classes[label], now.classes[label])}, `;
      const drops = [...left[label]].map((feature) => `--drop ${data.words[label]}:${feature}`).join(" ");
      panel.querySelector("output").textContent =
        `Accuracy: ${own}all ${change(before.all, now.all)}; fidelity ${change(before.fidelity, now.fidelity)}. ` +
        `To keep it: subspect edit STUDY ${data.command} ${drops}`;
    }
  }
  document.addEventListener("change", ({ target }) => {
    if (!target.dataset || target.dataset.feature === undefined) return;
    const label = Number(target.dataset.label), feature = Number(target.dataset.feature);
    if (target.checked) left[label].delete(feature);
    else left[label].add(feature);
    logits[label] = logit(label);
    tell();
  });
  for (const button of document.querySelectorAll(".again")) {
    button.addEventListener("click", () => {
      const label = Number(button.closest(".whatif").dataset.label);
      left[label].clear();
      for (const box of document.querySelectorAll(`input[data-label="${label}"]`)) box.checked = true;
      logits[label] = logit(label);
      tell();
    });
  }
}
