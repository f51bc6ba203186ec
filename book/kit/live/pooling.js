/* GIM of one caption and one video from inner products, as glscl.gim.global_similarity.
   products (F): caption by frame; gram (F, F): frame by frame; length: of the caption. */
const pool = ({ products, gram }, length, tau) => {
  const weights = softmax(products.map((product) => product / tau));
  const withFrames = gram.map((row) => inner(row, weights)); // pooled by frame
  const size = Math.sqrt(inner(weights, withFrames));
  return {
    weights,
    score: inner(weights, products) / (length * size),
    cosines: withFrames.map((value, f) => value / (size * Math.sqrt(gram[f][f]))),
  };
};

const inner = (one, other) => one.reduce((sum, value, place) => sum + value * other[place], 0);

/* The rank of one score from 1; equal ones share the places that they take. */
const rankOf = (scores, place) => {
  const better = scores.filter((score) => score > scores[place]).length;
  const equal = scores.filter((score) => score === scores[place]).length;
  return 1 + better + (equal - 1) / 2;
};
