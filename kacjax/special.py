r"""Bessel quotients of the Kac law, smooth in $q = x^2$ and accurate in float32.

The law contains the modified Bessel functions through $h$ and $\ell$,

$$ h(q) = \frac{x I_0(x)}{2 I_1(x)}, \qquad \ell(q) = \log I_0(x), \qquad x = \sqrt q. $$

Both are analytic in $q$ around 0, where the light cone lies; functions of $x$ are not differentiable
there. Their derivatives are algebraic in $h$,

$$ h'(q) = \frac{2 h (1 - h) + q / 2}{2 q}, \qquad \ell'(q) = \frac{1}{4 h}, $$

from $I_0' = I_1$ and $I_1' = I_0 - I_1 / x$, so that gradients of any order are finite.

In float32 both $h$ and $h'$ are polynomials in $u = (1 + q / 20)^{-1/2}$, with no Bessel function to
evaluate: $h u$ and $h' / u$ are smooth from $q = 0$, where $u = 1$, to $q = \infty$, where $u = 0$,
and the nearest singularity of $h$, $q = -14.68$ (a zero of $I_1$), is far away from $[0, 1]$ in $u$.
Their coefficients come from `python -m kacjax.processes.kac.fit`.
"""

from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
from jax.scipy.special import i0e, i1e
from jaxtyping import Array, Float

# In float64. Below: power series, far inside their radius of convergence.
_SMALL = 0.5
# Above: the derivative's asymptotic series; its closed form cancels like x * epsilon.
_LARGE = 2500.0


def _power_series(terms: int) -> list[float]:
    """Coefficients of `h` in `q`, from `4 q h' = 4 h (1 - h) + q` and `h(0) = 1`."""
    h = [Fraction(1)]
    for k in range(1, terms):
        square = sum((h[i] * h[k - i] for i in range(1, k)), Fraction(0))
        h.append(((k == 1) * Fraction(1, 4) - square) / (k + 1))
    return [float(coefficient) for coefficient in h]


def _asymptotic_series(terms: int) -> list[float]:
    """Coefficients `e_k` of `h = x/2 * sum_k e_k x**-k`, from `r' = 1 - r**2 + r/x`, `r = 2h/x`."""
    e = [Fraction(1)]
    for k in range(1, terms):
        square = sum((e[i] * e[k - i] for i in range(1, k)), Fraction(0))
        e.append((k * e[k - 1] - square) / 2)
    return [float(coefficient) for coefficient in e]


_SERIES = _power_series(14)
_SLOPE = [k * coefficient for k, coefficient in enumerate(_SERIES)][1:]
# h = sum_k e_k x**(1-k) / 2, so dh/dq = sum_k (1-k) e_k x**(-1-k) / 4.
_FAR_SLOPE = [(1 - k) * coefficient / 4 for k, coefficient in enumerate(_asymptotic_series(10))]

# In float32: powers of 2 u - 1 for h * u and for h' / u.
UNIT = 20.0
QUOTIENT = [
    2.07550884,
    -0.484584266,
    -0.391934296,
    -0.109126799,
    -0.0582422437,
    -0.0230288774,
    -0.00651943843,
    -0.000572042724,
    -0.000621979732,
    -0.000778673158,
    -0.000156889614,
    5.66830317e-05,
]
QUOTIENT_SLOPE = [
    0.0640023315,
    0.0195966762,
    0.0179825204,
    0.0112812882,
    0.00725171578,
    0.00327786081,
    0.000890171937,
    0.000210527096,
    0.00033932589,
    0.000210689994,
    -3.59333268e-05,
    -3.97764796e-05,
    2.07184445e-05,
    1.18846388e-05,
]


def polynomial(
    coefficients: Sequence[float | Array], x: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Estrin's rule, lowest coefficient first; coefficients broadcast against `x`.

    Pairs are combined with `x`, pairs of pairs with `x**2`, and so on: a chain of `log2` as many
    dependent steps as Horner's rule, whose latency is what a vector unit would wait for.
    """
    terms, power = list(coefficients), x
    while len(terms) > 1:
        pairs = zip(terms[::2], terms[1::2], strict=False)
        odd_one_out = terms[-1:] if len(terms) % 2 else []
        terms = [low + high * power for low, high in pairs] + odd_one_out
        power = power * power
    return jnp.asarray(terms[0])


@jax.custom_jvp
def bessel_quotient(q: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""The quotient $h(q) = x I_0(x) / (2 I_1(x))$ at $x = \sqrt q$, for `q >= 0`.

    $h(0) = 1$, $h \approx 1 + q / 8$ for small and $h \approx x / 2 + 1/4$ for large $x$. Relative
    error below 6e-7 in float32 and 3e-15 in float64.
    """
    if q.dtype == jnp.float32:
        u = jax.lax.rsqrt(1 + q / UNIT)
        return polynomial(QUOTIENT, 2 * u - 1) / u
    small = q < _SMALL
    x = jnp.sqrt(jnp.where(small, 1, q))
    return jnp.where(small, polynomial(_SERIES, jnp.where(small, q, 0)), x * i0e(x) / (2 * i1e(x)))


@bessel_quotient.defjvp
def _bessel_quotient_jvp(primals, tangents):
    (q,), (q_dot,) = primals, tangents
    return bessel_quotient(q), bessel_quotient_slope(q) * q_dot


def bessel_quotient_slope(q: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""The derivative $h'(q)$ for `q >= 0`; $1/8$ at 0 and about $1 / (4 \sqrt q)$ for large `q`."""
    if q.dtype == jnp.float32:
        u = jax.lax.rsqrt(1 + q / UNIT)
        return polynomial(QUOTIENT_SLOPE, 2 * u - 1) * u
    small, large = q < _SMALL, q > _LARGE
    h = bessel_quotient(q)
    middle = (2 * h * (1 - h) + q / 2) / (2 * jnp.where(small | large, 1, q))
    near = polynomial(_SLOPE, jnp.where(small, q, 0))
    inverse = jax.lax.rsqrt(jnp.where(large, q, 1))
    far = inverse * polynomial(_FAR_SLOPE, inverse)
    return jnp.where(small, near, jnp.where(large, far, middle))
