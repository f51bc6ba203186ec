// Send the sentence, and show the moments found as cards, see card.js.
"use strict";

const { element } = resultCard;
const state = document.getElementById("state");
const list = document.getElementById("moments");
const query = document.getElementById("query");

function player(moment) {
  const video = element("video", { controls: true, muted: true, preload: "metadata" });
  video.setAttribute("aria-label", `${moment.name}, ${moment.where}`);
  // What the browser cannot play is shown as a small preview that the server makes.
  video.addEventListener("error", () => { video.src = `/preview/${moment.number}`; },
    { once: true });
  video.src = `/video/${moment.number}#t=${moment.start},${moment.end}`;
  return video;
}

function item(moment, place) {
  const frames = moment.times.map((at, frame) => ({
    weight: moment.weights?.[frame], at, picture: `/frame/${moment.number}/${frame}`,
  }));
  const { name, where, score } = moment;
  const video = player(moment);
  return element("li", {},
    resultCard({ rank: place + 1, name, about: where, score, video, frames }));
}

document.getElementById("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  state.textContent = "Searching …";
  try {
    const response = await fetch(`/search?q=${encodeURIComponent(query.value)}`);
    if (!response.ok) throw new Error(await response.text());
    const { moments } = await response.json();
    list.replaceChildren(...moments.map(item));
    state.textContent = `${moments.length} moments`;
  } catch (error) {
    list.replaceChildren();
    state.textContent = error.message;
  }
});
