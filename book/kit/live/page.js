/* Elements of a live figure. They are made by script: without it, the still picture. */
const COLOUR = { text: "#2b7fd4", video: "#d87807", score: "#00a463", bad: "#d60030" };

const fill = (made, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

const element = (name, attributes = {}, ...children) =>
  fill(document.createElement(name), attributes, children);

const shape = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

/* A drawing of that many units; `say` is its text for those who do not see it. */
const drawing = (width, height, say) =>
  shape("svg", {
    role: "img", "aria-label": say, viewBox: `0 0 ${width} ${height}`,
    fill: "currentColor", "font-size": 12,
    style: `display:block;width:100%;max-width:${width * 1.3}px;height:auto`,
  });

const LABEL = "display:flex;flex-wrap:wrap;gap:.2rem .6rem;align-items:center;margin:0";

/* A range input. `change` gets its value and returns the words that stand beside it;
   `update()` calls it, at first with `value`, which may lie between two steps. */
const slider = (label, [least, most, step], value, change) => {
  const words = element("strong", { style: "font-variant-numeric:tabular-nums" });
  const input = element("input", {
    type: "range", min: least, max: most, step,
    style: `flex:1 1 12rem;min-width:0;accent-color:${COLOUR.text}`,
  });
  input.value = value;
  let now = value;
  const update = () => {
    const said = change(now);
    words.textContent = said;
    input.setAttribute("aria-valuetext", said);
  };
  input.addEventListener("input", () => {
    now = Number(input.value);
    update();
  });
  const box = element("label", { style: `${LABEL};flex:1 1 100%` }, label, words, input);
  return { box, input, update };
};

/* A range input on a logarithmic scale from `least` to `most`. */
const logSlider = (label, [least, most], value, change) => {
  const range = Math.log(most / least);
  const place = (1000 * Math.log(value / least)) / range;
  return slider(label, [0, 1000, 1], place, (at) =>
    change(least * Math.exp((range * at) / 1000)));
};

const choice = (label, names, change) => {
  const options = names.map((name, place) => element("option", { value: place }, name));
  const select = element("select", { style: "font:inherit;max-width:100%" }, ...options);
  select.addEventListener("change", () => change(Number(select.value)));
  return element("label", { style: LABEL }, label, select);
};

const check = (label, on, change) => {
  const input = element("input", { type: "checkbox" });
  input.checked = on;
  input.addEventListener("change", () => change(input.checked));
  return element("label", { style: LABEL }, input, label);
};

const button = (label, press) => {
  const made = element("button", { type: "button", style: "font:inherit" }, label);
  made.addEventListener("click", press);
  return made;
};

const controls = (...items) =>
  element("div", { style: "display:flex;flex-wrap:wrap;gap:.5rem 1.2rem" }, ...items);

/* A sentence with the results; a screen reader says it when it has changed. */
const results = () =>
  element("p", { role: "status", style: "margin:.5rem 0;font-variant-numeric:tabular-nums" });

const decimals = (value, digits) => value.toFixed(digits).replace("-", "−");
