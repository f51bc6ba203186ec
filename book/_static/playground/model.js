/* The text side of a GLSCL, and its scores of encoded videos: the package's `encode_text`,
   `LocalInteraction`, `frame_weights`, `global_similarity` and `local_similarity`. */
"use strict";

const makeModel = ({ tensors, sizes }) => {
  const { matrix, dot, linear, map, add, row, columns, layerNorm, softmax, attend, gelu } = Linear;
  const tensor = (name) => tensors[name];

  const affine = (x, name) => linear(x, tensor(`${name}.weight`), tensor(`${name}.bias`));
  const norm = (x, name) => layerNorm(x, tensor(`${name}.weight`), tensor(`${name}.bias`));
  const attention = (x, memory, name, heads, causal) => {
    const D = x.cols;
    const weight = tensor(`${name}.in_proj_weight`);
    const bias = tensor(`${name}.in_proj_bias`);
    const part = (input, i) => linear(
      input,
      { rows: D, cols: D, data: weight.data.subarray(i * D * D, (i + 1) * D * D) },
      columns(bias, i * D, (i + 1) * D));
    const seen = attend(part(x, 0), part(memory, 1), part(memory, 2), heads, causal);
    return affine(seen, `${name}.out_proj`);
  };

  /* All tokens (L, D) of a caption. CLIP's tower: pre-LN blocks, causal attention. */
  const tokenFeatures = (ids) => {
    const embedding = tensor("token_embedding.weight");
    const position = tensor("positional_embedding");
    let x = matrix(ids.length, embedding.cols);
    ids.forEach((id, n) => x.data.set(row(embedding, id).data, n * x.cols));
    x = map(x, (value, i) => value + position.data[i]);
    for (let i = 0; i < sizes.textLayers; i++) {
      const name = `transformer.resblocks.${i}`;
      const y = norm(x, `${name}.ln_1`);
      x = add(x, attention(y, y, `${name}.attn`, sizes.textHeads, true));
      const hidden = map(affine(norm(x, `${name}.ln_2`), `${name}.mlp.c_fc`), gelu);
      x = add(x, affine(hidden, `${name}.mlp.c_proj`));
    }
    return linear(norm(x, "ln_final"), tensor("text_projection"));
  };

  /* The concepts (Q, D), unit norm, of the tokens of a caption: post-LN decoder layers. */
  const decode = (tokens) => {
    let x = tensor("queries");
    for (let i = 0; i < sizes.decoderLayers; i++) {
      const name = `decoder.layers.${i}`;
      const self = attention(x, x, `${name}.self_attn`, sizes.decoderHeads, false);
      x = norm(add(x, self), `${name}.norm1`);
      const cross = attention(x, tokens, `${name}.multihead_attn`, sizes.decoderHeads, false);
      x = norm(add(x, cross), `${name}.norm2`);
      const hidden = map(affine(x, `${name}.linear1`), (value) => Math.max(0, value));
      x = norm(add(x, affine(hidden, `${name}.linear2`)), `${name}.norm3`);
    }
    for (let q = 0; q < x.rows; q++) {
      const concept = row(x, q).data;
      const length = Math.sqrt(dot(concept, 0, concept, 0, x.cols));
      concept.forEach((value, i) => { concept[i] = value / length; });
    }
    return x;
  };

  const encode = (ids) => {
    const tokens = tokenFeatures(ids);
    return { caption: row(tokens, tokens.rows - 1).data, concepts: decode(tokens) };
  };

  const cosine = (a, b) =>
    dot(a, 0, b, 0, a.length) / Math.sqrt(dot(a, 0, a, 0, a.length) * dot(b, 0, b, 0, b.length));

  /* One video with frames (F, D) from row `start` of `frames`: its frame weights (F), and
     the similarity of the caption with the video that they pool. */
  const globalSimilarity = (caption, start, pooling, temperature) => {
    const { frames } = tensors;
    const [F, D] = [sizes.frames, frames.cols];
    const weights = softmax(Array.from({ length: F }, (_, f) => pooling === "mean"
      ? 0 : dot(caption, 0, frames.data, (start + f) * D, D) / temperature));
    const pooled = new Float32Array(D);
    weights.forEach((weight, f) => {
      for (let d = 0; d < D; d++) pooled[d] += weight * frames.data[(start + f) * D + d];
    });
    return { weights, score: cosine(caption, pooled) };
  };

  /* Score and frame weights of every video. pooling: "mean", "gim" or "gim+lim". */
  const rate = ({ caption, concepts }, pooling, temperature) =>
    Array.from({ length: sizes.videos }, (_, video) => {
      const found = globalSimilarity(caption, video * sizes.frames, pooling, temperature);
      if (pooling === "gim+lim") {
        const size = concepts.data.length;
        const local = dot(concepts.data, 0, tensors.concepts.data, video * size, size);
        found.score += sizes.localWeight * local / concepts.rows;
      }
      return found;
    });

  return { encode, rate };
};
