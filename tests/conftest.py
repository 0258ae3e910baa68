"""Strict promotion everywhere; the jaxtyping hook is switched on in pyproject.toml."""

import os
import pathlib

import jax
import jaxtyping
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.compilation import compile_quickly

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Compiling takes most of the time of short runs, also of those in other processes.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"


# Cases that take long of tests with others that are as good a guard of the same line.
SLOW_CASES = {
    "test_what_is_counted_is_what_is_evaluated": ("Kvaerno3", "heun"),
    "test_fixed_steps_have_their_order_and_their_cost": (
        "diffusion-midpoint",
        "diffusion-heun",
        "diffusion-euler",
        "flow matching-euler",
        "flow matching-midpoint",
        "flow matching-rk4",
        "flow matching-heun-2-2-0",
        "flow matching-ab2-2-1-0",
    ),
    "test_low_precision_is_computed_in_float32": ("float16",),
    "test_chunks_are_refused_whatever_is_traced": (
        "x0-grad",
        "grid_power-grad",
        "function-grad",
        "path-grad",
    ),
    "test_the_way_up_of_an_x0_prediction_begins_in_a_little_noise": (
        "diffusion",
        "kac t2",
        "flow matching",
    ),
    "test_own_processes_and_schedules_generate_in_straight_coordinates": (
        "signal",
        "process",
        "clock",
    ),
    "test_a_velocity_that_knows_its_path_refuses_another": (
        "trajectory",
        "encode",
        "log_density",
        "generate",
        "solve",
    ),
    "test_the_exact_velocity_of_bounded_noise_is_finite": ("process",),
    "test_mixture_of_gaussians": ("64-path1",),
    "test_there_and_back_with_the_default_solver": ("diffusion", "flow matching", "kac t2"),
    "test_trajectory_ends_where_generate_does": (
        "diffusion-options1",
        "flow matching-options1",
        "flow matching-options0",
    ),
    "test_times_and_controls_are_found_again": ("64-kac", "32-kac"),
    "test_train_speed": ("1",),
    "test_exact_flow_reaches_the_data": ("path0",),
    "test_a_killed_distillation_goes_on_bit_for_bit": ("2-4",),
    "test_the_exact_flow_has_the_marginals_of_the_path": ("linear-beta", "cosine"),
    "test_paths_in_every_precision": ("float64",),
    "test_no_component_exceeds_the_bound": ("t",),
    "test_guidance_by_its_formula": ("0",),
    "test_pairs_are_closer_than_at_random": ("kac",),
    "test_cross_entropy_has_its_minimum_at_the_mean_motion": ("False-t", "True-t2", "False-t2"),
    "test_a_killed_run_goes_on_bit_for_bit": ("arrays-2",),
    "test_targets_are_pure_and_traceable": ("grid2d",),
    "test_images_of_any_form_are_the_same_images": ("npz", "whole numbers"),
    "test_tables_of_few_values_are_judged_without_memorization": ("1000",),
    "test_a_flow_map_that_is_right_has_no_error": ("diffusion-lsd", "diffusion-meanflow"),
    "test_a_stopped_training_goes_on_bit_for_bit": ("flow map",),
    "test_errors_and_gradients_are_finite_at_all_times": ("t-lsd", "t2-meanflow"),
    "test_flow_maps_are_drawn_in_any_number_of_steps": ("False",),
    "test_straight_lines_need_no_student": ("diffusion",),
    "test_the_student_is_asked_where_generation_asks_it": ("flow", "diffusion"),
    "test_one_step_reaches_what_is_predicted": ("diffusion", "flow matching", "kac t2 cosine"),
    "test_noise_that_is_too_large_is_said": ("log_density",),
    "test_the_first_fixed_step_avoids_a_velocity_that_is_infinite": ("euler", "rk4"),
    "test_a_gaussian": ("diffusion-32", "cosine-32"),
    "test_numbers_compile_nothing_anew": ("trajectory", "log_density", "interpolate"),
    "test_a_single_step": ("rk4", "ab2"),
    "test_forward_mode_is_reverse_mode": ("rk4",),
    "test_generate_within_shard_map": ("tsit5",),
    "test_traced_times_that_do_not_fit_give_nan": ("times1", "times0"),
    "test_edm_prediction_is_finite_at_both_ends": ("cosine",),
    "test_edm_prediction_on_any_path": ("path0", "path2"),
    "test_euler_on_a_variance_preserving_path_is_ddim": ("cosine",),
    "test_the_target_is_the_derivative_of_the_path": ("cosine",),
    "test_one_datum_is_learned": ("objective0",),
    "test_a_network_learns_its_conditions": ("False",),
    "test_both_ends_keep_their_laws": ("kac by component",),
    "test_labels_stay_and_pairs_are_within_classes": ("coupling1", "coupling2"),
    "test_the_velocity_is_that_of_the_normal_at_rest": ("kac by component",),
    "test_velocity_moves_its_law": ("path0-options0",),
    "test_round_trip_of_networks": ("MLP", "UNet"),
    "test_target_is_the_derivative_of_the_path": ("<lambda>0-t-linear",),
    "test_figures_draw_and_save": ("velocity",),
    "test_batches_depend_on_the_step_alone": ("5-13",),
    "test_micro_batches_equal_the_batch": ("64-bfloat16",),
    "test_what_a_step_minimizes_is_the_public_loss": ("<lambda>-ot-x0", "balanced-independent-x0"),
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the slow cases."""
    for item in items:
        name, _, case = item.name.removesuffix("]").partition("[")
        if any(case == slow or case.startswith(f"{slow}-") for slow in SLOW_CASES.get(name, ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What commands keep of compiled programs stays within the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def x64():
    """Float64 for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def adam():
    """Training with Adam, which does not work under strict promotion: see `tests/training`."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def without_hook(monkeypatch):
    """As users call it: the hook of jaxtyping would refuse some arguments before the library does."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request):
    """Programs are compiled quickly, but in `optimised` modules, where they are the users'.

    So they are on accelerators, whose own compiler is what is tried there.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    optimised = request.node.get_closest_marker("optimised") is not None
    quick = not optimised and jax.default_backend() == "cpu"
    jax.config.update("jax_disable_most_optimizations", quick)
    with pytest.MonkeyPatch.context() as patch:
        if quick:
            compile_quickly(patch)
        yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Compiled programs are given up before they use up the maps that a process may have."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()


@pytest.fixture(scope="module")
def compile_once(tmp_path_factory):
    """Each run makes its program anew, which is compiled only if no run has had it before."""
    chosen = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: jax.config.values[name] for name in chosen}
    for name, value in chosen.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
