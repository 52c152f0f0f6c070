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
  const sections = input.dataset.table === "table-classes" ? [...document.querySelectorAll("details.class")] : [];
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

// A link into what is folded unfolds it; so does printing.
const unfold = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  let folded = false;
  for (let at = target; at; at = at.parentElement) {
    if (at.tagName === "DETAILS" && !at.open) at.open = folded = true;
  }
  if (folded) target.scrollIntoView();
};
addEventListener("hashchange", unfold);
unfold();
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details:not([open])")) one.open = true;
});

// Order the cards.
const order = document.getElementById("order");
if (order) {
  const cards = document.getElementById("faces");
  const found = (one) => Number(one.dataset.doubts) || Infinity;
  const by = {
    order: (one, other) => one.dataset.order - other.dataset.order,
    lost: (one, other) => other.dataset.lost - one.dataset.lost || by.order(one, other),
    doubts: (one, other) => found(one) - found(other) || by.order(one, other), // Infinity − Infinity is no number
    name: (one, other) => one.dataset.name.localeCompare(other.dataset.name),
  };
  order.addEventListener("change", () => cards.append(...[...cards.children].sort(by[order.value])));
}

// Cards of the classes that have none on the page are made when they are searched for.
const others = document.getElementById("others");
if (others) {
  const data = JSON.parse(others.textContent), cards = document.getElementById("faces"), most = 24;
  const input = document.querySelector("input[data-table=faces]"), found = input.closest(".tools").querySelector(".found");
  const element = (tag, text, attributes = {}) => {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(text);
    return made;
  };
  const card = (one) => {
    const made = element("article", "", { className: "face made" }), head = element("h3", "");
    head.append(element("a", one.name, { href: one.href }));
    const says = element("ul", "", { className: "says for" });
    one.says.forEach(([feature, href, added, share, place], rank) => {
      const row = element("li", ""), bar = element("span", "", { className: "adds" });
      const filled = element("i", "");
      filled.style.width = `${share}%`;
      bar.append(filled);
      if (rank === 0 && one.picture) row.append(element("img", "", { src: one.picture, alt: "" }));
      row.append(bar, element("b", added), " ", element("a", feature, { href }), element("span", place, { className: "where" }));
      says.append(row);
    });
    made.append(head, element("p", one.right), says);
    return made;
  };
  input.addEventListener("input", () => {
    for (const made of cards.querySelectorAll(".made")) made.remove();
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return;
    const matching = data.filter((one) => words.every((word) => one.name.toLowerCase().includes(word)));
    cards.append(...matching.slice(0, most).map(card));
    const own = cards.querySelectorAll(".face:not(.made):not([hidden])").length;
    const all = data.length + cards.querySelectorAll(".face:not(.made)").length;
    const few = matching.length > most ? `, ${own + most} of them shown` : "";
    found.textContent = `${own + matching.length} of ${all} classes${few}`;
  });
}

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
