/* The data that `book/builder/playground.py` packs, as typed arrays. */
"use strict";

const Unpack = (() => {
  const unzipped = async (base64) => {
    const packed = atob(base64);
    const bytes = new Uint8Array(packed.length);
    for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  /* The value of every 16-bit floating-point number, by its bits */
  const halves = () => Float32Array.from({ length: 65536 }, (_, bits) => {
    const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
    return bits >> 15 ? -size : size;
  });

  const tensors = async ({ parts, row, high, low, bytes }) => {
    const [upper, lower, unsigned] = await Promise.all([high, low, bytes].map(unzipped));
    const [table, steps] = [halves(), new Int8Array(unsigned.buffer)];
    const half = (i) => table[(upper[i] << 8) | lower[i]];
    let [atHalf, atStep] = [0, 0];
    return Object.fromEntries(parts.map(({ name, shape: [rows, cols], bits }) => {
      const data = new Float32Array(rows * cols);
      if (bits === 16) {
        for (let i = 0; i < data.length; i++) data[i] = half(atHalf++);
      } else {
        for (let i = 0; i < data.length; i += row, atHalf++) {
          for (let k = i; k < i + row; k++) data[k] = steps[atStep++] * half(atHalf);
        }
      }
      return [name, { rows, cols, data }];
    }));
  };

  /* The videos, as files in memory */
  const videos = async ({ videos: blob, lengths }) => {
    const bytes = await unzipped(blob);
    let end = 0;
    return lengths.map((length) => {
      end += length;
      return new Blob([bytes.subarray(end - length, end)], { type: "video/mp4" });
    });
  };

  return { tensors, videos };
})();
