// Sorting and filtering the tables of studies. Without this script they are in the order of their names.
(() => {
  "use strict";

  const valueOf = (row, column, kind) => {
    const { value } = row.cells[column].dataset;
    return kind === "text" ? value.toLowerCase() : value === "" ? NaN : Number(value);
  };

  // Rows without a figure come last, whichever way.
  function sort(table, header) {
    const column = header.cellIndex;
    const kind = header.dataset.sort;
    const before = header.getAttribute("aria-sort");
    const descending = before ? before === "ascending" : kind !== "text";
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column, kind), row]);
    const missing = ([value]) => Number.isNaN(value);
    rows.sort((a, b) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0) * (descending ? -1 : 1);
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  for (const table of document.querySelectorAll(".studies")) {
    for (const header of table.querySelectorAll("th[data-sort]")) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: header.textContent });
      button.addEventListener("click", () => sort(table, header));
      header.replaceChildren(button);
    }
  }
  const filter = document.querySelector("#filter");
  if (!filter) return;
  filter.closest("label").hidden = false;
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    for (const row of document.querySelectorAll(".studies tbody tr")) {
      row.hidden = !row.querySelector(".who").dataset.value.toLowerCase().includes(wanted);
    }
  });
})();
