"""The equations of GLSCL as plain float64 loops, to compare the package with.

NumPy, one item at a time, no batching and no tricks: slow and easy to check by eye.
``state`` is a module's ``state_dict`` as NumPy arrays; names are those of PyTorch.
"""

import numpy as np


def arrays(module):
    """The weights of a module in float64."""
    return {
        name: value.detach().double().numpy()
        for name, value in module.state_dict().items()
    }


def unit(x):
    return x / np.sqrt(np.sum(x * x))


def softmax(x):
    e = np.exp(x - np.max(x))
    return e / e.sum()


def gim(captions, frames, frame_mask, temperature):
    """The similarity (A, B) and the weights (A, B, F) of the GIM."""
    A, (B, F, _) = len(captions), frames.shape
    scores, weights = np.zeros((A, B)), np.zeros((A, B, F))
    for a in range(A):
        for b in range(B):
            real = [f for f in range(F) if frame_mask[b, f]]
            s = np.array([np.dot(captions[a], frames[b, f]) for f in real])
            w = softmax(s / temperature)
            pooled = sum(w_f * frames[b, f] for w_f, f in zip(w, real, strict=True))
            scores[a, b] = np.dot(unit(captions[a]), unit(pooled))
            weights[a, b, real] = w
    return scores, weights


def mean_pooled(captions, frames, frame_mask):
    """The similarity (A, B) with the mean of the real frames."""
    scores = np.zeros((len(captions), len(frames)))
    for a, caption in enumerate(captions):
        for b in range(len(frames)):
            pooled = frames[b][frame_mask[b]].mean(axis=0)
            scores[a, b] = np.dot(unit(caption), unit(pooled))
    return scores


def local(text_concepts, video_concepts):
    """The similarity (A, B) of the LIM, concept by concept."""
    (A, Q, _), B = text_concepts.shape, len(video_concepts)
    scores = np.zeros((A, B))
    for a in range(A):
        for b in range(B):
            for q in range(Q):
                scores[a, b] += np.dot(text_concepts[a, q], video_concepts[b, q]) / Q
    return scores


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def layer_norm(x, state, name, eps):
    out = np.empty_like(x)
    for i, row in enumerate(x):
        centred = row - row.mean()
        out[i] = centred / np.sqrt(np.mean(centred**2) + eps)
    return out * state[f"{name}.weight"] + state[f"{name}.bias"]


def attend(x, keys, real, num_heads, state, name):
    """Multi-head attention of x (Q, D) to the real ones of ``keys`` (M, D)."""
    D = x.shape[1]
    d = D // num_heads
    W, bias = state[f"{name}.in_proj_weight"], state[f"{name}.in_proj_bias"]
    query = x @ W[:D].T + bias[:D]
    key = keys @ W[D : 2 * D].T + bias[D : 2 * D]
    value = keys @ W[2 * D :].T + bias[2 * D :]
    context = np.zeros_like(x)
    maps = np.zeros((num_heads, len(x), len(keys)))
    for h in range(num_heads):
        part = slice(h * d, (h + 1) * d)
        for q in range(len(x)):
            scores = np.array([np.dot(query[q, part], key[m, part]) for m in real])
            w = softmax(scores / np.sqrt(d))
            for w_m, m in zip(w, real, strict=True):
                context[q, part] += w_m * value[m, part]
                maps[h, q, m] = w_m
    return linear(context, state, f"{name}.out_proj"), maps


def decoder(tokens, real, num_heads, state):
    """Concepts (Q, D) and maps (layers, H, Q, M) of one item's ``tokens`` (M, D)."""
    x = state["queries"]
    everyone = range(len(x))
    layers = 1 + max(int(name.split(".")[2]) for name in state if "layers" in name)
    maps = []
    for n in range(layers):
        name = f"decoder.layers.{n}"
        found, _ = attend(x, x, everyone, num_heads, state, f"{name}.self_attn")
        x = layer_norm(x + found, state, f"{name}.norm1", 1e-5)
        found, weights = attend(
            x, tokens, real, num_heads, state, f"{name}.multihead_attn"
        )
        x = layer_norm(x + found, state, f"{name}.norm2", 1e-5)
        hidden = np.maximum(linear(x, state, f"{name}.linear1"), 0.0)
        x = layer_norm(
            x + linear(hidden, state, f"{name}.linear2"), state, f"{name}.norm3", 1e-5
        )
        maps.append(weights)
    return np.stack([unit(row) for row in x]), np.stack(maps)


def frame_transformer(frames, real, num_heads, num_layers, state):
    """Frames (F, D) of one video after the frame transformer."""
    x = frames + state["positions"][: len(frames)]
    for n in range(num_layers):
        name = f"resblocks.{n}"
        y = layer_norm(x, state, f"{name}.ln_1", 1e-12)
        x = x + attend(y, y, real, num_heads, state, f"{name}.attn")[0]
        y = linear(
            layer_norm(x, state, f"{name}.ln_2", 1e-12), state, f"{name}.mlp.c_fc"
        )
        y = y / (1 + np.exp(-1.702 * y))
        x = x + linear(y, state, f"{name}.mlp.c_proj")
    return frames + x


def info_nce(logits):
    """InfoNCE of both directions of a matrix (A, A)."""
    A = len(logits)
    rows = [-np.log(softmax(logits[a])[a]) for a in range(A)]
    columns = [-np.log(softmax(logits[:, a])[a]) for a in range(A)]
    return (np.mean(rows) + np.mean(columns)) / 2


