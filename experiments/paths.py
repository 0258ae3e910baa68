"""The models, as flags: which path from data to noise is trained, and how."""

import dataclasses
from typing import Any, Literal

import kacjax
from experiments.checks import check_group, flag
from experiments.command import UserError, user_errors


@dataclasses.dataclass(frozen=True)
class PathConfig:
    """The path from data to noise: which model is trained."""

    path: Literal["kac", "diffusion", "flow-matching", "vp", "edm"] = "kac"
    """Model; flow-matching, vp and edm fix T, signal and clock."""
    a: float = 9.0
    """Kac: rate of jumps."""
    c: float = 3.0
    """Kac: speed."""
    sigma: float = 1.0
    """Diffusion, flow-matching: deviation of the noise at time 1."""
    T: float = 1.0
    """Final time."""
    signal: Literal["linear", "cosine", "exponential", "constant"] = "linear"
    """How the data fade; to generate, to zero."""
    clock: Literal["t", "t2"] = "t"
    """How the noise enters: as t, or t^2 / T."""
    vp_schedule: Literal["cosine", "linear-beta"] = "cosine"
    """Variance preserving: how the data fade."""
    beta_min: float = 0.1
    """Linear-beta: first rate."""
    beta_max: float = 20.0
    """Linear-beta: last rate."""
    sigma_max: float = 80.0
    """EDM: deviation of the noise at the end."""
    sigma_data: float = 0.5
    """EDM: deviation of the data."""
    noise_mean: float = -1.2
    """EDM: mean of the logarithm of the training's noise."""
    noise_std: float = 1.2
    """EDM: deviation of that logarithm."""

    def make(self) -> kacjax.ProbabilityPath:
        """The path; its signal must vanish at `T`, where generation would else start from data."""
        check_group(self)
        with user_errors(ValueError):
            if self.path == "flow-matching":
                return kacjax.flow_matching_path(self.sigma)
            if self.path == "vp":
                return kacjax.vp_path(self.vp_schedule, self.beta_min, self.beta_max)
            if self.path == "edm":
                return kacjax.edm_path(self.sigma_max)
            if self.path == "kac":
                path = kacjax.kac_path(self.a, self.c, self.T, self.signal, self.clock)
            else:
                path = kacjax.diffusion_path(self.sigma, self.T, self.signal, self.clock)
        if not path.prior_is_noise:
            raise UserError(
                f"--signal {self.signal!r} does not vanish at T, so that generation from noise alone "
                "is not possible; use 'linear' or 'cosine'."
            )
        return path

    def prediction(self, usual: str) -> Any:
        """What the network predicts: EDM's own mixture, for others as usual."""
        if self.path != "edm":
            return usual
        return kacjax.predictions.EDMPrediction(self.sigma_data)

    def times(self) -> Any:
        """How training draws its times; None for as usual."""
        if self.path != "edm":
            return None
        return kacjax.losses.LogNormalTimes(self.noise_mean, self.noise_std)

    def grid_power(self, coordinates: str) -> float:
        """The exponent of a solver's steps: the default, in time the best by `benchmarks.grids`."""
        if coordinates == "straight":
            return 2.0
        if self.path == "edm":
            return 7.0  # EDM's.
        if self.path == "flow-matching" or (self.path != "vp" and self.clock == "t2"):
            return 1.5
        # A Brownian displacement falls like the root of its time.
        return 2.0 if self.path == "kac" else 4.0

    def unused(self, defaults: "PathConfig") -> list[str]:
        """Flags that differ from the defaults though this model does not read them."""
        betas = {"beta_min", "beta_max"} if self.vp_schedule == "linear-beta" else set()
        reads = {
            "kac": {"a", "c", "T", "signal", "clock"},
            "diffusion": {"sigma", "T", "signal", "clock"},
            "flow-matching": {"sigma"},
            "vp": {"vp_schedule"} | betas,
            "edm": {"sigma_max", "sigma_data", "noise_mean", "noise_std"},
        }[self.path]
        names = {field.name for field in dataclasses.fields(self)} - reads - {"path"}
        differing = (name for name in names if getattr(self, name) != getattr(defaults, name))
        return sorted(map(flag, differing))
