"""The published training loop for two dimensions, in PyTorch, written from its description.

Noise from a table of quantiles, velocity in float64 from the position, a multilayer perceptron of
three hidden layers of 256 units with a sinusoidal time embedding, Adam, clipping, EMA.
"""

import itertools
import math
import time

import torch


class Network(torch.nn.Module):
    """The perceptron."""

    def __init__(self, dim: int = 2, width: int = 256, embedding: int = 64):
        super().__init__()
        half = embedding // 2
        self.register_buffer("frequencies", torch.exp(-math.log(1e4) * torch.arange(half) / half))
        sizes = [dim + embedding, width, width, width]
        layers = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.SiLU()]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(width, dim))

    def forward(self, t, x):
        """The velocity."""
        angles = 1000 * t[:, None] * self.frequencies
        return self.layers(torch.cat([x, torch.sin(angles), torch.cos(angles)], dim=-1))


def kac_velocity(t, y, a, c):
    """The velocity in float64."""
    t, y = t.double(), y.double()
    r = torch.sqrt(torch.clamp((c * t) ** 2 - y**2, min=1e-20))
    x = a / c * r
    inner = y / (t + r / c * torch.special.i0e(x) / torch.special.i1e(x))
    atom = (y.abs() - c * t).abs() < 1e-6
    return torch.where(atom, torch.sign(y) * c, inner).float()


def table_noise(table, t, dim: int, a: float, c: float):
    """Displacements at times `t` of shape `(batch, 1)` from the table, and their velocities."""
    rows, columns = table.shape
    shape = (len(t), dim)
    u = torch.clamp(torch.rand(shape), max=(columns - 1) / columns) * (columns - 1)
    row = torch.clamp((t * rows).long() - 1, min=0)
    low = u.long()
    left = table[row, low]
    inner = left + (u - low) * (table[row, torch.clamp(low + 1, max=columns - 1)] - left)
    sign = torch.randint(0, 2, shape) * 2.0 - 1
    y = torch.where(torch.rand(shape) < torch.exp(-a * t), sign * c * t, inner)
    return y, kac_velocity(t, y, a, c)


def steps_per_second(table, data, a: float, c: float, batch: int, steps: int, warmup: int) -> float:
    """Speed of the loop, `warmup` steps not counted."""
    table, data = torch.from_numpy(table), torch.from_numpy(data)
    network = Network()
    average = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    begin = 0.0
    for step in range(warmup + steps):
        if step == warmup:
            begin = time.perf_counter()
        x0 = data[torch.randint(len(data), (batch,))]
        t = torch.rand(batch, 1)
        y, noise_velocity = table_noise(table, t, 2, a, c)
        target = noise_velocity - x0
        loss = ((network(t[:, 0], (1 - t) * x0 + y) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(network.parameters()), 0.001)
    return steps / (time.perf_counter() - begin)
