"""Stands for the workload: one training step on the GPU, or on the CPU where there is none, then it serves.
With --once it ends after the step: that is its smoke test."""

import signal
import sys

import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 6 * 6, 2)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss = model(torch.randn(8, 1, 8, 8, device=device)).square().mean()
loss.backward()
optimizer.step()
print(f"one step on {device}: loss {loss.item():.3f}", flush=True)

if "--once" in sys.argv:
    sys.exit()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.pause()
