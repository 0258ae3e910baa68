"""Trains the PyTorch U-Net on request, in a process of its own: `python -m benchmarks.torch_worker`.

Apart from JAX, so that neither library's memory, threads or CUDA libraries meet the other's. The
first line of the input is a JSON object: `config` (of `kacjax.models.UNet`), `dtype`, `compile` (a
mode of `torch.compile`, or null). Every further one, `batch` and `steps`, asks for so many steps and
is answered by a line with the seconds that they took; the first at a batch size for no more than
compilation and warm-up.

The loss is that of flow matching with plain Gaussian noise, cheaper than the Kac process in any
implementation. Adam, clipping and the average of the parameters are as in `kacjax.fit`.
"""

import json
import sys
import time

import torch

from benchmarks.torch_unet import TorchUNet


class Training:
    """Network, average and optimizer."""

    def __init__(self, config, dtype: str, compile: str | None):
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(0)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.shape, self.dtype = config["shape"], getattr(torch, dtype)
        self.network = TorchUNet(**config).to(self.device, memory_format=torch.channels_last)
        self.parameters = list(self.network.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        # One compiled program for each batch size, as in JAX.
        self.call = (
            torch.compile(self.network, mode=compile, dynamic=False) if compile else self.network
        )
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=2e-4, betas=(0.9, 0.99), fused=fused, foreach=not fused
        )

    def step(self, x0):
        """One step on the images `x0`."""
        t = torch.rand(len(x0), device=self.device)
        scale = t[:, None, None, None]
        noise = torch.randn_like(x0)
        reduced = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=reduced):
            predicted = self.call(t, (1 - scale) * x0 + scale * noise)
        loss = ((predicted - (noise - x0)) ** 2).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1e-4)

    def run(self, batch: int, steps: int) -> dict[str, float | None]:
        """Seconds of `steps` steps."""
        height, width, colors = self.shape
        x0 = torch.rand(batch, colors, height, width, device=self.device) * 2 - 1
        x0 = x0.to(memory_format=torch.channels_last)
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(steps):
            self.step(x0)
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        peak = torch.cuda.max_memory_allocated() if cuda else None
        if cuda:
            torch.cuda.empty_cache()
        return {"seconds": seconds, "bytes": peak}


def main() -> None:
    """Answers requests until the input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    training = Training(**json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        answer = training.run(**json.loads(line)) | {
            "version": torch.__version__,
            "device": torch.cuda.get_device_name() if training.device.type == "cuda" else "cpu",
            "parameters": sum(parameter.numel() for parameter in training.parameters),
        }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
