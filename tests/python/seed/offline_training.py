#!/usr/bin/env python3
"""Offline training: long kernels on several queues, a transformer encoder of BERT's size."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import roles


@cache
def _training(torch: Any) -> Any:
    layer = torch.nn.TransformerEncoderLayer(d_model=768, nhead=12, dim_feedforward=3072, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, num_layers=12).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    return model, optimizer, torch.randn(16, 512, 768, device="cuda"), torch.cuda.Stream()


def step(torch: Any) -> None:
    """One training step, its input copied on a stream of its own."""
    model, optimizer, batch, copies = _training(torch)
    with torch.cuda.stream(copies):
        following = torch.randn_like(batch)
    loss = model(batch).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    torch.cuda.current_stream().wait_stream(copies)
    batch.copy_(following)
    torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(roles.run("offline training", step, roles.Packets(priority=2, queues=4, burst=32, cost_us=500, pause_s=0)))
