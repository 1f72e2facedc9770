from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor

from mriinv import (
    Acquisition,
    CompatibilityError,
    InverseProblem,
    MriinvError,
    Operator,
    Prior,
    Reconstruction,
    Samples,
    Solution,
    make_mask,
    make_operator,
    make_prior,
    make_problem,
    make_solver,
    make_trainer,
    prepare_acquisition,
    psnr,
    simulate_acquisition,
)
from mriinv.compose import WeightFile, find_weights, resolve_device
from mriinv.errors import InputError, SettingsError, UnknownNameError
from mriinv.manifest import Choice, PriorChoice, WeightEntry
from mriinv.registry import Registered, Registry, registry
from mriinv.testing.analytic import DenseOperator
from mriinv_sense.operator import SenseOperator

SHAPE = (48, 40)


@pytest.fixture(scope="module")
def acquisition() -> Acquisition:
    return simulate_acquisition(shape=SHAPE, coils=4)


@pytest.fixture(scope="module")
def problem(acquisition: Acquisition) -> InverseProblem:
    return make_problem(acquisition.undersampled(make_mask("poisson-2d", SHAPE, 3.0, 16)))


@pytest.fixture
def small_prior() -> Prior:
    torch.manual_seed(0)
    return make_prior("deepen", weights="none", widths=(4,), blocks=1)


def test_names_make_a_reconstruction(problem: InverseProblem, acquisition: Acquisition) -> None:
    solution = Reconstruction(solver="cg-sense", device="cpu")(problem)
    assert isinstance(solution, Solution) and solution.converged.all()
    assert solution.image.shape == (1, *SHAPE) and solution.image.dtype == torch.complex64
    assert acquisition.reference is not None
    error = (solution.image.abs() - acquisition.reference.abs()).norm() / acquisition.reference.norm()
    zero_filled = (problem.back_projection().abs() - acquisition.reference.abs()).norm() / acquisition.reference.norm()
    assert error < 0.5 * zero_filled


def test_objects_make_the_same_reconstruction(problem: InverseProblem, small_prior: Prior) -> None:
    solver = make_solver("mm-cg", max_iterations=2, levels=1)
    by_object = Reconstruction(small_prior, solver, device="cpu")(problem)
    direct = solver(problem, small_prior)
    assert torch.equal(by_object.image, direct.image) and by_object.iterations.tolist() == [2]


def test_an_acquisition_goes_through_sense(acquisition: Acquisition) -> None:
    undersampled = acquisition.undersampled(make_mask("random-1d", SHAPE, 2.0, 14))
    reconstruct = Reconstruction(solver="cg-sense", device="cpu")
    assert torch.equal(reconstruct(undersampled).image, reconstruct(make_problem(undersampled)).image)


def test_a_problem_takes_an_operator_or_the_settings_of_a_named_one(acquisition: Acquisition) -> None:
    operator = make_operator("sense", acquisition, kernel_width=5)
    assert isinstance(operator, Operator)
    given, named = make_problem(acquisition, operator), make_problem(acquisition, kernel_width=5)
    assert given.operator is operator
    assert torch.equal(given.operator.coil_maps, named.operator.coil_maps)
    assert not torch.equal(named.operator.coil_maps, make_problem(acquisition).operator.coil_maps)
    with pytest.raises(SettingsError, match="sense has no setting 'kernel'; did you mean 'kernel_width'"):
        make_problem(acquisition, kernel=5)
    with pytest.raises(SettingsError, match="found kernel_width beside an operator, which has its settings"):
        make_problem(acquisition, operator, kernel_width=5)


def test_randomness_comes_from_the_seed(problem: InverseProblem, small_prior: Prior) -> None:
    sampler = make_solver("langevin", samples=2, levels=2, burn_in=2, step_size=0.1, long_run=0)
    reconstruct = Reconstruction(small_prior, sampler, device="cpu")
    first, same, other = (reconstruct(problem, seed=seed) for seed in (5, 5, 6))
    assert isinstance(first, Samples) and isinstance(same, Samples) and isinstance(other, Samples)
    assert torch.equal(first.draws, same.draws) and not torch.equal(first.draws, other.draws)


