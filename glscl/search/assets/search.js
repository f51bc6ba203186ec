// Send the sentence, and show the moments found. The name of a file is set as text, never
// as markup.
"use strict";

const state = document.getElementById("state");
const list = document.getElementById("moments");
const query = document.getElementById("query");

function element(tag, values, ...children) {
  const node = Object.assign(document.createElement(tag), values);
  node.append(...children);
  return node;
}

function strip(moment) {
  const most = Math.max(...moment.weights);
  const frames = moment.times.map((at, place) => {
    const weight = moment.weights[place];
    const bar = element("meter", { min: 0, max: most, value: weight });
    bar.setAttribute("aria-label", `weight of the frame at ${at}`);
    const picture = element("img", {
      alt: `Frame at ${at}`,
      src: `/frame/${moment.number}/${place}`,
      loading: "lazy",
    });
    return element("li", {}, picture, bar, weight.toFixed(2));
  });
  const row = element("ol", { className: "strip", tabIndex: 0 }, ...frames);
  row.setAttribute("aria-label", "frames and their weights");
  return row;
}

function player(moment) {
  const video = element("video", { controls: true, muted: true, preload: "metadata" });
  video.setAttribute("aria-label", `${moment.name}, ${moment.where}`);
  // What the browser cannot play is shown as a small preview that the server makes.
  video.addEventListener("error", () => { video.src = `/preview/${moment.number}`; },
    { once: true });
  video.src = `/video/${moment.number}#t=${moment.start},${moment.end}`;
  return video;
}

function item(moment, rank) {
  const head = `${rank + 1}. ${moment.name}, ${moment.where}, score ${moment.score.toFixed(3)}`;
  return element("li", {}, element("p", { textContent: head }), player(moment), strip(moment));
}

document.getElementById("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  state.textContent = "Searching …";
  try {
    const response = await fetch(`/search?q=${encodeURIComponent(query.value)}`);
    const answer = await response.json();
    if (answer.error) throw new Error(answer.error);
    list.replaceChildren(...answer.moments.map(item));
    state.textContent = `${answer.moments.length} moments`;
  } catch (error) {
    list.replaceChildren();
    state.textContent = error.message;
  }
});
