/* The controls of the playground: what is typed and chosen, and the clips' playing. */
"use strict";

const playground = (async () => {
  const root = document.getElementById("playground-app");
  const form = root.querySelector("form");
  const { first, second, pooling, temperature, another, motion } = form.elements;
  const { element } = resultCard;
  const [model, clips] = [PLAYGROUND_MODEL, PLAYGROUND_CLIPS];
  const [tensors, videos] = await Promise.all([Unpack.tensors(model), Unpack.videos(clips)]);
  const parts = {
    model: makeModel({ tensors, sizes: model.sizes }),
    tokenize: makeTokenizer(model.merges, model.sizes.contextLength),
    grammar: makeGrammar(clips.grammar),
    clips,
    videos,
  };
  const answers = [...root.querySelectorAll("section")].map((section) => makeAnswer(section, parts));
  const texts = [first, second];
  let [moving, edited, example] = [!matchMedia("(prefers-reduced-motion: reduce)").matches, first, 0];

  const play = () => {
    motion.textContent = moving ? "Pause the clips" : "Play the clips";
    for (const video of root.querySelectorAll("video")) {
      if (moving) video.play().catch(() => {});  // refused, or removed meanwhile
      else video.pause();
    }
  };

  const show = () => {
    const value = 10 ** temperature.value;
    const shown = value.toPrecision(value < 100 ? 2 : 3);
    form.querySelector(".playground-value").textContent = shown;
    temperature.setAttribute("aria-valuetext", shown);
    temperature.disabled = pooling.value === "mean";
    answers.forEach((answer, i) => answer.show(texts[i].value, pooling.value, value));
    root.classList.toggle("playground-two", texts.every((input) => input.value.trim()));
    play();
  };

  /* A word goes to where the cursor is in the sentence that was edited last. */
  const insert = (word) => {
    const { value, selectionStart: at } = edited;
    const [before, after] = [value.slice(0, at).trim(), value.slice(at).trim()];
    edited.value = [before, word, after].filter(Boolean).join(" ");
    const end = before.length + word.length + (before ? 1 : 0);
    edited.setSelectionRange(end, end);
    show();
  };

  const offerWords = () => {
    const { kinds, words } = clips.grammar;
    const groups = Object.entries(kinds).map(([kind, values]) =>
      [kind, values.flatMap((value) => words[value])]);
    groups.push(["order", clips.order]);
    form.querySelector(".playground-words").append(...groups.map(([kind, options]) => {
      const buttons = options.map((textContent) => {
        const button = element("button", { type: "button", textContent });
        button.addEventListener("click", () => insert(textContent));
        return button;
      });
      return element("p", {}, element("b", { textContent: `${kind} ` }), ...buttons);
    }));
  };

  let waiting;
  texts.forEach((input) => {
    input.addEventListener("focus", () => { edited = input; });
    input.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(show, 200);
    });
  });
  form.addEventListener("change", show);
  temperature.addEventListener("input", show);
  form.addEventListener("submit", (event) => { event.preventDefault(); show(); });
  another.addEventListener("click", () => {
    example = (example + 1) % clips.examples.length;
    edited.value = clips.examples[example];
    show();
  });
  motion.addEventListener("click", () => { moving = !moving; play(); });
  // While all clips are paused, one plays where the pointer or the keyboard is.
  for (const [name, run] of [["mouseover", "play"], ["focusin", "play"], ["mouseout", "pause"],
    ["focusout", "pause"]]) {
    root.addEventListener(name, ({ target }) => {
      if (!moving && target.matches("video")) Promise.resolve(target[run]()).catch(() => {});
    });
  }

  offerWords();
  root.querySelector("datalist").append(...clips.examples.map((value) => element("option", { value })));
  temperature.value = Math.log10(model.temperature);
  first.value = clips.examples[0];
  form.hidden = false;
  show();
  performance.mark("playground answered");
  return { ...parts, sizes: model.sizes, show };
})();

playground.catch((error) => {
  const said = `The playground could not start in this browser: ${error.message}`;
  document.getElementById("playground-app").append(resultCard.element("p", { textContent: said }));
});
