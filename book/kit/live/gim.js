/* GIM for one caption: drag τ, and see the weights, the pooled vector and the ranks. */
const build = ({ gallery, own, length, plane, pictures, temperature }) => {
  const mean = gallery.map((video) => pool(video, length, Infinity));
  const meanScores = mean.map((found) => found.score);
  const frames = pictures.map(frameWithBar);
  const sketch = sketchOf(plane, gallery[own], length, temperature);
  const ends = [temperature / 100, 10 * temperature];
  const reached = [...ends, temperature].flatMap((tau) =>
    gallery.map((video) => pool(video, length, tau).score)).concat(meanScores, 0);
  const row = rowOf(meanScores, own, [Math.min(...reached), Math.max(...reached)]);
  const said = results();

  const draw = (tau) => {
    const found = gallery.map((video) => pool(video, length, tau));
    const scores = found.map((one) => one.score);
    const { weights, cosines } = found[own];
    const most = Math.max(...weights);
    frames.forEach((frame, f) => frame.show(weights[f], most));
    sketch.show(weights, cosines);
    row.show(scores);
    const rank = rankOf(scores, own);
    said.textContent = `The right video with GIM: cosine ${decimals(scores[own], 3)}, ` +
      `rank ${rank} of ${gallery.length}. With mean pooling: cosine ` +
      `${decimals(meanScores[own], 3)}, rank ${rankOf(meanScores, own)}.`;
    return `τ = ${Number(tau.toPrecision(3))}, rank ${rank} of ${gallery.length}`;
  };

  const scale = logSlider("Temperature", ends, temperature, draw);
  scale.update();
  const strip = element("ol", {
    "aria-label": "Weights of the frames in order", style:
      "list-style:none;display:grid;grid-template-columns:repeat(auto-fit,minmax(44px,1fr));" +
      "gap:.3rem;margin:.6rem 0;padding:0",
  }, ...frames.map((frame) => frame.item));
  const panels = "display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr));" +
    "gap:1rem";
  return element("div", {}, controls(scale.box), strip, said,
    element("div", { style: panels }, sketch.svg, row.svg));
};

/* A frame, below it a bar of its weight and the weight in per cent. */
const frameWithBar = (picture) => {
  const bar = element("div");
  const words = element("span", { style: "font-size:.72rem;font-variant-numeric:tabular-nums" });
  const image = element("img", {
    src: picture, alt: "",
    style: "display:block;width:100%;margin:0;padding:0;border-radius:3px;background:none",
  });
  const room = element("div", { style: "height:34px;display:flex;align-items:flex-end" }, bar);
  const item = element("li", { style: "margin:0;text-align:center;line-height:1.2" },
    image, room, words);
  const show = (weight, most) => {
    bar.style.cssText = `width:100%;background:${COLOUR.text};` +
      `height:${Math.max(1, (34 * weight) / most)}px`;
    words.textContent = `${decimals(100 * weight, 0)} %`;
  };
  return { item, show };
};

/* The plane of the caption and of the direction in which the frames differ most. */
const sketchOf = (plane, video, length, temperature) => {
  const [width, height, edge] = [340, 230, 26];
  const mix = (weights) => [0, 1].map((axis) => inner(weights, plane.map((p) => p[axis])));
  const ends = [0, 1].map((axis) => plane.map((p) => p[axis]))
    .map((values) => [Math.min(...values), Math.max(...values)]);
  const [right, up] = ends.map(([least, most]) => (value) =>
    most > least ? (value - least) / (most - least) : 0.5);
  const place = ([x, y]) => [
    edge + right(x) * (width - 2 * edge), height - 34 - up(y) * (height - 34 - edge)];

  const svg = drawing(width, height, "");
  const path = [...Array(60).keys()].map((step) => {
    const tau = (temperature / 100) * 10 ** (step / 15);
    return place(mix(pool(video, length, tau).weights)).map((v) => v.toFixed(1)).join(" ");
  });
  svg.append(shape("path", {
    d: `M${path.join("L")}`, fill: "none", stroke: COLOUR.score, "stroke-dasharray": "3 3",
  }));
  const dots = plane.map((point) => {
    const [cx, cy] = place(point);
    const dot = shape("circle", { cx, cy, fill: COLOUR.video, stroke: COLOUR.video });
    svg.append(dot);
    return dot;
  });
  const marked = (colour, name, below) => {
    const dot = shape("rect", { x: -5, y: -5, width: 10, height: 10, fill: colour });
    const words = shape("text", { "text-anchor": "middle", y: below }, name);
    const group = shape("g", {}, dot, words);
    svg.append(group);
    return (point) => group.setAttribute("transform", `translate(${place(point)})`);
  };
  marked("currentColor", "mean", 20)(mix(plane.map(() => 1 / plane.length)));
  const pooled = marked(COLOUR.score, "GIM", -9);
  svg.append(
    shape("text", { x: width / 2, y: height - 4, "text-anchor": "middle" },
      "inner product with the unit caption →"),
    shape("text", { x: 4, y: 12 }, "↑ main difference of frames; larger dot: more weight"));

  const show = (weights, cosines) => {
    pooled(mix(weights));
    dots.forEach((dot, f) => {
      dot.setAttribute("r", 3 + 9 * Math.sqrt(weights[f]));
      dot.setAttribute("fill-opacity", 0.25 + 0.6 * weights[f]);
    });
    svg.setAttribute("aria-label", "Frames, their mean and the vector pooled by GIM. Cosines " +
      `of the pooled vector with the frames: ${cosines.map((c) => decimals(c, 2)).join(", ")}.`);
  };
  return { svg, show };
};

/* The row of S: a bar a video, and a line where mean pooling puts it; `ends` of the axis. */
const rowOf = (meanScores, own, [least, most]) => {
  const [width, height, edge] = [340, 230, 24];
  const step = width / meanScores.length;
  const y = (score) => height - 46 - ((score - least) / (most - least)) * (height - 46 - edge);
  const svg = drawing(width, height, "");
  const bars = meanScores.map((score, b) => {
    const bar = shape("rect", {
      x: b * step + 1, width: step - 2, fill: b === own ? COLOUR.video : COLOUR.text,
      "fill-opacity": b === own ? 1 : 0.55,
    });
    svg.append(bar, shape("path", {
      d: `M${b * step} ${y(score)}h${step}`, stroke: "currentColor", "stroke-width": 1.6 }));
    return bar;
  });
  const middle = Math.max(40, Math.min(width - 40, (own + 0.5) * step));
  svg.append(
    shape("path", { d: `M0 ${y(0)}H${width}`, stroke: "currentColor", "stroke-opacity": 0.5 }),
    shape("text", { x: middle, y: height - 28, "text-anchor": "middle" }, "right video"),
    shape("text", { x: 0, y: height - 8 }, "the videos of the gallery"),
    shape("text", { x: 0, y: 12 }, "row of S: bars GIM, lines mean pooling"));
  const show = (scores) => {
    bars.forEach((bar, b) => {
      const [one, other] = [y(scores[b]), y(0)];
      bar.setAttribute("y", Math.min(one, other));
      bar.setAttribute("height", Math.abs(one - other));
    });
    svg.setAttribute("aria-label", "Similarities of the caption with " +
      `${scores.length} videos, that of the right one ${decimals(scores[own], 3)}.`);
  };
  return { svg, show };
};
