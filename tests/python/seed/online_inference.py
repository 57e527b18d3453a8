#!/usr/bin/env python3
"""Online inference: short kernels in bursts, a small convolutional net (5.2 million parameters)."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import roles


@cache
def _model(torch: Any) -> Any:
    channels = [3, 64, 128, 256, 512]
    layers: list[Any] = []
    for wide, wider in zip(channels, channels[1:]):
        layers += [torch.nn.Conv2d(wide, wider, 3, stride=2, padding=1), torch.nn.ReLU()]
        layers += [torch.nn.Conv2d(wider, wider, 3, padding=1), torch.nn.ReLU()]
    layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(channels[-1], 1000)]
    return torch.nn.Sequential(*layers).cuda().eval(), torch.randn(1, 3, 224, 224, device="cuda")


def request(torch: Any) -> None:
    """One request, then a pause until the next."""
    model, image = _model(torch)
    with torch.no_grad():
        model(image).argmax().item()
    roles.stopping.wait(0.1)


if __name__ == "__main__":
    packets = roles.Packets(priority=12, queues=1, burst=4, cost_us=50, pause_s=0.1)
    sys.exit(roles.run("online inference", request, packets))
