/* What a sentence says, if it is one of the benchmark's grammar, and which clips show it.
   Attributes may be left out. */
"use strict";

const makeGrammar = ({ words, kinds, templates, on, ground, resizing }) => {
  const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const any = (options) => `(?:${options.map(escaped).join("|")})`;
  const spoken = (kind) => kinds[kind].flatMap((value) => words[value]);
  const word = (kind) => `(?<${kind}>${any(spoken(kind))})`;
  const valueOf = (kind, said) => kinds[kind].find((value) => words[value].includes(said));

  const thing = `(?:an? )?(?:${word("size")} )?(?:${word("colour")} )?${word("shape")}`;
  const action = `(?: ${word("motion")})?`;
  const place = `(?:${on.map((text) => escaped(text).replace("\\{\\}", "")).join("|")})` +
    `(?:${word("tone")} )?(?:${word("pattern")} )?${any(ground)}`;
  const CLAUSES = [`${thing}${action}`, `${thing}${action} ${place}`, `${place} ${thing}${action}`]
    .map((clause) => new RegExp(`^${clause}$`));
  // A template without its commas; {0} and {} become a group for the clause of that shot.
  const TEMPLATES = templates.map((template) => new RegExp(`^${
    escaped(template.replaceAll(",", "")).replace(/\\\{(\d?)\\\}/g, (_, n) => `(?<shot${n || 0}>.+)`)}$`));

  /* The attributes that a clause names, or undefined */
  const clause = (text) => {
    const found = CLAUSES.map((pattern) => text.match(pattern)).find(Boolean);
    if (!found) return undefined;
    const named = Object.entries(found.groups).filter(([, said]) => said);
    const attributes = Object.fromEntries(named.map(([kind, said]) => [kind, valueOf(kind, said)]));
    // A thing that grows or shrinks has no one size.
    return attributes.size && resizing.includes(attributes.motion) ? undefined : attributes;
  };

  /* The shots that a sentence describes, in their order in the clip, or undefined */
  const parse = (text) => {
    const plain = text.toLowerCase().replace(/[,.]/g, " ").trim().replace(/\s+/g, " ");
    for (const template of TEMPLATES) {
      const groups = plain.match(template)?.groups ?? {};
      const shots = Object.keys(groups).sort().map((name) => clause(groups[name]));
      if (shots.length && shots.every(Boolean)) return shots;
    }
    return undefined;
  };

  const shows = (shot, said) => Object.entries(said).every(([kind, value]) =>
    shot[kind] === value && (kind !== "size" || !resizing.includes(shot.motion)));

  /* Whether the shots of a clip show all that was said, in the same order */
  const isTrueOf = (mentions, shots) => {
    let next = 0;
    for (const shot of shots) {
      if (next < mentions.length && shows(shot, mentions[next])) next++;
    }
    return next === mentions.length;
  };

  return { parse, isTrueOf };
};
