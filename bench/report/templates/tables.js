"use strict";
const make = (tag, options = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(options)) {
    if (key === "class") node.className = value;
    else if (key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
};

/* Tables that sort, filter and download. Without this script they are whole tables all the same. */
const Tables = (() => {
  /* The column each header cell stands over; cells over several columns have none. */
  function columns(table) {
    const taken = [], found = new Map();
    [...table.tHead.rows].forEach((row, r) => {
      let c = 0;
      for (const cell of row.cells) {
        while (taken[r] && taken[r][c]) c += 1;
        for (let i = 0; i < cell.rowSpan; i += 1) for (let j = 0; j < cell.colSpan; j += 1)
          (taken[r + i] = taken[r + i] || [])[c + j] = cell;
        if (cell.colSpan === 1) found.set(cell, c);
        c += cell.colSpan;
      }
    });
    const heads = () => (taken[taken.length - 1] || []).map((_, c) =>
      [...new Set(taken.map(row => row[c]))].map(cell => text(cell.querySelector(".sort") || cell)).join(": "));
    return {found, heads};
  }

  /* textContent, not innerText: the latter lays the page out anew for every cell. */
  const text = cell => [...cell.childNodes].map(node => node.textContent.replace(/\s+/g, " ").trim()).filter(Boolean).join(" ");
  const plain = cell => {
    const first = cell.querySelector("bdi, .v");
    return first ? first.textContent.replace(/\s+/g, " ").trim() : text(cell);
  };
  const keyOf = cell => {
    if (!cell) return null;
    if (cell.dataset.sort !== undefined) return Number(cell.dataset.sort);
    const said = plain(cell);
    if (said === "" || said.startsWith("—")) return null;
    const number = Number(said.replace(/,/g, "").replace("−", "-"));
    return Number.isNaN(number) ? said.toLowerCase() : number;
  };

  /* What is missing stays last, whichever way is sorted. */
  function compare(a, b, way) {
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return way * (typeof a === "number" ? a - b : a.localeCompare(b, "en", {numeric: true}));
  }

  function sort(table, head, column) {
    const way = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", way === 1 ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row, index) => [keyOf(row.cells[column]), index, row]);
    rows.sort((a, b) => compare(a[0], b[0], way) || a[1] - b[1]);
    body.append(...rows.map(entry => entry[2]));
  }

  const field = value => {
    let said = value === null || value === undefined ? "" : String(value);
    if (typeof value !== "number" && /^[=+\-@\t\r]/.test(said)) said = `'${said}`;
    return /[",\n\r]/.test(said) ? `"${said.replaceAll('"', '""')}"` : said;
  };
  const csv = (heads, rows) => [heads, ...rows].map(row => row.map(field).join(",")).join("\n") + "\n";

  function download(name, content) {
    const link = make("a", {download: `${name}.csv`, href: URL.createObjectURL(new Blob([content], {type: "text/csv"}))});
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  const value = cell => {
    if (cell.dataset.sort !== undefined) return Number(cell.dataset.sort);
    const said = plain(cell);
    return said.startsWith("—") ? "" : said.replace(/ \(no value:.*\)$/, "");
  };

  /* `all`: heads and rows of the download, where the table shows only some. */
  function enhance(table, {name, all} = {}) {
    if (!table.tHead || !table.tBodies.length || table.dataset.live) return;
    table.dataset.live = "yes";
    const {found, heads} = columns(table);
    const title = name || (table.closest("[id]") || {id: "table"}).id;
    for (const [head, column] of found) {
      const button = make("button", {type: "button", class: "sort"});
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, head, column));
      head.append(button);
    }
    const tools = make("div", {class: "tools"});
    const rows = () => [...table.tBodies[0].rows];
    const said = make("span", {class: "count"});
    said.setAttribute("role", "status");
    if (rows().length > 4) {
      const filter = make("input", {type: "search", placeholder: "Filter rows"});
      filter.setAttribute("aria-label", `Filter the rows of: ${table.caption ? text(table.caption).slice(0, 80) : title}`);
      filter.addEventListener("input", () => {
        const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
        let left = 0;
        for (const row of rows()) {
          row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
          left += row.hidden ? 0 : 1;
        }
        said.textContent = words.length ? `${left} of ${rows().length} rows` : "";
      });
      tools.append(filter, said);
    }
    const save = make("button", {type: "button", textContent: "Download CSV"});
    save.addEventListener("click", () => {
      const [names, values] = all ? all()
        : [heads(), rows().filter(row => !row.hidden).map(row => [...row.cells].map(value))];
      download(title, csv(names, values));
    });
    tools.append(save);
    const box = table.closest(".scroll") || table;
    box.before(tools);
  }

  return {enhance, csv};
})();
