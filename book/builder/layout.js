/* What a reader of the open page cannot see, reach or read; called by browser.py. */
() => {
  const page = document.documentElement;
  const content = document.querySelector(".bd-article, main") ?? document.body;
  const all = (selector) =>
    [...content.querySelectorAll(selector)].filter(
      (e) => e.checkVisibility?.() && e.getBoundingClientRect().width,
    );
  const overflow = (e) => getComputedStyle(e).overflowX;
  const scrolls = (e) => ["auto", "scroll"].includes(overflow(e));
  const named = (e) => `<${e.localName}> ${e.textContent.trim().slice(0, 60)}`;

  /* The place up to which `e` is shown; infinite where a box around it scrolls. */
  const limit = (e) => {
    let right = innerWidth;
    for (let box = e.parentElement; box && box !== page; box = box.parentElement) {
      if (scrolls(box)) return Infinity;
      if (overflow(box) !== "visible") {
        right = Math.min(right, box.getBoundingClientRect().right);
      }
    }
    return right;
  };
  const cut = all(
    "h1, h2, h3, p, li, dt, th, td, pre, table, figure, img, video, summary, " +
      "svg:not(mjx-container *), mjx-container, div.math, .glscl-figure, .glscl-table-box",
  ).filter((e) => !scrolls(e) && e.getBoundingClientRect().right > limit(e) + 1);

  const longer = (e) => scrolls(e) && e.scrollWidth > e.clientWidth + 2;
  const tables = all(".glscl-table-box").filter(longer);
  const hidden = [...tables, ...all("div.math mjx-container, pre").filter(longer)];
  const first = (box) => box.querySelector("tbody tr > :first-child");
  const loose = tables.filter(
    (box) => first(box) && getComputedStyle(first(box)).position !== "sticky",
  );

  return {
    theme: page.dataset.theme,
    wide: page.scrollWidth > innerWidth ? page.scrollWidth : 0,
    cut: cut.map(named),
    hidden: hidden.map(named),
    loose: loose.map(named),
    maths: document.querySelectorAll("span.math, div.math").length,
    drawn: document.querySelectorAll("mjx-container").length,
    broken: document.querySelectorAll("mjx-merror, [data-mjx-error]").length,
    images: [...document.images]
      .filter((i) => i.complete && !i.naturalWidth)
      .map((i) => i.src.slice(0, 80)),
    videos: [...document.querySelectorAll("video")].filter((v) => v.error).length,
  };
}