def test_a_start_and_a_monitor_are_handed_on(problem: InverseProblem) -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    reconstruct = Reconstruction(solver=make_solver("cg-sense", max_iterations=1), device="cpu")
    reconstruct(problem, monitor=lambda iteration, values: seen.append((iteration, dict(values))))
    (entry,) = seen
    assert entry[0] == 1 and entry[1]["residual"] > 0
    exact = Reconstruction(solver="cg-sense", device="cpu")(problem).image
    again = reconstruct(problem, initial=exact).image
    assert float((again - exact).norm() / exact.norm()) < 1e-4
    assert float((reconstruct(problem).image - exact).norm() / exact.norm()) > 1e-2


def test_priors_come_in_evaluation_mode_without_gradients() -> None:
    prior = make_prior("deepen", weights="none", widths=(4,))
    assert not prior.training and not any(parameter.requires_grad for parameter in prior.parameters())


def test_trainers_are_made_by_name() -> None:
    assert make_trainer("maximum-likelihood", steps=7).steps == 7


def test_the_solver_is_that_of_the_priors_first_recipe_unless_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    by_name, by_object = Reconstruction("tv", device="cpu"), Reconstruction(make_prior("tv"), device="cpu")
    assert by_name.solver.name == by_object.solver.name == "fista"
    muse = Reconstruction("muse", device="cpu").solver
    assert muse.name == "mm-cg" and muse.settings.robust is False
    assert Reconstruction("deepen", "mm-cg", device="cpu").solver.settings.robust is True
    modified = Reconstruction("muse", "muse-mm", device="cpu")  # a recipe has both
    assert modified.prior is not None and modified.prior.settings.weight == 0.09
    assert Reconstruction("diffusion", "dps", device="cpu").solver.settings.scale == 6
    assert Reconstruction("deepen", "dps", device="cpu").solver.settings.scale != 6
    recipes = registry().recipes
    untrained = recipes["tv"].model_copy(update={"prior": PriorChoice(name="deepen", weights="none")})
    monkeypatch.setitem(recipes, "deepen-map", untrained.model_copy(update={"solver": Choice(name="mm-cg")}))
    prior, trained = Reconstruction("deepen", "mm-cg", device="cpu").prior, make_prior("deepen")
    assert prior is not None and prior.settings.widths != trained.settings.widths  # its weights too

    class Unregistered(Prior):
        name = "unregistered"

    assert Reconstruction(Unregistered(), device="cpu").solver.name == "mm-cg"


def test_numbers_of_a_problem_become_one_per_image_in_its_precision(problem: InverseProblem) -> None:
    two = InverseProblem(problem.operator, problem.data.expand(2, -1, -1, -1), 0.1, torch.tensor([2.0]).double())
    assert two.noise_std is not None and two.noise_std.tolist() == [pytest.approx(0.1)] * 2
    assert two.scale.tolist() == [2, 2] and two.scale.dtype == two.noise_std.dtype == torch.float32
    assert two.normalised().data.dtype == torch.complex64
    for name in ("noise_std", "scale"):
        with pytest.raises(
            InputError, match=rf"InverseProblem: {name}: found shape \(3,\); expected one number, or \(1,\)"
        ):
            replace(problem, **{name: torch.ones(3)})


# What cannot be combined


def test_names_that_do_not_fit_are_refused_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "load", lambda *arguments: pytest.fail("a class was imported"))
    with pytest.raises(CompatibilityError, match="cannot combine prior 'none' with solver 'langevin'"):
        Reconstruction(solver="langevin")


