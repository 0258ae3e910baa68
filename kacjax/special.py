r"""Bessel quotients of the Kac law, smooth in $q = x^2$ and accurate in float32.

The law contains the modified Bessel functions only through

$$ h(q) = \frac{x I_0(x)}{2 I_1(x)}, \qquad \ell(q) = \log I_0(x), \qquad x = \sqrt q. $$

Both are analytic in $q$ around 0, where the light cone lies; functions of $x$ are not differentiable
there. Their derivatives are algebraic in $h$,

$$ h'(q) = \frac{2 h (1 - h) + q / 2}{2 q}, \qquad \ell'(q) = \frac{1}{4 h}, $$

from $I_0' = I_1$ and $I_1' = I_0 - I_1 / x$, so that gradients of any order are finite.
"""

from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
from jax.scipy.special import i0e, i1e
from jaxtyping import Array, Float

# Below this, power series; it is far inside their radius of convergence, 14.68 (a zero of I_1).
_SMALL = 0.5
# Above this, the derivative's asymptotic series: its closed form cancels like x * epsilon.
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
_ASYMPTOTIC = _asymptotic_series(10)


def polynomial(coefficients: Sequence[float | Array], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Horner's rule, lowest coefficient first; coefficients broadcast against `x`."""
    value = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return jnp.asarray(value)


@jax.custom_jvp
def bessel_quotient(q: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""The quotient $h(q) = x I_0(x) / (2 I_1(x))$ at $x = \sqrt q$, for `q >= 0`.

    $h(0) = 1$, $h \approx 1 + q / 8$ for small and $h \approx x / 2 + 1/4$ for large $x$.
    """
    small = q < _SMALL
    x = jnp.sqrt(jnp.where(small, 1, q))
    return jnp.where(small, polynomial(_SERIES, jnp.where(small, q, 0)), x * i0e(x) / (2 * i1e(x)))


@bessel_quotient.defjvp
def _bessel_quotient_jvp(primals, tangents):
    (q,), (q_dot,) = primals, tangents
    return bessel_quotient(q), bessel_quotient_derivative(q) * q_dot


def bessel_quotient_derivative(q: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The derivative `h'(q)`; `h'(0) = 1/8`."""
    small, large = q < _SMALL, q > _LARGE
    inner = jnp.where(small | large, 1, q)
    h = bessel_quotient(inner)
    middle = (2 * h * (1 - h) + inner / 2) / (2 * inner)
    series = [k * coefficient for k, coefficient in enumerate(_SERIES)][1:]
    near = polynomial(series, jnp.where(small, q, 0))
    inverse = jax.lax.rsqrt(jnp.where(large, q, 1))
    # h = sum_k e_k x**(1-k) / 2, so dh/dq = sum_k (1-k) e_k x**(-1-k) / 4.
    tail = [(1 - k) * coefficient / 4 for k, coefficient in enumerate(_ASYMPTOTIC)]
    return jnp.where(small, near, jnp.where(large, inverse * polynomial(tail, inverse), middle))
