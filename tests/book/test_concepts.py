"""The geometry of concepts, against plain loops."""

import pytest
import torch
from toy import toy_model, toy_videos

from book.experiments.concepts import concept_measures
from glscl.evaluate import caption_batches, encode_gallery


def test_concept_measures_equal_plain_loops():
    videos, model = toy_videos(5, 2), toy_model()
    found = concept_measures(model, videos, batch_size=3)
    with torch.no_grad():
        video = encode_gallery(model, videos).concepts.double()
        (text,) = caption_batches(model, videos.split.texts, 100)
    text = text.concepts.double()
    gaps = [(video[:, q].mean(0) - text[:, q].mean(0)).norm() for q in range(3)]
    pairs = [text[a, q] @ video[a // 2, q] for a in range(10) for q in range(3)]
    inside = {"intra_video": video, "intra_text": text}
    assert found["gap"] == pytest.approx(float(sum(gaps)) / 3, rel=1e-4)
    assert found["pair"] == pytest.approx(float(sum(pairs)) / 30, rel=1e-4)
    for name, concepts in inside.items():
        cosines = [
            float(item[q] @ item[r])
            for item in concepts
            for q in range(3)
            for r in range(3)
            if q != r
        ]
        assert found[name] == pytest.approx(sum(cosines) / len(cosines), rel=1e-4)
    with pytest.raises(ValueError, match="no LIM"):
        concept_measures(toy_model(local=False), videos)
