"""The published training loop for two dimensions, in PyTorch, written from its description.

Noise from a table of quantiles, velocity in float64 from the position, a multilayer perceptron of
three hidden layers of 256 units with a sinusoidal time embedding, Adam, clipping, EMA. On a GPU a
step is captured once as a CUDA graph and replayed: step by step, PyTorch would mostly wait for the
host.
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
    shape, device = (len(t), dim), table.device
    u = torch.clamp(torch.rand(shape, device=device), max=(columns - 1) / columns) * (columns - 1)
    row = torch.clamp((t * rows).long() - 1, min=0)
    low = u.long()
    left = table[row, low]
    inner = left + (u - low) * (table[row, torch.clamp(low + 1, max=columns - 1)] - left)
    sign = torch.randint(0, 2, shape, device=device) * 2.0 - 1
    atom = torch.rand(shape, device=device) < torch.exp(-a * t)
    y = torch.where(atom, sign * c * t, inner)
    return y, kac_velocity(t, y, a, c)


def steps_per_second(table, data, a: float, c: float, batch: int, steps: int, warmup: int) -> float:
    """Speed of the loop, `warmup` steps not counted."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cuda = device.type == "cuda"
    table, data = (torch.from_numpy(array).to(device) for array in (table, data))
    network = Network().to(device)
    parameters = list(network.parameters())
    average = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, capturable=cuda, fused=cuda or None)

    def step():
        x0 = data[torch.randint(len(data), (batch,), device=device)]
        t = torch.rand(batch, 1, device=device)
        y, noise_velocity = table_noise(table, t, 2, a, c)
        target = noise_velocity - x0
        loss = ((network(t[:, 0], (1 - t) * x0 + y) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 0.001)

    call = step
    if cuda:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(5):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        call = graph.replay
    for _ in range(warmup):
        call()
    if cuda:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(steps):
        call()
    if cuda:
        torch.cuda.synchronize()
    return steps / (time.perf_counter() - begin)
