/* Byte pair encoding as open_clip's SimpleTokenizer does it, over the merges of a model. */
"use strict";

const makeTokenizer = (merges, contextLength) => {
  const bytes = new TextEncoder();
  const printable = [[33, 126], [161, 172], [174, 255]];
  const isPrintable = (byte) => printable.some(([from, to]) => from <= byte && byte <= to);
  // Every byte is a character that can be seen; those that cannot are moved behind 255.
  const order = [...Array(256).keys()].sort((a, b) => isPrintable(b) - isPrintable(a) || a - b);
  let moved = 0;
  const symbols = order.map((byte) =>
    String.fromCharCode(isPrintable(byte) ? byte : 256 + moved++));
  const symbolOf = [];
  order.forEach((byte, place) => { symbolOf[byte] = symbols[place]; });

  const pairs = merges.map((merge) => merge.split(" "));
  const vocabulary = [...symbols, ...symbols.map((s) => `${s}</w>`), ...pairs.map((p) => p.join(""))];
  const idOf = new Map(vocabulary.map((token, id) => [token, id]));
  const rankOf = new Map(merges.map((merge, rank) => [merge, rank]));
  const [BOS, EOS] = [vocabulary.length, vocabulary.length + 1];
  const WORDS = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/giu;

  const split = (word) => {
    let parts = [...bytes.encode(word)].map((byte) => symbolOf[byte]);
    parts[parts.length - 1] += "</w>";
    for (;;) {
      let best = Infinity;
      for (let i = 0; i + 1 < parts.length; i++) {
        best = Math.min(best, rankOf.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity);
      }
      if (best === Infinity) return parts;
      const [first, second] = pairs[best];
      const merged = [];
      for (let i = 0; i < parts.length; i++) {
        const found = parts[i] === first && parts[i + 1] === second;
        merged.push(found ? first + second : parts[i]);
        if (found) i++;
      }
      parts = merged;
    }
  };

  /* The ids of a text from BOS to EOS, cut to the context length like open_clip's. */
  return (text) => {
    const words = text.toLowerCase().match(WORDS) ?? [];
    const ids = [BOS, ...words.flatMap(split).map((token) => idOf.get(token)), EOS];
    return ids.length > contextLength ? [...ids.slice(0, contextLength - 1), EOS] : ids;
  };
};
