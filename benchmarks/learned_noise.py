"""Noise learned from heavy-tailed data, beside noise of fixed laws: `python -m benchmarks.learned_noise`.

For each data set, noise and seed a perceptron of equal size and `--steps` steps of 256. Data have deviation
1 in each component, and so has the noise: Gaussian, which is flow matching and the control; Student's t with
4 degrees of freedom, a spline in normal variables; Kac, `a = 9, c = 3`, clock t2; and a spline for each
component that is learned with the network for the first third of the steps (`kacjax.training.fit_path`) and
held for the rest. Data are Neal's funnel; ten columns of scikit-learn's breast cancer table, standard
errors of measurements, of which half the rows are held out; and the photographs that scikit-learn has,
60,000 patches of 3 by 3 pixels as the eight cosines that are not their mean, of an excess kurtosis of 15 to
20. Judged are samples of 50 evaluations beside held-out data: the Kolmogorov-Smirnov distance within the
upper and the lower tenth of each component, times ten, a mean of all tails; and the energy distance.
Besides, a rate `a` and a speed `c` learned from data that are Kac noise of `a = 2, c = 1`, by transport
alone, beside a scan of `a`. Writes `benchmarks/results/learned_noise.json` and `.png` and prints the table.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy import fft, stats
from sklearn.datasets import load_breast_cancer, load_sample_images

import kacjax
from benchmarks.common import RESULTS, mean_and_half, show_interval, surroundings, write_result
from kacjax import metrics, plots
from kacjax.data import target
from kacjax.training import PathMatching, fit_path

NOISES = ("gaussian", "student, 4", "kac, a=9 c=3", "learned")
DATA = ("funnel", "breast cancer", "photographs")
# Whose quantiles are drawn: a component of the data, and what it is.
DRAWN = {
    "funnel": {0: "first component", 1: "second component"},
    "breast cancer": {3: "area error"},
    "photographs": {0: "horizontal change"},
}
BINS, BOUND, TAIL = 16, 4.0, 0.1
TRUE = {"a": 2.0, "c": 1.0}


def load(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Data for training and held out, in units of the deviations of the former."""
    if name == "funnel":
        keys, sample = jax.random.split(jax.random.key(seed)), target(name)
        train, real = np.asarray(sample(keys[0], 100_000)), np.asarray(sample(keys[1], 5000))
    else:
        rows = patches() if name == "photographs" else load_breast_cancer().data[:, 10:20]
        rows = rows[np.random.default_rng(seed).permutation(len(rows))].astype(np.float32)
        held_out = min(5000, len(rows) // 2)
        train, real = rows[:-held_out], rows[-held_out:]
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    return (train - mean) / deviation, (real - mean) / deviation


def patches() -> np.ndarray:
    """Cosine coefficients of patches that do not overlap, of gray photographs, without their means."""
    found = []
    for image in load_sample_images().images:
        gray = image.astype(np.float64).mean(axis=-1)
        high, wide = (side // 3 for side in gray.shape)
        tiles = gray[: 3 * high, : 3 * wide].reshape(high, 3, wide, 3).swapaxes(1, 2)
        found.append(fft.dctn(tiles, axes=(2, 3), norm="ortho").reshape(-1, 9)[:, 1:])
    return np.concatenate(found)


def spline_path(numbers: Any) -> kacjax.ProbabilityPath:
    """The path of a spline for each component, of any law with mean 0."""
    return kacjax.ProbabilityPath(kacjax.QuantileProcess(*numbers, bound=BOUND, odd=False))


def student(freedom: float) -> kacjax.ProbabilityPath:
    """Student's t of deviation 1, exact at the knots and linear beyond them."""
    knots = np.linspace(0, BOUND, BINS + 1)
    law = stats.t(freedom, scale=(1 - 2 / freedom) ** 0.5)
    values = -law.ppf(stats.norm.sf(knots))
    slopes = stats.norm.pdf(knots) / law.pdf(values)
    tables = np.log(np.diff(values)), np.log(slopes)
    return kacjax.ProbabilityPath(kacjax.QuantileProcess(*map(jnp.asarray, tables), bound=BOUND))


def train(name: str, data: np.ndarray, seed: int, steps: int) -> kacjax.Velocity:
    """The velocity of a kind of noise."""
    keys, dim = jax.random.split(jax.random.key(seed)), data.shape[1]
    network: Any = kacjax.models.MLP(dim, rngs=nnx.Rngs(seed), width=128, depth=3)
    known = {
        "gaussian": kacjax.flow_matching_path(),
        "student, 4": student(4.0),
        "kac, a=9 c=3": kacjax.kac_path(9.0, 3.0, clock="t2"),
    }
    if name != "learned":
        return kacjax.fit(network, known[name], data, keys[0], steps, progress=False).velocity
    start = kacjax.QuantileProcess.gaussian((dim,), bins=BINS, bound=BOUND, odd=False)
    numbers, first = (start.log_heights, start.log_slopes), max(1, steps // 3)
    learned = fit_path(network, spline_path, numbers, data, keys[1], first, progress=False)
    network, rest = learned.velocity.network, max(1, steps - first)
    return kacjax.fit(network, learned.path, data, keys[0], rest, progress=False).velocity


def tail_distance(x: np.ndarray, real: np.ndarray) -> float:
    """Kolmogorov-Smirnov distances in the tenths of `real` at both ends, times ten: 0 is the best."""
    found = []
    for own, other in zip(x.T, real.T, strict=True):
        for sign in (-1, 1):
            edge = np.quantile(sign * other, 1 - TAIL)
            points = np.sort(sign * np.concatenate([own, other]))
            points = points[points > edge]
            above = [
                1 - np.searchsorted(np.sort(sign * v), points, "right") / len(v)
                for v in (own, other)
            ]
            found.append(np.max(np.abs(above[0] - above[1])) / TAIL)
    return float(np.mean(found))


def measure(data: str, noise: str, seed: int, steps: int, num: int = 5000) -> dict[str, Any]:
    """Distances of samples, and the quantiles of the noise at T."""
    known, real = load(data, seed)
    velocity = train(noise, known, seed, steps)
    x = kacjax.generate(velocity, velocity.path, jax.random.key(seed), (num, known.shape[1]), 50)
    path, n = velocity.path, np.linspace(-3, 3, 61, dtype=np.float32)
    shape = (len(n), known.shape[1])
    shown = path.process.from_normal(
        path.coefficients(path.T).g, np.broadcast_to(n[:, None], shape)
    )
    figures = {
        "tail distance": tail_distance(np.asarray(x), real),
        "energy distance": float(metrics.energy_distance(np.asarray(x), real)),
    }
    drawn = np.round(np.asarray(shown, np.float64), 4).T[list(DRAWN[data])].tolist()
    return figures | ({"quantiles": drawn} if seed == 0 else {})


def floor(data: str, seed: int, num: int = 5000) -> dict[str, float]:
    """What data that were not held out have of the same figures: all that can be expected."""
    known, real = load(data, seed)
    x = known[:num]
    energy = float(metrics.energy_distance(x, real))
    return {"tail distance": tail_distance(x, real), "energy distance": energy}


def learned_rate(seed: int, steps: int) -> dict[str, Any]:
    """Rate and speed learned by transport, and a scan of the same objective in `a`."""
    keys = jax.random.split(jax.random.key(seed), 3)
    process = kacjax.KacProcess(**TRUE)
    data = np.asarray(process.sample(keys[0], 1.0, (20_000, 4)))
    network = kacjax.models.MLP(4, rngs=nnx.Rngs(seed), width=8, depth=1)

    def make_path(numbers: Any) -> kacjax.ProbabilityPath:
        return kacjax.kac_path(jnp.exp(numbers["a"]), jnp.exp(numbers["c"]))

    start = {"a": np.log(9.0), "c": np.log(3.0)}
    options = {"flow": 0.0, "log_slope": 0.0, "progress": False}
    learned = fit_path(network, make_path, start, data, keys[1], steps, 512, **options)
    draw = PathMatching(0.0, 1.0, 0.0).draw(None, None, keys[2], data, None, learned.path)

    @jax.jit
    def cost(a: jax.Array) -> jax.Array:
        own = kacjax.KacProcess(a, TRUE["c"])
        return jnp.mean(jnp.square(own.from_normal(1.0, draw.n) - draw.partner))

    rates = np.geomspace(0.5, 8, 81)
    costs = np.array([cost(a) for a in rates])
    found = {name: float(np.exp(value)) for name, value in learned.numbers.items()}
    return {**found, "a of the scan": float(rates[costs.argmin()])}


@plots.styled
def draw_quantiles(result: dict[str, Any]) -> None:
    """Quantiles of the laws of noise beside those of the data, of the first seed."""
    picks = [
        (data, number, index, f"{data}, {title}")
        for data, drawn in DRAWN.items()
        for number, (index, title) in enumerate(drawn.items())
        if f"{data}, {NOISES[0]}" in result
    ]
    figure, axes = plots.panels(len(picks), 3.6 * len(picks), 3.4)
    n = np.linspace(-3, 3, 61)
    colors = {"gaussian": plots.style.GREEN, "student, 4": plots.style.ORANGE}
    colors |= {"kac, a=9 c=3": plots.style.BLUE, "learned": plots.style.VERMILION}
    for ax, (data, number, index, title) in zip(axes, picks, strict=True):
        real = load(data, 0)[0][:, index]
        ax.plot(n, np.quantile(real, stats.norm.cdf(n)), color=plots.style.GRAY, label="data", lw=4)
        for noise in NOISES:
            row = result[f"{data}, {noise}"]["seeds"][0]["quantiles"][number]
            ax.plot(n, row, color=colors[noise], label=noise)
        ax.set(title=title, xlabel="normal variable", ylim=(-8, 8))
    axes[0].set(ylabel="value, in deviations of the data")
    axes[0].legend()
    figure.savefig(RESULTS / "learned_noise.png")


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="of each network (2000)")
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parsed = parser.parse_args()
    result: dict[str, Any] = {"steps": parsed.steps, "samples": 5000, "seeds": 3}
    rates = [learned_rate(seed, 1500) for seed in range(3)]
    table = {name: mean_and_half([rate[name] for rate in rates]) for name in rates[0]}
    result["learned rate"] = {"true": TRUE, "mean and half-width": table, "seeds": rates}
    print("Kac, learned:", {name: show_interval(*pair) for name, pair in table.items()}, flush=True)
    for data in parsed.data:
        for noise in (*NOISES, "training data themselves"):
            if noise in NOISES:
                seeds = [measure(data, noise, seed, parsed.steps) for seed in range(3)]
            else:
                seeds = [floor(data, seed) for seed in range(3)]
            figures = ("tail distance", "energy distance")
            table = {name: mean_and_half([seed[name] for seed in seeds]) for name in figures}
            result[f"{data}, {noise}"] = {"mean and half-width": table, "seeds": seeds}
            cells = ", ".join(f"{name} {show_interval(*pair)}" for name, pair in table.items())
            print(f"{data}, {noise}: {cells}", flush=True)
            file = write_result("learned_noise", result | surroundings("flax", "optax"))
    draw_quantiles(result)
    print("written:", file.name)


if __name__ == "__main__":
    main()
