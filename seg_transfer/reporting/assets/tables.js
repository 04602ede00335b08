"use strict";

function sortBy(table, column, header) {
  const down = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = Array.from(table.tBodies[0].rows);
  // Names may begin with digits, as dates do: they are compared as text.
  const number = (row) => (row.cells[column].tagName === "TH" ? NaN : parseFloat(row.cells[column].textContent));
  const compare = (first, second) => {
    const [a, b] = [number(first), number(second)];
    if (Number.isNaN(a) !== Number.isNaN(b)) return Number.isNaN(a) ? 1 : -1;
    const found = Number.isNaN(a)
      ? first.cells[column].textContent.localeCompare(second.cells[column].textContent, undefined, { numeric: true })
      : a - b;
    return down ? -found : found;
  };
  table.tBodies[0].append(...rows.sort(compare));
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => sortBy(table, column, header));
  });
}