def test_objects_that_do_not_fit_are_refused_when_they_meet(problem: InverseProblem) -> None:
    class Denoiser(Prior):
        name = "denoiser"
        provides = frozenset({"denoiser"})

        def denoise(self, image: Tensor, noise_level: float | Tensor, *, create_graph: bool = False) -> Tensor:
            return image

    with pytest.raises(CompatibilityError, match="prior 'denoiser' with solver 'mm-cg': it requires energy, gradient"):
        Reconstruction(Denoiser(), "mm-cg", device="cpu")(problem)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_prior("depen"), "unknown prior 'depen'; did you mean deepen"),
        (lambda: make_solver("mmcg"), "unknown solver 'mmcg'; did you mean mm-cg"),
        (lambda: make_trainer("likelihood"), "unknown trainer 'likelihood'; did you mean maximum-likelihood"),
        (lambda: Reconstruction("depen"), "unknown prior 'depen'"),
        (lambda: make_solver("mm-cg", tolerence=1), "mm-cg has no setting 'tolerence'; did you mean 'tolerance'"),
        (lambda: make_prior("deepen", weight=-1), "deepen.weight: found -1; expected greater than 0"),
    ],
)
def test_errors_in_python_are_those_of_the_command_line(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(MriinvError) as caught:
        make()
    assert message in str(caught.value)


# Devices


@pytest.mark.parametrize("device", ["gpu", "", "cuda:", "cuda:-1", "cuda:x", "meta", "cpu:1", "CPU", "cuda:0 "])
def test_devices_that_do_not_exist(device: str) -> None:
    with pytest.raises(SettingsError, match=f"device: found '{device}'; expected auto, cpu, cuda or cuda:<number>"):
        resolve_device(device)


@pytest.mark.parametrize(("device", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("cuda:99", 2)])
def test_devices_that_this_machine_has_not(monkeypatch: pytest.MonkeyPatch, device: str, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(SettingsError, match=f"device: found '{device}'; this machine has {count} CUDA devices"):
        resolve_device(device)


def test_auto_is_the_processor_where_there_is_no_gpu(without_gpu: None) -> None:
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_problem_goes_to_the_device_of_the_reconstruction(problem: InverseProblem) -> None:
    assert resolve_device("auto") == resolve_device("cuda") == torch.zeros(1, device="cuda").device
    start = problem.back_projection()
    on_gpu = Reconstruction(solver="cg-sense", device="cuda")(problem, initial=start).image
    on_cpu = Reconstruction(solver="cg-sense", device="cpu")(problem, initial=start).image
    assert on_gpu.is_cuda and torch.allclose(on_gpu.cpu(), on_cpu, atol=1e-4)


# Weights by name


@pytest.fixture
def catalogued(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two weight files of `deepen` in the catalogue, which need not exist."""
    entries = tuple(
        WeightEntry(
            name=name, file=f"weights/{name}.safetensors", sha256=digit * 64, licence="l", trained_on="t", summary="s"
        )
        for name, digit in (("first", "1"), ("second", "2"))
    )
    original = Registry.find

    def find(self: Registry, kind: str, name: str) -> Registered:
        found = original(self, kind, name)  # type: ignore[arg-type]
        return Registered(found.entry.model_copy(update={"weights": entries}), found.plugin)

    monkeypatch.setattr(Registry, "find", find)


@pytest.mark.usefixtures("catalogued")
@pytest.mark.parametrize(
    ("name", "expected", "digit"), [(None, "first", "1"), ("first", "first", "1"), ("second", "second", "2")]
)
def test_weights_of_the_catalogue(name: str | None, expected: str, digit: str) -> None:
    import mriinv_deepen

    weights = find_weights("deepen", name)
    assert weights is not None and weights.checksum == digit * 64
    assert weights.path == Path(mriinv_deepen.__file__).parent / "weights" / f"{expected}.safetensors"


@pytest.mark.usefixtures("catalogued")
def test_weights_by_path_and_none_at_all(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    assert find_weights("deepen", str(file)) == WeightFile(file)  # whoever opens it says that it is missing
    (tmp_path / "plain").touch()
    assert find_weights("deepen", str(tmp_path / "plain")) == WeightFile(tmp_path / "plain")
    assert find_weights("deepen", "none") is None


@pytest.mark.usefixtures("catalogued")
def test_unknown_weights_list_close_names() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown weights of prior 'deepen' 'frist'; did you mean first\?"):
        find_weights("deepen", "frist")
    with pytest.raises(UnknownNameError, match="known: first, none, second"):
        find_weights("deepen", "%")


def test_an_operator_that_only_python_can_build_says_so() -> None:
    matrix = torch.eye(4, dtype=torch.complex64)
    with pytest.raises(CompatibilityError, match="operator 'dense' cannot be built from an acquisition"):
        DenseOperator.from_acquisition(simulate_acquisition(shape=(16, 16), coils=2))
    operator = DenseOperator(matrix, (2, 2))
    product = (operator @ operator).H.to("meta")
    assert {vars(part)["matrix"].device.type for part in (product.H._outer, product.H._inner)} == {"meta"}
    assert operator.matrix.device.type == "cpu"


def test_a_learned_prior_without_weights_is_refused_unless_asked_for():
    with pytest.raises(
        SettingsError, match=r"prior 'deepinv-denoiser' has no weights: train it \(mriinv train --prior"
    ):
        make_prior("deepinv-denoiser", model="DnCNN")
    untrained = make_prior("deepinv-denoiser", weights="none", model="DnCNN", options={"depth": 2, "nf": 2})
    assert [parameter.requires_grad for parameter in untrained.parameters()] == 4 * [False]
    make_prior("deepinv-denoiser", model="TVDenoiser")  # has nothing to learn


@pytest.mark.parametrize(
    ("prior", "solver", "settings"),
    [
        ("deepen", "mm-cg", {"max_iterations": 3}),
        ("muse", "muse-mm", {"max_iterations": 2}),
        ("cnn-denoiser", "ista", {"max_iterations": 2}),
        ("elder", "end-to-end", {}),
        ("diffusion", "dds", {"steps": 2, "samples": 1}),
    ],
)
def test_double_precision_data_take_single_precision_weights(
    problem: InverseProblem, prior: str, solver: str, settings: dict[str, object]
) -> None:
    maps = problem.operator.exported_maps()["coil_maps"].to(torch.complex128)
    operator = SenseOperator(maps, problem.operator.mask)
    double = InverseProblem(operator, problem.data.to(torch.complex128), problem.noise_std)
    image = make_solver(solver, **settings)(double, make_prior(prior)).image
    assert image.dtype == torch.complex128 and image.isfinite().all()
    if solver != "dds":  # which draws other random numbers
        single = make_solver(solver, **settings)(problem, make_prior(prior)).image
        assert (image - single).norm() < 0.01 * single.norm()


def test_arrays_and_other_objects_are_refused_in_words() -> None:
    """Without the type checks of the other tests."""
    program = """
import torch, mriinv
full = mriinv.simulate_acquisition(shape=(32, 32), coils=4)
mask = torch.ones(1, 32, 32)
mriinv.Acquisition(full.kspace, mask)  # ones instead of True
for attempt in (
    lambda: mriinv.Acquisition(full.kspace.numpy(), mask),
    lambda: mriinv.Acquisition(full.kspace, mask.numpy()),
    lambda: mriinv.Acquisition(full.kspace, 2 * mask),
    lambda: full.undersampled({1: 2}),
    lambda: mriinv.make_problem(full.kspace),
    lambda: mriinv.Reconstruction(None, "cg-sense")(full.kspace),
    lambda: mriinv.Reconstruction(mriinv.Prior, "mm-cg"),
    lambda: mriinv.Reconstruction(None, 3),
    lambda: mriinv.make_prior("deepen").energy(full.kspace[0, 0]),
    lambda: mriinv.make_prior("deepen").energy(full.kspace[0].abs()),
    lambda: mriinv.make_prior(3),
    lambda: mriinv.prepare_acquisition(full, {"coils": 3}),
    lambda: mriinv.prepare_acquisition(full.kspace),
    lambda: mriinv.Acquisition.from_arrays(full.kspace, remarks="hello"),
    lambda: mriinv.Acquisition.from_arrays(full.kspace, header=["a"]),
    lambda: mriinv.Acquisition.from_arrays(full.kspace, geometry=(1, 1)),
    lambda: mriinv.Acquisition(full.kspace.to(torch.complex32), mask),
    lambda: mriinv.make_mask("poisson-2d", 48, 2),
    lambda: mriinv.make_mask("poisson-2d", (48.0, 40.0), 2),
    lambda: mriinv.make_mask("poisson-2d", (48, 40), "4"),
    lambda: mriinv.make_mask("poisson-2d", (48, 40), 4, 8.0),
    lambda: mriinv.simulate_acquisition(shape=48),
    lambda: mriinv.simulate_acquisition(coils=2.5),
    lambda: mriinv.simulate_acquisition(seed="a"),
    lambda: mriinv.Reconstruction(None, "cg-sense", "cpu")(full, seed=1.9),
    lambda: mriinv.make_problem(full, "blur", seed=2**70),
    lambda: mriinv.DenoiserPrior("TVDenoiser"),
    lambda: mriinv.DenoiserPrior(abs, channels=3),
):
    try:
        attempt()
    except mriinv.InputError as error:
        print(error)
"""
    text = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert [line.split(": ", 1)[1] for line in text.splitlines()] == [
        "kspace: found ndarray; expected a torch tensor; Acquisition.from_arrays takes other arrays",
        "mask: found ndarray; expected a torch tensor; Acquisition.from_arrays takes other arrays",
        "mask: found torch.float32 with other values than 0 and 1; expected bool, or 0 and 1",
        "mask: found no array of numbers (Could not infer dtype of dict); expected an array of NumPy or torch",
        "acquisition: found Tensor; expected an Acquisition",
        "problem: found Tensor; expected an InverseProblem or an Acquisition",
        "prior: found the class Prior; expected a name, or an instance of Prior",
        "solver: found int; expected a name, or an instance of Solver",
        "image: found torch.complex64 (32, 32); expected complex (batch, y, x)",
        "image: found torch.float32 (4, 32, 32); expected complex (batch, y, x)",
        "prior: found int; expected a name",
        "preparation: found dict; expected a Preparation",
        "acquisition: found Tensor; expected an Acquisition",
        "remarks: found str; expected a tuple of strings",
        "header: found list; expected a dict of strings",
        "geometry: found tuple; expected a Geometry, or None",
        "kspace: found torch.complex32 (1, 4, 32, 32); expected complex (batch, coil, y, x)",
        "shape: found 48; expected two positive sizes (y, x)",
        "shape: found (48.0, 40.0); expected two positive sizes (y, x)",
        "acceleration: found '4'; expected a number from 1 to 1920, the number of locations",
        "acs: found 8.0; expected 0 to 40, an integer",
        "shape: found 48; expected two sizes (y, x) from 16 on",
        "coils: found 2.5; expected an integer from 1 on",
        "seed: found 'a'; expected an integer from 0 to 2^63 - 1",
        "seed: found 1.9; expected an integer from 0 to 2^63 - 1",
        "seed: found 1180591620717411303424; expected an integer from 0 to 2^63 - 1",
        "denoiser: found str; expected a module or a function",
        "channels: found 3; expected 1 or 2",
    ]


def test_an_acquisition_is_prepared_before_it_is_reconstructed(acquisition: Acquisition) -> None:
    untold = replace(acquisition.undersampled(make_mask("poisson-2d", SHAPE, 3.0, 16)), noise_std=None)
    untold = replace(untold, noise_covariance=torch.diag(torch.tensor([1, 4, 9, 16], dtype=torch.complex64) * 1e-4))
    reconstruct = Reconstruction("tv", "fista", "cpu")
    prepared = reconstruct(make_problem(prepare_acquisition(untold)))
    assert torch.equal(reconstruct(untold).image, prepared.image)
    assert not torch.equal(reconstruct(make_problem(untold)).image, prepared.image)


def test_what_there_is_to_say_of_data_and_operator_is_in_the_solution() -> None:
    scan = simulate_acquisition(shape=SHAPE, coils=4, coil_maps=True)
    assert scan.coil_maps is not None
    brighter = replace(scan, coil_maps=10 * scan.coil_maps, remarks=("from a file",))
    reconstruct = Reconstruction(None, "cg-sense", "cpu")
    first, second = reconstruct(brighter).notes
    assert first == "from a file" and "were divided by 10" in second
    assert reconstruct(make_problem(brighter)).notes == (second,)


@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_noise_far_above_that_of_the_training_is_mentioned(acquisition: Acquisition, noise: float) -> None:
    scale = float(make_problem(acquisition).scale)
    noisy = make_problem(replace(acquisition, noise_std=noise * scale))
    notes = Reconstruction("deepen", make_solver("mm-cg", max_iterations=1), "cpu")(noisy).notes
    assert any("4.3 times that of the training of prior 'deepen'" in note for note in notes) == (noise > 0.02)


def test_noisy_data_are_reconstructed() -> None:
    """At ten times the noise of the training the energy once lost to the noise (12 dB)."""
    clean = simulate_acquisition(shape=(96, 80), noise_std=0.0, coil_maps=True, seed=1)
    scale = float(make_problem(clean).scale)
    noisy = simulate_acquisition(shape=(96, 80), noise_std=0.07 * scale, coil_maps=True, seed=1)
    problem = make_problem(noisy.undersampled(make_mask("poisson-2d", (96, 80), 4, 16)))
    reference = problem.operator.fully_sampled_image(clean.kspace)
    assert reference is not None
    found = {prior: Reconstruction(prior, device="cpu")(problem).image for prior in ("deepen", "modl")}
    levels = {name: float(psnr(image, reference, problem.operator.support)) for name, image in found.items()}
    assert levels["deepen"] > 24 and levels["modl"] > 22, levels


@pytest.mark.parametrize(
    ("prior", "solver", "settings"),
    [("muse", "muse-mm", {"max_iterations": 2}), ("diffusion", "dps", {"steps": 3, "samples": 1})],
)
def test_parts_that_were_made_in_inference_mode_work(prior: str, solver: str, settings: dict[str, Any]) -> None:
    """These two differentiate through the network, the latter through the operator as well."""
    found = []
    for mode in (False, True):
        with torch.inference_mode(mode):
            scan = simulate_acquisition(shape=(32, 32), seed=1, coils=4)
            reconstruct = Reconstruction(prior, make_solver(solver, **settings), "cpu")
            found.append(reconstruct(scan).image.clone())
    assert torch.equal(*found)


def test_what_holds_tensors_is_one_line(problem: InverseProblem, acquisition: Acquisition) -> None:
    solution = make_solver("cg-sense")(problem)
    for one in (problem, acquisition, solution):
        assert "\n" not in repr(one) and len(repr(one)) < 150
    assert repr(solution).startswith("Solution(image complex64 (1, 48, 40), converged [True]")


def test_an_acquisition_is_reconstructed_through_the_operator_that_is_named() -> None:
    full = simulate_acquisition(shape=(32, 24), coils=4)
    blurred = Reconstruction(solver="cg-sense", device="cpu", operator="blur")(full)
    expected = Reconstruction(solver="cg-sense", device="cpu")(make_problem(prepare_acquisition(full), "blur"))
    assert torch.equal(blurred.image, expected.image)
    again = Reconstruction(solver="cg-sense", device="cpu", operator="blur")(full, seed=1)
    assert not torch.equal(blurred.image, again.image)  # other noise


def test_a_class_in_place_of_an_operator_is_refused() -> None:
    with pytest.raises(InputError, match="operator: found the class SenseOperator; expected a name, or an instance of"):
        make_problem(simulate_acquisition(shape=(16, 16), coils=2), SenseOperator)


def test_a_device_may_be_one_of_torch() -> None:
    assert Reconstruction("tv", device=torch.device("cpu")).device == torch.device("cpu")


def test_noise_that_nobody_told_is_estimated(acquisition: Acquisition) -> None:
    assert acquisition.noise_std is not None
    untold = make_problem(replace(acquisition, noise_std=None)).noise_std
    assert untold is not None and untold.item() == pytest.approx(acquisition.noise_std, rel=0.5)


def test_solvers_say_that_they_want_a_problem(acquisition: Acquisition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match="cg-sense: problem: found Acquisition; expected an InverseProblem"):
        make_solver("cg-sense")(acquisition)


def test_seeds_of_numpy_are_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    seed = np.arange(5)[3]
    full = simulate_acquisition(shape=SHAPE, coils=2, seed=seed)
    assert torch.equal(full.kspace, simulate_acquisition(shape=SHAPE, coils=2, seed=3).kspace)
    assert torch.equal(make_mask("poisson-2d", SHAPE, 3, seed=seed), make_mask("poisson-2d", SHAPE, 3, seed=3))
    Reconstruction(solver="zero-filled", device="cpu")(make_problem(full), seed=seed)
