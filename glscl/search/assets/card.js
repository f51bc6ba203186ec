// A result as a card: rank and name, the moving picture, and under each frame the weight
// of the sentence. The page of `glscl serve` and the book's playground show the same one;
// `page.py` writes the same markup. A name is set as text, never as markup.
"use strict";

const resultCard = (() => {
  function element(tag, values, ...children) {
    const node = Object.assign(document.createElement(tag), values);
    node.append(...children);
    return node;
  }

  function bar(weight, most) {
    const shown = element("span", { className: "glscl-bar" });
    shown.style.setProperty("--share", (weight / most).toFixed(3));
    const textContent = `${(100 * weight).toFixed(1)} %`;
    return [shown, element("span", { className: "glscl-percent", textContent })];
  }

  // frames: of each where in the video it is, and perhaps its weight and a picture's URL
  function strip(frames) {
    const most = Math.max(...frames.map((frame) => frame.weight));
    const items = frames.map(({ weight, at, picture }) => {
      const alt = `Frame at ${at}`;
      const image = picture && element("img", { alt, src: picture, loading: "lazy" });
      const bars = weight === undefined ? [] : bar(weight, most);
      return element("li", {}, ...(image ? [image] : []), ...bars);
    });
    const list = element("ol", { className: "glscl-frames" }, ...items);
    if (frames[0].picture) list.tabIndex = 0;  // with pictures it may have to be scrolled
    const weighted = frames[0].weight !== undefined;
    list.setAttribute("aria-label", weighted ? "frames and their weights" : "frames");
    return list;
  }

  // video: the element that plays it; note: more elements for the head of the card
  function resultCard({ rank, name, about, score, video, frames, note = [] }) {
    const head = element("figcaption", {},
      element("strong", { textContent: `${rank}. ${name}` }),
      element("span", { textContent: about }),
      element("span", { textContent: `score ${score.toFixed(3)}` }),
      ...note);
    return element("figure", { className: "glscl-card" }, head, video, strip(frames));
  }

  return Object.assign(resultCard, { element });
})();
