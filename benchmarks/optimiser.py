"""Steps of BertAdam on all tensors at once, and tensor by tensor.

    python -m benchmarks.optimiser

On the parameters of CLIP ViT-B/32 (151 M), in float32 and with CLIP's matrices in
float16. Seconds of the processor are counted on a CPU, so that other programs do not
count, and seconds of the device on CUDA.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.results import table
from glscl.backbone import Backbone, backbone_config
from glscl.optim import BertAdam


@torch.no_grad()
def tensor_by_tensor(optimiser: BertAdam) -> None:
    """``optimiser.step`` with every operation on one tensor."""
    for group in optimiser.param_groups:
        b1, b2 = group["betas"]
        for p in group["params"]:
            state = optimiser.state[p]
            if not state:
                state.update(m=torch.zeros_like(p), v=torch.zeros_like(p))
            norm = torch.linalg.vector_norm(p.grad)
            g = p.grad * (group["max_grad_norm"] / (norm + 1e-6)).clamp(max=1.0)
            m, v = state["m"], state["v"]
            m.mul_(b1).add_(g, alpha=1 - b1)
            v.mul_(b2).addcmul_(g, g, value=1 - b2)
            update = m / (v.sqrt() + group["eps"]) + group["weight_decay"] * p
            p.sub_(group["lr"] * update)


def optimiser_steps(
    backbone: str, device: torch.device, repeats: int
) -> list[dict[str, Any]]:
    """Steps a second of both ways in either arithmetic, and whether they agree."""
    rows = []
    for arithmetic in ("float32", "released"):
        clip = Backbone(backbone, backbone_config(backbone)).to(device)
        if arithmetic == "released":
            clip.convert_weights()
        found: dict[str, tuple[float, list[Tensor]]] = {}
        for way in ("tensor by tensor", "all at once"):
            torch.manual_seed(0)
            parameters = [p.detach().clone() for p in clip.parameters()]
            for p in parameters:
                p.grad = 1e-4 * torch.randn_like(p)
            optimiser = BertAdam(parameters, lr=1e-4)
            once = way == "all at once"
            step = optimiser.step if once else lambda o=optimiser: tensor_by_tensor(o)
            seconds = [_seconds(step, device) for _ in range(1 + repeats)]
            found[way] = min(seconds[1:]), parameters
        (before, expected), (after, same) = found.values()
        pairs = zip(expected, same, strict=True)
        rows.append(
            {
                "arithmetic": arithmetic,
                "parameters": sum(p.numel() for p in expected),
                "tensor by tensor, steps a second": 1 / before,
                "all at once, steps a second": 1 / after,
                "same bits": all(torch.equal(a, b) for a, b in pairs),
            }
        )
    return rows


def _seconds(step: Any, device: torch.device) -> float:
    if device.type != "cuda":
        started = time.process_time()
        step()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the mini CLIP, to try it")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = "mini" if arguments.small else "ViT-B-32-quickgelu"
    rows = optimiser_steps(backbone, device, arguments.repeats)
    print(table(list(rows[0]), [list(row.values()) for row in rows]))


if __name__ == "__main__":
    main()
