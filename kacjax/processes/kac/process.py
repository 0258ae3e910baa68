"""The Kac process."""

import jax
import jax.numpy as jnp

from kacjax._typing import Array, ArrayLike, Float, Key, Shape
from kacjax._validation import check_positive
from kacjax.processes.base import Process, align
from kacjax.processes.kac import law


class KacProcess(Process):
    a: ArrayLike = 9.0
    c: ArrayLike = 3.0

    def __check_init__(self):
        check_positive("a", self.a)
        check_positive("c", self.c)

    def transport(self, s, n):
        raise ValueError("being written")

    def sample_with_velocity(self, key: Key, s: ArrayLike, shape: Shape):
        s = self._time(s, shape)
        s, a, c = align(s, self.a, self.c, shape=shape)
        lam = a * s
        k1, k2, k3 = jax.random.split(key, 3)
        n = jax.random.poisson(k1, lam, shape)
        atom = n == 0
        up = jax.random.beta(k2, (n // 2 + 1).astype(s.dtype), jnp.maximum((n + 1) // 2, 1).astype(s.dtype))
        sign = jax.random.rademacher(k3, shape, s.dtype)
        z = jnp.where(atom, 1, 2 * up - 1)
        w = jnp.where(atom, 1, law.velocity(lam, z, 4 * up * (1 - up)))
        return c * s * sign * z, c * sign * w

    def sample(self, key, s, shape):
        return self.sample_with_velocity(key, s, shape)[0]

    def velocity(self, s, y):
        s, y, a, c = align(s, y, self.a, self.c)
        z, room, inside = law.cone_coordinates(c, s, y)
        return c * jnp.where(inside, law.velocity(a * s, z, room), z)

    def variance(self, s):
        s, a, c = align(s, self.a, self.c)
        return (c / a) ** 2 * (a * s + 0.5 * jnp.expm1(-2 * a * s))
