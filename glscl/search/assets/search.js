// Ask, and show the answer. Whatever comes from a file's name is set as text, never as
// markup.
"use strict";

const state = document.getElementById("state");
const list = document.getElementById("moments");
const question = document.getElementById("question");

function made(tag, values, ...children) {
  const element = Object.assign(document.createElement(tag), values);
  element.append(...children);
  return element;
}

function strip(moment) {
  const most = Math.max(...moment.weights);
  const frames = moment.times.map((at, place) => {
    const weight = moment.weights[place];
    const bar = made("meter", { min: 0, max: most, value: weight });
    bar.setAttribute("aria-label", `weight of the frame at ${at}`);
    const picture = made("img", {
      alt: `Frame at ${at}`,
      src: `/frame/${moment.number}/${place}`,
      loading: "lazy",
    });
    return made("li", {}, picture, bar, weight.toFixed(2));
  });
  const row = made("ol", { className: "strip", tabIndex: 0 }, ...frames);
  row.setAttribute("aria-label", "frames and their weights");
  return row;
}

function player(moment) {
  const video = made("video", { controls: true, muted: true, preload: "metadata" });
  video.setAttribute("aria-label", `${moment.name}, ${moment.where}`);
  // What the browser cannot play is shown as a small preview that the server makes.
  video.addEventListener("error", () => { video.src = `/preview/${moment.number}`; },
    { once: true });
  video.src = `/video/${moment.number}#t=${moment.start},${moment.end}`;
  return video;
}

function shown(moment, rank) {
  const head = `${rank + 1}. ${moment.name}, ${moment.where}, score ${moment.score.toFixed(3)}`;
  return made("li", {}, made("p", { textContent: head }), player(moment), strip(moment));
}

document.getElementById("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  state.textContent = "Searching …";
  try {
    const response = await fetch(`/search?q=${encodeURIComponent(question.value)}`);
    const answer = await response.json();
    if (answer.error) throw new Error(answer.error);
    list.replaceChildren(...answer.moments.map(shown));
    state.textContent = `${answer.moments.length} moments`;
  } catch (error) {
    list.replaceChildren();
    state.textContent = error.message;
  }
});
