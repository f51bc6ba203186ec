/* The matrix of a batch: drag κ, choose what the cells show, swap in a hard negative. */
const build = ({ similarities, captions, hardNegative, kappa }) => {
  const count = captions.length - (hardNegative === null ? 0 : 1);
  const state = { kappa, shown: 1, swapped: false };

  const members = () => {
    const places = [...Array(count).keys()];
    if (state.swapped) places[hardNegative] = count;
    return places;
  };

  const perCell = `× ${count}`;
  const QUANTITIES = [
    ["cosine", (found, cosines) => cosines],
    ["softmax over videos, text→video, in %", (found) => percent(found.textToVideo)],
    ["softmax over captions, video→text, in %", (found) => percent(found.videoToText)],
    [`gradient, text→video, ${perCell}`, (found) => times(found.gradients.rows, count)],
    [`gradient, video→text, ${perCell}`, (found) => times(found.gradients.columns, count)],
    [`gradient of the loss, ${perCell}`, (found) => times(found.gradients.both, count)],
  ];
  const times = (matrix, factor) => matrix.map((row) => row.map((value) => value * factor));
  const percent = (matrix) => times(matrix, 100);

  const cells = members().map(() => members().map(() => element("td")));
  const heading = element("th", {
    colspan: count + 1, scope: "colgroup",
    style: "border:0;padding:0 0 .3rem;text-align:left;font-weight:400",
  }, "Rows: captions t. Columns: videos v. Framed: the pairs.");
  const NUMBER = "border:0;padding:.2rem 0;text-align:center;background:none;";
  const numbers = members().map((b) =>
    element("th", { scope: "col", style: NUMBER }, `v${b + 1}`));
  const rows = cells.map((row, a) =>
    element("tr", { style: "background:none" },
      element("th", { scope: "row", style: `${NUMBER}width:1.6rem` }, `t${a + 1}`), ...row));
  // Two rows of heads: the book's script for sorting leaves such tables alone.
  const table = element("table",
    { style: "display:table;table-layout:fixed;width:100%;max-width:30rem;margin:.4rem 0;" +
      "border-collapse:separate;border-spacing:1px;font-size:.78rem" },
    element("thead", {},
      element("tr", {}, heading),
      element("tr", {}, element("td", { style: NUMBER }), ...numbers)),
    element("tbody", {}, ...rows));
  const list = element("ol", { style: "margin:.3rem 0;padding-left:1.6rem" });
  const said = results();

  /* Blue for positive values, orange for negative ones, the stronger the larger. */
  const paint = (cell, value, most, digits, pair) => {
    const colour = value < 0 ? COLOUR.video : COLOUR.text;
    const alpha = Math.round(150 * Math.min(1, Math.abs(value) / most));
    // Without its zero a number fits a cell of a telephone.
    const words = decimals(value, digits).replace(/^(−?)0\./, "$1.");
    cell.textContent = words === "−.00" ? ".00" : words;
    cell.style.cssText = `border:0;padding:.45em 0;text-align:center;` +
      `font-variant-numeric:tabular-nums;` +
      `background:${colour}${alpha.toString(16).padStart(2, "0")};` +
      `outline:${pair ? "2px solid currentColor" : "none"};outline-offset:-2px`;
  };

  const draw = () => {
    const chosen = members();
    const cosines = chosen.map((a) => chosen.map((b) => similarities[a][b]));
    const found = infoNce(times(cosines, state.kappa));
    const [, quantity] = QUANTITIES[state.shown];
    const values = quantity(found, cosines);
    const percents = state.shown === 1 || state.shown === 2;
    const most = percents ? 100 : state.shown ? 1 : Math.max(...cosines.flat().map(Math.abs));
    values.forEach((row, a) => row.forEach((value, b) =>
      paint(cells[a][b], value, most, percents ? 0 : 2, a === b)));
    list.replaceChildren(...chosen.map((place) =>
      element("li", {}, captions[place], place === count ? " (hard negative)" : "")));
    const [forth, back] = found.losses;
    said.textContent = `InfoNCE ${decimals(found.loss, 3)}: text→video ` +
      `${decimals(forth, 3)}, video→text ${decimals(back, 3)}.`;
    return found;
  };

  const scale = logSlider("Scale", [1, 100], kappa, (value) => {
    state.kappa = value;
    return `κ = ${decimals(state.kappa, 1)}, loss ${decimals(draw().loss, 3)}`;
  });
  const shown = choice("Cells show", QUANTITIES.map(([name]) => name), (place) => {
    state.shown = place;
    draw();
  });
  shown.querySelector("select").value = state.shown;
  const items = [scale.box, shown];
  if (hardNegative !== null) {
    const words = `hard negative in place of pair ${hardNegative + 1}`;
    items.push(check(words, false, (on) => {
      state.swapped = on;
      scale.update();
    }));
  }
  scale.update();
  return element("div", {}, controls(...items), table, said, list);
};
