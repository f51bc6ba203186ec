/* Matrices of float32 numbers, row after row, and what a transformer needs of them.

   No library: its smallest build would be larger than all weights of this page, its fast
   parts (WebAssembly, workers) cannot be loaded from a file on disk, and the matrices have
   at most 32 rows. */
"use strict";

const Linear = (() => {
  const matrix = (rows, cols) => ({ rows, cols, data: new Float32Array(rows * cols) });

  /* Four sums at a time, so that no addition waits for the one before; size is 4 n. */
  const dot = (a, i, b, j, size) => {
    let [s, t, u, v] = [0, 0, 0, 0];
    for (const end = i + size; i < end; i += 4, j += 4) {
      s += a[i] * b[j];
      t += a[i + 1] * b[j + 1];
      u += a[i + 2] * b[j + 2];
      v += a[i + 3] * b[j + 3];
    }
    return s + t + u + v;
  };

  /* x Wᵀ + b of rows x (n, i), weight W (o, i), and bias b (o), which may be left out */
  const linear = (x, weight, bias) => {
    const out = matrix(x.rows, weight.rows);
    // Weights outside: each is read once from memory, and the few rows of x stay cached.
    for (let o = 0; o < weight.rows; o++) {
      for (let n = 0; n < x.rows; n++) {
        const sum = dot(x.data, n * x.cols, weight.data, o * x.cols, x.cols);
        out.data[n * weight.rows + o] = sum + (bias ? bias.data[o] : 0);
      }
    }
    return out;
  };

  const map = (x, change) => ({ ...x, data: x.data.map(change) });
  const add = (x, y) => map(x, (value, i) => value + y.data[i]);
  const row = (x, n) => ({ rows: 1, cols: x.cols, data: x.data.subarray(n * x.cols, (n + 1) * x.cols) });
  const columns = (x, from, to) => {
    const out = matrix(x.rows, to - from);
    for (let n = 0; n < x.rows; n++) {
      out.data.set(x.data.subarray(n * x.cols + from, n * x.cols + to), n * out.cols);
    }
    return out;
  };

  const layerNorm = (x, weight, bias, eps = 1e-5) => {
    const out = matrix(x.rows, x.cols);
    for (let n = 0; n < x.rows; n++) {
      const values = row(x, n).data;
      const mean = values.reduce((a, b) => a + b, 0) / x.cols;
      const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / x.cols;
      const scale = 1 / Math.sqrt(variance + eps);
      values.forEach((value, i) => {
        out.data[n * x.cols + i] = (value - mean) * scale * weight.data[i] + bias.data[i];
      });
    }
    return out;
  };

  const softmax = (scores) => {
    const most = Math.max(...scores);
    const powers = scores.map((score) => Math.exp(score - most));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((power) => power / sum);
  };

  /* Multi-head attention of q (n, D) to k and v (m, D); causal: only to earlier rows */
  const attend = (q, k, v, heads, causal) => {
    const out = matrix(q.rows, q.cols);
    const size = q.cols / heads;
    for (let h = 0; h < heads; h++) {
      for (let n = 0; n < q.rows; n++) {
        const seen = causal ? n + 1 : k.rows;
        const weights = softmax(Array.from({ length: seen }, (_, m) =>
          dot(q.data, n * q.cols + h * size, k.data, m * k.cols + h * size, size) / Math.sqrt(size)));
        weights.forEach((weight, m) => {
          for (let i = h * size; i < (h + 1) * size; i++) {
            out.data[n * q.cols + i] += weight * v.data[m * v.cols + i];
          }
        });
      }
    }
    return out;
  };

  /* x · Φ(x), Φ by Abramowitz and Stegun 7.1.26 (error below 2e-7) */
  const gelu = (x) => {
    const z = Math.abs(x) / Math.SQRT2;
    const t = 1 / (1 + 0.3275911 * z);
    const series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t
      + 0.254829592) * t;
    const erf = 1 - series * Math.exp(-z * z);
    return 0.5 * x * (1 + Math.sign(x) * erf);
  };

  return { matrix, dot, linear, map, add, row, columns, layerNorm, softmax, attend, gelu };
})();
