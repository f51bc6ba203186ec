/* The answer to one sentence: a summary in words, and the best clips as cards. */
"use strict";

const makeAnswer = (section, { model, tokenize, grammar, clips, videos }) => {
  const { element } = resultCard;
  const BEST = 12;
  const known = new Set(clips.known);
  const players = new Map();
  const [state, unknown, list] = ["state", "unknown", "cards"]
    .map((name) => section.querySelector(`.playground-${name}`));
  let encoded = {};

  const inWords = ({ size, colour, shape, motion, tone, pattern }) =>
    `${size} ${colour} ${shape} (${motion}) on ${tone} ${pattern}`;

  const strange = (text) => {
    const words = text.toLowerCase().match(/[\p{L}\p{N}'-]+/gu) ?? [];
    return [...new Set(words.filter((word) => !known.has(word)))];
  };

  const player = (clip) => {
    if (!players.has(clip)) {
      const src = URL.createObjectURL(videos[clip]);
      const video = element("video",
        { muted: true, loop: true, playsInline: true, preload: "auto", tabIndex: 0, src });
      video.setAttribute("aria-label", clips.shots[clip].map(inWords).join(", then "));
      players.set(clip, video);
    }
    return players.get(clip);
  };

  /* While a clip plays, the bar of the frame that is seen is marked. */
  const follow = (video, bars) => {
    video.ontimeupdate = () => {
      const seen = clips.times.findLastIndex((time) => time <= video.currentTime + 0.01);
      bars.forEach((bar, frame) => bar.classList.toggle("playground-seen", frame === seen));
    };
  };

  const card = ({ clip, rank, score, weights }, truth) => {
    const about = truth ? (truth[clip] ? "✓ matches" : "✗ no match") : "";
    const frames = weights.map((weight, i) => ({ weight, at: `${clips.times[i]} s` }));
    const video = player(clip);
    const figure = resultCard({ rank, name: `Clip ${clip + 1}`, about, score, video, frames });
    figure.classList.toggle("playground-true", Boolean(truth?.[clip]));
    follow(video, [...figure.querySelectorAll(".glscl-bar")]);
    return element("li", {}, figure);
  };

  const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

  const summary = (truth, matching) => {
    const all = count(clips.shots.length, "clip");
    if (!truth) {
      return "This sentence is not one of the benchmark's grammar, so which clips match is not known.";
    }
    if (!matching.length) return `None of the ${all} matches this sentence.`;
    const others = matching.slice(1, BEST).map(({ rank }) => rank).join(", ");
    const more = matching.length > BEST ? ", …" : "";
    return `${matching.length} of ${all} ${matching.length === 1 ? "matches" : "match"}. `
      + `The first true match has rank ${matching[0].rank}`
      + (others ? `, the others ${others}${more}.` : ".");
  };

  /* Rank all clips for `text` and show the best ones, and the first true match. */
  const show = (text, pooling, temperature) => {
    section.hidden = !text.trim();
    if (section.hidden) return;
    if (encoded.text !== text) encoded = { text, ...model.encode(tokenize(text)) };
    const ranked = model.rate(encoded, pooling, temperature)
      .map((found, clip) => ({ clip, ...found }))
      .sort((a, b) => b.score - a.score)
      .map((found, place) => ({ ...found, rank: place + 1 }));
    const mentions = grammar.parse(text);
    const truth = mentions && clips.shots.map((shots) => grammar.isTrueOf(mentions, shots));
    const matching = truth ? ranked.filter(({ clip }) => truth[clip]) : [];
    state.textContent = summary(truth, matching);
    const words = strange(text);
    unknown.textContent = words.length
      ? `Not in any caption of the benchmark: ${words.join(", ")}.` : "";
    const shown = ranked.slice(0, BEST);
    if (matching.length && matching[0].rank > BEST) shown.push(matching[0]);
    list.replaceChildren(...shown.map((found) => card(found, truth)));
  };

  return { show };
};
