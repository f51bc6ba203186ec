/* ICL and IDL of concepts on the unit circle, as glscl.losses, and gradients by angle.
   Angles of both modalities are (A, Q): pair by concept. */
const sum = (values) => values.reduce((total, value) => total + value, 0);

/* The terms of ICL: the gap of the means and, before its weight, the pairs' term. */
const interConsistency = (video, text, target, divisor) => {
  const [A, Q] = [video.length, video[0].length];
  const mean = (angles, q, part) => sum(angles.map((row) => part(row[q]))) / A;
  const concepts = [...Array(Q).keys()];
  const gaps = concepts.map((q) => [Math.cos, Math.sin].map(
    (part) => mean(video, q, part) - mean(text, q, part)));
  const agreement = concepts.map((q) =>
    sum(video.map((row, a) => Math.cos(row[q] - text[a][q]))) / divisor);
  // The derivative of (cos, sin) is (−sin, cos); D = 2 coordinates.
  const slope = ([x, y], angle) => (x * -Math.sin(angle) + y * Math.cos(angle)) / (Q * A);
  const turn = (a, q) => (-2 * (agreement[q] - target) / divisor) *
    Math.sin(video[a][q] - text[a][q]);
  const map = (angles, value) => angles.map((row, a) => row.map((angle, q) => value(angle, a, q)));
  return {
    agreement,
    gap: {
      value: sum(gaps.flat().map((gap) => gap * gap)) / (2 * Q),
      video: map(video, (angle, a, q) => slope(gaps[q], angle)),
      text: map(text, (angle, a, q) => -slope(gaps[q], angle)),
    },
    pairs: {
      value: sum(agreement.map((c) => (c - target) ** 2)),
      video: map(video, (angle, a, q) => turn(a, q)),
      text: map(text, (angle, a, q) => -turn(a, q)),
    },
  };
};

/* IDL of the video side, before its weight, as released. */
const intraDiversity = (video, margin) => {
  const [A, Q] = [video.length, video[0].length];
  const scale = 2 / Math.max(1, Q * (Q - 1));
  const concepts = [...Array(Q).keys()];
  const excess = concepts.map((q) => concepts.map((r) => (q === r ? 0 : Math.max(0,
    sum(video.map((row) => Math.cos(row[q] - row[r]))) / A - (1 - margin)))));
  const slope = (row, q) => sum(concepts.map((r) =>
    (excess[q][r] > 0 ? -Math.sin(row[q] - row[r]) : 0)));
  return {
    value: scale * sum(excess.flat()),
    video: video.map((row) => row.map((_, q) => (2 * scale * slope(row, q)) / A)),
    text: video.map((row) => row.map(() => 0)),
  };
};

/* The sum of the chosen terms and its gradient. */
const objective = ({ video, text }, { target, margin, divisor, terms }) => {
  const { gap, pairs, agreement } = interConsistency(video, text, target, divisor);
  const all = { gap, pairs, diversity: intraDiversity(video, margin) };
  const chosen = terms.map((name) => all[name]);
  const total = (side) => video.map((row, a) => row.map((_, q) =>
    sum(chosen.map((term) => term[side][a][q]))));
  return {
    ...all, agreement, value: sum(chosen.map((term) => term.value)),
    video: total("video"), text: total("text"),
  };
};

/* One step of gradient descent: no point turns by more than `most`, and the step is
   halved until the loss falls. Where it cannot, the points stay. */
const descend = (points, settings, most = 0.1) => {
  const found = objective(points, settings);
  const longest = Math.max(...[...found.video, ...found.text].flat().map(Math.abs));
  if (longest < 1e-9) return points;
  for (let angle = most; angle > 1e-6; angle /= 2) {
    const move = (side) => points[side].map((row, a) => row.map((value, q) =>
      value - (angle / longest) * found[side][a][q]));
    const moved = { video: move("video"), text: move("text") };
    if (objective(moved, settings).value < found.value) return moved;
  }
  return points;
};
