"""The paths of known models."""

from kacjax._typing import ArrayLike
from kacjax._validation import check_choice, check_positive
from kacjax.paths.path import ProbabilityPath
from kacjax.processes import KacProcess, WienerProcess
from kacjax.processes.base import as_numbers
from kacjax.schedules import LinearBetaClock, LinearBetaSignal, Schedule, SineClock


def kac_path(
    a: ArrayLike = 9.0,
    c: ArrayLike = 3.0,
    T: ArrayLike = 1.0,
    signal: str | Schedule = "linear",
    clock: str | Schedule = "t",
) -> ProbabilityPath:
    r"""The Kac flow: noise moves at speed `c` and turns around at rate `a`.

    - At process time `s` a component has not turned yet with probability $e^{-as}$: with $aT$ of 9
      one in 8,000 at the end; below about 5 the prior has visible atoms.
    - The noise's deviation at `T` is close to $c \sqrt{T / a}$, the size that compares with the
      `sigma` of `flow_matching_path`. Data of deviation 1 want about 0.4 to 1.
    - The noise's velocity never exceeds `c`, the conditional velocity $|f'| |x_0| + g' c$.
    - As `a` and `c` grow with $c^2 / a$ fixed, the noise becomes Brownian.

    Args:
        a: Jump rate, positive, in 1 / time.
        c: Speed, positive, in units of the data / time.
        T: Final time.
        signal: As in `ProbabilityPath`.
        clock: As in `ProbabilityPath`.

    Raises:
        ValueError: If `a`, `c` or `T` is not positive and finite, or a name is unknown.

    Source: R. Duong, J. Chemseddine, P. K. Friz, G. Steidl, *Telegrapher's Generative Model via
    Kac Flows*, arXiv 2506.20641.

    Example:
        >>> path = kacjax.kac_path(a=25.0, c=2.0)
        >>> round(float(path.coefficients(path.T).sigma), 2)
        0.4
    """
    return ProbabilityPath(KacProcess(a=a, c=c), signal, clock, T)


def diffusion_path(
    sigma: ArrayLike = 1.0,
    T: ArrayLike = 1.0,
    signal: str | Schedule = "linear",
    clock: str | Schedule = "t",
) -> ProbabilityPath:
    """The probability flow of a diffusion: Brownian motion of volatility `sigma`.

    Args:
        sigma: Volatility, positive: the noise's deviation at `T` is `sigma * sqrt(T)`.
        T: Final time.
        signal: As in `ProbabilityPath`.
        clock: As in `ProbabilityPath`.

    Raises:
        ValueError: If `sigma` or `T` is not positive and finite, or a name is unknown.

    Example:
        >>> path = kacjax.diffusion_path(sigma=0.5)
        >>> float(path.coefficients(path.T).sigma)
        0.5
    """
    return ProbabilityPath(WienerProcess(sigma=sigma), signal, clock, T)


def flow_matching_path(sigma: ArrayLike = 1.0) -> ProbabilityPath:
    r"""Linear flow matching, $x_t = (1 - t) x_0 + t \sigma \varepsilon$: a diffusion on the clock `t2`.

    Its target is $\sigma \varepsilon - x_0$; $\sigma$, the noise's deviation at the end, is positive.

    Source: Y. Lipman et al., *Flow Matching for Generative Modeling*, arXiv 2210.02747.

    Example:
        >>> kacjax.flow_matching_path(sigma=0.4).process
        WienerProcess(sigma=0.4)
    """
    return diffusion_path(sigma, 1.0, "linear", "t2")


def vp_path(
    schedule: str = "cosine", beta_min: ArrayLike = 0.1, beta_max: ArrayLike = 20.0
) -> ProbabilityPath:
    r"""A variance preserving diffusion, $x_t = f x_0 + \sqrt{1 - f^2} \, \varepsilon$ for `t` in `[0, 1]`.

    With `cosine`, $f = \cos(\pi t / 2)$, the prior is noise exactly. With `linear-beta`,
    $f = e^{-\beta_0 t / 2 - (\beta_1 - \beta_0) t^2 / 4}$, it is an approximation: generation leaves out the
    0.0066 of the data that are left at the end, beside noise of deviation 1 (to 2e-5). The rates
    are positive; others, and another name, are a `ValueError`.

    Sources: A. Nichol, P. Dhariwal, arXiv 2102.09672, without their offset; Y. Song et al., arXiv
    2011.13456.

    Example:
        >>> c = kacjax.vp_path("linear-beta").coefficients(0.5)
        >>> round(float(c.f**2 + c.sigma**2), 5)
        1.0
    """
    check_choice("schedule", schedule, ("cosine", "linear-beta"))
    if schedule == "cosine":
        return ProbabilityPath(WienerProcess(), "cosine", SineClock())
    rates = as_numbers("beta_min", beta_min), as_numbers("beta_max", beta_max)
    parts = LinearBetaSignal(*rates), LinearBetaClock(*rates)
    return ProbabilityPath(WienerProcess(), *parts, approximate_prior=True)


def edm_path(sigma_max: ArrayLike = 80.0) -> ProbabilityPath:
    r"""A variance exploding diffusion, $x_t = x_0 + t \, \varepsilon$ for `t` in `[0, sigma_max]`.

    The time is the noise's deviation, as in EDM. Data never fade, so that the prior, noise alone,
    is an approximation, off by $x_0 / \sigma_\text{max}$ of its deviations. To train as EDM does:
    `fit(network, path, data, key, prediction="edm", times=losses.LogNormalTimes())`; its steps are
    `schedules.karras_times`. A `sigma_max` that is not positive is a `ValueError`.

    Source: T. Karras et al., *Elucidating the Design Space of Diffusion-Based Generative Models*,
    arXiv 2206.00364.

    Example:
        >>> c = kacjax.edm_path().coefficients(2.5)
        >>> float(c.f), round(float(c.sigma), 4)
        (1.0, 2.5)
    """
    check_positive("sigma_max", sigma_max)
    process = WienerProcess(as_numbers("sigma_max", sigma_max) ** 0.5)
    return ProbabilityPath(process, "constant", "t2", sigma_max, approximate_prior=True)