def inter_consistency(video_concepts, text_concepts, beta, target, divisor):
    """ICL; ``divisor`` is what the sum over the batch is divided by."""
    A, Q, D = text_concepts.shape
    squares = 0.0
    for q in range(Q):
        for d in range(D):
            gap = sum(
                video_concepts[a, q, d] - text_concepts[a, q, d] for a in range(A)
            )
            squares += (gap / A) ** 2
    penalty = 0.0
    for q in range(Q):
        agreement = sum(
            np.dot(text_concepts[a, q], video_concepts[a, q]) for a in range(A)
        )
        penalty += (agreement / divisor - target) ** 2
    return squares / (Q * D) + beta * penalty


def intra_diversity(concepts, margin):
    """IDL of one modality."""
    B, Q, _ = concepts.shape
    loss = 0.0
    for q in range(Q):
        for r in range(Q):
            if q != r:
                cosine = sum(np.dot(concepts[b, q], concepts[b, r]) for b in range(B))
                loss += max(0.0, cosine / B - (1 - margin))
    return 2 / (Q * (Q - 1)) * loss


def score_consistency(scores):
    """CSC of four (S) matrices (A, A)."""
    S, A, _ = scores.shape
    positive, negative = 0.0, 0.0
    for a in range(A):
        for b in range(A):
            mean = sum(scores[:, a, b]) / S
            variance = sum((x - mean) ** 2 for x in scores[:, a, b]) / (S - 1)
            if a == b:
                positive += variance / A
            else:
                negative += variance / (A * A)
    return positive / negative


def pearson_constraint(x, y, on_diag, off_diag):
    """The Pearson constraint of two sets of features (A, D)."""
    A, D = x.shape
    loss = 0.0
    for d in range(D):
        for e in range(D):
            zx = (x[:, d] - x[:, d].mean()) / np.std(x[:, d], ddof=1)
            zy = (y[:, e] - y[:, e].mean()) / np.std(y[:, e], ddof=1)
            c = np.dot(zx, zy) / A
            loss += on_diag * (c - 1) ** 2 if d == e else off_diag * c**2
    return loss


def self_mean(x, W, real):
    """Σ_i x_i (softmax(x / .01) W)_i of the real ones of a vector."""
    w = np.zeros(len(x))
    w[real] = softmax(np.array([x[i] for i in real]) / 0.01)
    total = 0.0
    for i in real:
        total += x[i] * sum(w[j] * W[j, i] for j in range(len(x)))
    return total


def gate(x, rows, real, temperature):
    """unit(Σ softmax(x / τ) rows) over the real rows."""
    w = softmax(np.array([x[i] for i in real]) / temperature)
    return unit(sum(w_i * rows[i] for w_i, i in zip(w, real, strict=True)))


def eercf_levels(t, V, u, f, p, real, real_patches, M, W):
    """The four scores of one caption and one video; all features unit."""
    x = np.array([np.dot(t, row) for row in f])
    y = np.array([np.dot(t, row) for row in p])
    identity = np.eye(len(y))
    return {
        "video": np.dot(t @ M, V),
        "frame_weak": self_mean(x, W, real),
        "frame_strong": np.dot(t, gate(x, u, real, 0.1)),
        "patch_weak": self_mean(y, identity, real_patches),
    }


def eercf_loss(t, V, u, f, p, real, real_patches, M, W, kappa, weight):
    """The released loss of A pairs, row by row; ``real`` lists the rows of each video."""
    A = len(t)
    own = []
    for b in range(A):
        x = np.array([np.dot(t[b], row) for row in f[b]])
        own.append(gate(x, u[b], real[b], 0.1))
    weak, strong = np.zeros((A, A)), np.zeros((A, A))
    for a in range(A):
        for b in range(A):
            s = eercf_levels(
                t[a], V[b], u[b], f[b], p[b], real[b], real_patches[b], M, W
            )
            weak[a, b] = (
                0.5 * s["video"] + 0.5 * s["frame_weak"] + 0.05 * s["patch_weak"]
            )
            strong[a, b] = np.dot(t[a], own[b])
    pearson = pearson_constraint(t, V, 0.14, 0.0)
    pearson += pearson_constraint(t, np.stack(own), 0.14, 0.0)
    return (
        0.8 * info_nce(kappa * weak) + 0.2 * info_nce(kappa * strong) + weight * pearson
    )


def glccl_levels(s, words, frames, real_words, real, maps, mixes, temperature):
    """The four scores of one caption and one video; features not normalised."""
    L = len(words)

    def pooled(x):
        w = softmax(np.array([np.dot(x, frames[f]) for f in real]) / temperature)
        return unit(sum(w_f * frames[f] for w_f, f in zip(w, real, strict=True)))

    video, frame = pooled(s), [pooled(word) for word in words]
    s, words = unit(s), [unit(word) for word in words]
    x = np.array([np.dot(video, word) for word in words])
    y = np.array([np.dot(s, one) for one in frame])
    z = np.array([[np.dot(word @ maps[1], one) for one in frame] for word in words])
    by_words = np.array([self_mean(z[:, i], mixes[2], real_words) for i in range(L)])
    by_frames = np.array([self_mean(z[i], mixes[4], real_words) for i in range(L)])
    fine = self_mean(by_words, mixes[3], real_words)
    fine += self_mean(by_frames, mixes[5], real_words)
    return [
        np.dot(s @ maps[0], video),
        self_mean(x, mixes[0], real_words),
        self_mean(y, mixes[1], real_words),
        fine / 2,
    ]
