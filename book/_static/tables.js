/* Every table stands in a box that scrolls where the window is too narrow for it.
   A click on a column's header sorts the table: ascending, descending, original order.
   Missing values stay at the end. */
"use strict";

(() => {
  const NUMBER = /^[+\-−]?[\d,]*\.?\d+(e[+-]?\d+)?/i;
  const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

  const textOf = (row, place) => row.cells[place].textContent.trim();

  const numberOf = (text) => {
    const found = text.match(NUMBER);
    return found ? Number(found[0].replaceAll(",", "").replace("−", "-")) : NaN;
  };

  const missing = (text) => text === "" || text === "–" || text === "—";

  /* The comparison of two cells of a column: as numbers if all cells are numbers. */
  const comparison = (texts) => {
    const known = texts.filter((text) => !missing(text));
    const numeric = known.every((text) => !Number.isNaN(numberOf(text)));
    return numeric
      ? (a, b) => numberOf(a) - numberOf(b)
      : (a, b) => a.localeCompare(b, undefined, { numeric: true });
  };

  const sorted = (rows, place, direction) => {
    if (direction === "none") return rows;
    const compare = comparison(rows.map((row) => textOf(row, place)));
    const sign = direction === "ascending" ? 1 : -1;
    return [...rows].sort((one, other) => {
      const [a, b] = [textOf(one, place), textOf(other, place)];
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return sign * compare(a, b);
    });
  };

  const makeSortable = (table) => {
    const body = table.tBodies[0];
    const rows = body ? [...body.rows] : [];
    const heads = table.tHead?.rows.length === 1 ? [...table.tHead.rows[0].cells] : [];
    const plain = rows.every((row) => row.cells.length === heads.length);
    if (rows.length < 3 || !plain || table.querySelector("[colspan], [rowspan]")) return;
    heads.forEach((head, place) => {
      if (head.tagName !== "TH" || !head.textContent.trim()) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "table-sort";
      // A paragraph inside a button would be invalid HTML, and would add its margin.
      const name = head.querySelector(":scope > p") ?? head;
      button.append(...name.childNodes);
      name.append(button);
      button.addEventListener("click", () => {
        const direction = NEXT[head.getAttribute("aria-sort") ?? "none"];
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (direction !== "none") head.setAttribute("aria-sort", direction);
        body.append(...sorted(rows, place, direction));
      });
    });
  };

  const putIntoBox = (table) => {
    if (table.closest(".glscl-table-box, .indextable")) return;
    const box = document.createElement("div");
    box.className = "glscl-table-box";
    box.role = "group";
    box.tabIndex = 0;
    box.ariaLabel = table.caption?.textContent.trim() || "Table";
    table.replaceWith(box);
    box.append(table);
  };

  const start = () => {
    const tables = document.querySelectorAll("article table");
    tables.forEach(putIntoBox);
    tables.forEach(makeSortable);
  };
  if (document.readyState === "loading") {
    document.addEventListener("DOMContentLoaded", start);
  } else {
    start();
  }
})();
