"""Adam with gradient clipping, and the schedules of its learning rate."""

import optax

from kacjax._validation import check_choice, check_count, check_positive

SCHEDULES = ("constant", "cosine", "linear")


def make_schedule(name: str, learning_rate: float, steps: int, warmup: int = 0) -> optax.Schedule:
    """The learning rate as a function of the step: a linear rise from zero, then the named curve.

    Args:
        name: `cosine` and `linear` fall to zero at the last step, `constant` stays.
        learning_rate: The peak.
        steps: Steps of the whole run.
        warmup: Steps of the rise, at most half of all.

    Raises:
        ValueError: If the name is unknown or a number is out of its range.
    """
    check_choice("schedule", name, SCHEDULES)
    check_positive("learning_rate", learning_rate)
    check_count("steps", steps)
    check_count("warmup", warmup, 0)
    rise = min(warmup, steps // 2)
    if name == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, learning_rate, rise, steps)
    if name == "linear":
        after = optax.linear_schedule(learning_rate, 0.0, steps - rise)
    else:
        after = optax.constant_schedule(learning_rate)
    if not rise:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, rise), after], [rise])


def make_optimiser(
    learning_rate: float,
    steps: int,
    warmup: int,
    clip: float,
    schedule: str = "cosine",
    b2: float = 0.99,
) -> optax.GradientTransformation:
    """Adam with gradient clipping.

    Args:
        learning_rate: Peak of the learning rate.
        steps: Steps of the whole run.
        warmup: Steps of linear warm-up.
        clip: Largest global norm of a gradient.
        schedule: See `make_schedule`.
        b2: Decay of Adam's mean of squares, in [0, 1).

    Raises:
        ValueError: If a name is unknown or a number is out of its range.
    """
    check_positive("clip", clip)
    if not 0 <= b2 < 1:
        raise ValueError(f"b2 must lie in [0, 1), got {b2}.")
    rate = make_schedule(schedule, learning_rate, steps, warmup)
    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(rate, b2=b2))
