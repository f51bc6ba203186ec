/* Concepts on the circle: choose the batch, the division and the losses, play descent. */
const build = ({ video, text, batch, target, margin, beta }) => {
  const Q = video[0].length;
  const state = { A: batch, division: 0, terms: ["pairs", "diversity"], steps: 0, timer: 0 };
  const settings = () => ({
    target, margin, terms: state.terms, divisor: state.division ? state.A : Q,
  });
  const picture = circleOf(Q);
  const said = results();

  const draw = () => {
    const found = objective(state.points, settings());
    picture.show(state.points, found);
    const cosine = sum(found.agreement) * settings().divisor / (Q * state.A);
    const best = Math.min(1, (target * settings().divisor) / state.A);
    said.textContent = `Step ${state.steps}. Mean cosine within pairs ` +
      `${decimals(cosine, 3)}; the pairs' term is smallest at ${decimals(best, 3)}. ` +
      `Gap term ${decimals(found.gap.value, 3)}, pairs' term r ` +
      `${decimals(found.pairs.value, 3)}, ICL = gap term + ${beta} r = ` +
      `${decimals(found.gap.value + beta * found.pairs.value, 3)}, IDL ` +
      `${decimals(found.diversity.value, 3)}.`;
  };

  const step = () => {
    const before = state.points;
    state.points = descend(before, settings());
    if (state.points === before) return false;
    state.steps += 1;
    return true;
  };
  const pause = () => {
    clearInterval(state.timer);
    state.timer = 0;
    play.textContent = "Play";
    said.setAttribute("aria-live", "polite");
    draw();
  };
  const play = button("Play", () => {
    if (state.timer) return pause();
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      for (let count = 0; count < 300 && step(); count += 1);
      return draw();
    }
    play.textContent = "Pause";
    said.setAttribute("aria-live", "off"); // a reader would be told every step
    state.timer = setInterval(() => (step() ? draw() : pause()), 60);
  });
  const restart = () => {
    state.points = { video: video.slice(0, state.A), text: text.slice(0, state.A) };
    state.steps = 0;
    pause();
  };

  const size = slider("Pairs in the batch", [1, video.length, 1], batch, (A) => {
    state.A = A;
    restart();
    return `A = ${A}`;
  });
  const division = choice("Divide c by", ["Q, as released", "A, a mean"], (place) => {
    state.division = place;
    draw();
  });
  const term = (name, label) => check(label, state.terms.includes(name), (on) => {
    state.terms = state.terms.filter((other) => other !== name).concat(on ? [name] : []);
    draw();
  });
  size.update();
  return element("div", {},
    controls(size.box, division, term("gap", "gap term of ICL"),
      term("pairs", "pairs' term of ICL"), term("diversity", "IDL")),
    element("div", { style: "display:flex;gap:.6rem;margin:.6rem 0" },
      play, button("One step", () => { step(); pause(); }), button("Start again", restart)),
    picture.svg, said);
};

/* Video concepts on the outer circle, text concepts on the inner one. */
const circleOf = (Q) => {
  const [side, outer, inside] = [340, 138, 96];
  const MARKS = ["M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0", "M-4-4h8v8h-8z", "M0-5.5L5 4H-5z"];
  const svg = drawing(side, side, "");
  const at = (angle, radius) =>
    [side / 2 + radius * Math.cos(angle), side / 2 - radius * Math.sin(angle)];
  for (const radius of [outer, inside]) {
    svg.append(shape("circle", {
      cx: side / 2, cy: side / 2, r: radius, fill: "none", stroke: "currentColor",
      "stroke-opacity": 0.35,
    }));
  }
  const line = (y, words, colour) => svg.append(
    shape("text", { x: side / 2, y, "text-anchor": "middle" },
      shape("tspan", { fill: colour ?? "none" }, colour ? "● " : ""), words));
  line(140, "outer circle: video", COLOUR.video);
  line(160, "inner circle: text", COLOUR.text);
  line(180, `a shape for each of ${Q} concepts`);
  line(200, "tails: minus the gradient");
  const moving = shape("g");
  svg.append(moving);

  const mark = (angle, slope, radius, colour, q, longest) => {
    const [x, y] = at(angle, radius);
    const [toX, toY] = at(angle + Math.PI / 2, 34 * slope / longest);
    const tail = shape("path", {
      d: `M${x} ${y}l${-(toX - side / 2)} ${-(toY - side / 2)}`,
      stroke: colour, "stroke-width": 2.2,
    });
    const dot = shape("path", {
      d: MARKS[q], fill: colour, "fill-opacity": 0.75, transform: `translate(${x},${y})`,
    });
    return [tail, dot];
  };

  const show = ({ video, text }, found) => {
    const longest = Math.max(1e-6, ...[...found.video, ...found.text].flat().map(Math.abs));
    const parts = video.flatMap((row, a) => row.flatMap((angle, q) => {
      const [x, y] = at(angle, outer);
      const [tx, ty] = at(text[a][q], inside);
      return [
        shape("path", {
          d: `M${x} ${y}L${tx} ${ty}`, stroke: "currentColor", "stroke-opacity": 0.25 }),
        ...mark(angle, found.video[a][q], outer, COLOUR.video, q, longest),
        ...mark(text[a][q], found.text[a][q], inside, COLOUR.text, q, longest),
      ];
    }));
    moving.replaceChildren(...parts);
    svg.setAttribute("aria-label", `${video.length} pairs of ${Q} concepts on the circle. ` +
      `Agreement c of each concept: ${found.agreement.map((c) => decimals(c, 2)).join(", ")}.`);
  };
  return { svg, show };
};
