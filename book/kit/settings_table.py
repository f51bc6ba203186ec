"""Every setting of a benchmark, by whose it is: made from the presets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glscl.config import get_preset

if TYPE_CHECKING:
    import pandas as pd

#: What the paper of GLSCL states where code and paper were compared; it does not state
#: most settings, and where it was not read for one, that one is not here either.
PAPER: dict[str, object] = {"alpha": 1e-4, "idl_sides": "both"}
#: Our names of settings, and those of the arguments of the released program.
THEIRS = {
    "backbone": "base_encoder",
    "batch_size": "batch_size",
    "eval_batch_size": "batch_size_val",
    "max_words": "max_words",
    "max_frames": "max_frames",
    "sample_fps": "video_framerate",
    "temporal_layers": "num_hidden_layers",
    "temperature": "temp",
    "local_weight": "loss2_weight",
    "num_queries": "query_number",
    "num_decoder_layers": "cross_att_layer",
    "share_queries": "query_share",
    "share_decoder": "cross_att_share",
    "alpha": "alpha",
    "beta": "beta",
    "epochs": "epochs",
    "learning_rate": "lr",
    "clip_lr_scale": "coef_lr",
    "weight_decay": "weight_decay",
    "warmup": "warmup_proportion",
}


def settings_table(benchmark: str = "msrvtt", method: str = "glscl") -> pd.DataFrame:
    """A row a setting: paper, README, released script, recommended, built-in benchmark.

    ``theirs``: its name in the released program, where it is an argument. A setting that
    the paper does not state is missing there. Raises ``ValueError`` for unknown names.
    """
    import pandas as pd

    of = {
        "README": get_preset(benchmark, "readme", method),
        "released script": get_preset(benchmark, "released", method),
        "recommended": get_preset(benchmark, "recommended", method),
        "mini": get_preset("mini", method=method),
    }
    columns = {name: preset.settings() for name, preset in of.items()}
    names = list(columns["mini"])
    glscl = method == "glscl"
    table = {
        "theirs": [THEIRS.get(name) if glscl else None for name in names],
        "paper": [_shown(PAPER[n]) if glscl and n in PAPER else None for n in names],
        **{
            column: [_shown(values[name]) for name in names]
            for column, values in columns.items()
        },
    }
    return pd.DataFrame(table, index=pd.Index(names, name="setting"))


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
