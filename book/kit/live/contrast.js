/* The contrastive loss of a batch, as glscl.losses.info_nce, and its gradient. */
const transpose = (matrix) => matrix[0].map((_, place) => matrix.map((row) => row[place]));

/* Minus the mean logarithm of the softmax on the diagonal: stable for any logits. */
const crossEntropy = (logits) => {
  const losses = logits.map((row, place) => {
    const most = Math.max(...row);
    const sum = row.reduce((total, value) => total + Math.exp(value - most), 0);
    return most + Math.log(sum) - row[place];
  });
  return losses.reduce((total, loss) => total + loss, 0) / losses.length;
};

/* logits (N, N): caption by video, pairs on the diagonal. Gradients are with respect to
   the logits: of either direction, and of the loss, their mean. */
const infoNce = (logits) => {
  const count = logits.length;
  const textToVideo = logits.map(softmax);
  const videoToText = transpose(transpose(logits).map(softmax));
  const gradient = (shares) =>
    shares.map((row, a) => row.map((share, b) => (share - (a === b ? 1 : 0)) / count));
  const rows = gradient(textToVideo);
  const columns = gradient(videoToText);
  const both = rows.map((row, a) => row.map((value, b) => (value + columns[a][b]) / 2));
  const losses = [crossEntropy(logits), crossEntropy(transpose(logits))];
  return {
    textToVideo, videoToText, gradients: { rows, columns, both },
    losses, loss: (losses[0] + losses[1]) / 2,
  };
};
