"""Models on the Hugging Face Hub: downloaded, uploaded, described by a model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glscl.util.tables import markdown

CARD = Path(__file__).with_name("model_card.md")


def download(repo_id: str) -> Path:
    """The folder of a model's files on the Hub, fetched once.

    Raises ``ConnectionError`` for an unknown id, and without a network.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(repo_id, allow_patterns=["*.json", "*.safetensors"])
        )
    except Exception as error:  # the client raises a dozen unrelated types
        raise ConnectionError(
            f"No model {repo_id!r}: it is neither 'mini' nor a folder, and it could not "
            f"be fetched from the Hugging Face Hub ({type(error).__name__}); check the "
            "id, owner/name, and the network."
        ) from error


def upload(folder: Path, repo_id: str, private: bool | None, token: str | None) -> str:
    """Put the files of ``folder`` into a model on the Hub; returns its address.

    Raises ``ConnectionError`` where that fails.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder)
    except Exception as error:
        raise ConnectionError(
            f"{repo_id!r} could not be written on the Hugging Face Hub "
            f"({type(error).__name__}); check the id, owner/name, the network, and "
            "`hf auth whoami`."
        ) from error
    return str(url)


def model_card(description: Mapping[str, Any]) -> str:
    """The page of a model on the Hub, from what its ``config.json`` says.

    Of ``description["record"]``, ``"protocol"`` is a list of sentences, ``"data"`` the
    name of the data set, and ``"test"`` the rows of ``evaluate.result_table``; everything
    else is listed as it is. What is missing is said to be unknown.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    record, method = description["record"], description["method"]
    title = f"{method.upper()}, {description['backbone']['name']}"
    data, rows = record.get("data", "unknown"), record.get("test", [])
    results = [
        EvalResult(
            task_type="text-video-retrieval",
            dataset_type=data,
            dataset_name=data,
            dataset_split="test",
            metric_type="recall",
            metric_name=f"R@1, {row['direction']}, {row['captions']}",
            metric_value=round(row["R1"], 2),
        )
        for row in rows
    ]
    header = ModelCardData(
        library_name="glscl",
        tags=["text-video-retrieval", "clip", method],
        model_name=title if results else None,
        eval_results=results or None,
    )
    about = {**description, "title": title, "results": markdown(rows) if rows else ""}
    return str(ModelCard.from_template(header, str(CARD), **about))
