from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import model_validator

from mriinv import ComponentSettings, InputError, MriinvError, make_solver, setting
from mriinv.config import RunConfig, build_config, build_train_config
from mriinv.core.component import validated
from mriinv.errors import SettingsError, UnknownNameError
from mriinv.manifest import Choice, load_yaml, parse_yaml

SCAN = {"input": [Path("scan.h5")]}


def run_file(folder: Path, content: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def nested_aliases(field: str) -> str:
    """Return YAML of two kilobytes whose value, written out, would have 2^60 entries."""
    levels = [f"&l{level} [*l{level - 1}, *l{level - 1}]" for level in range(1, 60)]
    return f"{field}: [&l0 [1, 1], {', '.join(levels)}]"


def config(*assignments: str, recipe: str | None = None, file: Path | None = None, **options: Any) -> RunConfig:
    return build_config(recipe, file, options, assignments)


# What wins


def test_the_default_is_deepen_map() -> None:
    found = config()
    assert found.prior and (found.prior.name, found.solver.name, found.operator.name) == ("deepen", "mm-cg", "sense")
    assert found.prior.settings == found.solver.settings == {} and found.prior.weights is None


def test_precedence_is_recipe_then_file_then_options_then_assignments(tmp_path: Path) -> None:
    content = {
        "solver": {"name": "mm-cg", "settings": {"tolerance": 1e-3, "max_iterations": 7}},
        "mask": {"name": "random-1d", "acceleration": 5, "seed": 2},
        "seed": 4,
        "out": "from-file",
    }
    file = run_file(tmp_path, content)
    alone = config(recipe="deepen-map", file=file)
    assert (alone.seed, alone.out, alone.solver.settings) == (
        4,
        Path("from-file"),
        {"tolerance": 1e-3, "max_iterations": 7},
    )
    assert alone.prior and alone.prior.name == "deepen"  # from the recipe
    with_options = config(recipe="deepen-map", file=file, seed=5, mask={"acceleration": 3.0})
    assert (with_options.seed, with_options.out) == (5, Path("from-file"))
    assert with_options.mask and with_options.mask.model_dump() == {
        "name": "random-1d",
        "acceleration": 3.0,
        "acs": None,
        "seed": 2,
    }
    assigned = config(
        "solver.max_iterations=9", "mask.acceleration=2.5", recipe="deepen-map", file=file, mask={"acceleration": 3.0}
    )
    assert assigned.solver.settings == {"tolerance": 1e-3, "max_iterations": 9}
    assert assigned.mask and assigned.mask.acceleration == 2.5


def test_later_assignments_win() -> None:
    assert config("mask.seed=1", "mask.seed=2").mask.seed == 2


def test_a_recipe_may_be_named_in_the_file_and_replaced_on_the_command_line(tmp_path: Path) -> None:
    file = run_file(tmp_path, {"recipe": "cg-sense", "seed": 3})
    assert config(file=file).solver.name == "cg-sense" and config(file=file).prior is None
    other = config(recipe="deepen-posterior", file=file)
    assert (other.solver.name, other.seed) == ("preconditioned-langevin", 3)


def test_a_recipe_on_the_command_line_takes_the_place_of_the_combination_in_the_file(tmp_path: Path) -> None:
    tuned = {"prior": {"name": "tv", "settings": {"weight": 0.1}}, "solver": "fista", "operator": "sense", "seed": 3}
    other = config(recipe="l1-wavelet", file=run_file(tmp_path, tuned))
    assert other.prior and other.prior.name == "l1-wavelet" and other.prior.settings == {} and other.seed == 3
    same = config(recipe="tv", file=run_file(tmp_path, tuned)).prior
    assert same and same.settings == {"weight": 0.1}


def test_settings_of_one_component_add_up_over_the_sources(tmp_path: Path) -> None:
    file = run_file(tmp_path, {"prior": {"name": "deepen", "settings": {"weight": 2.0}}, "solver": "mm-cg"})
    options = {"prior": {"name": "deepen", "weights": "none", "settings": {"blocks": 1}}}
    found = config("prior.unshuffle=1", file=file, **options).prior
    assert found and found.settings == {"weight": 2.0, "blocks": 1, "unshuffle": 1} and found.weights == "none"


def test_another_component_drops_the_settings_of_the_former(tmp_path: Path) -> None:
    content = {
        "prior": {"name": "deepen", "weights": "some", "settings": {"weight": 2.0}},
        "solver": {"name": "mm-cg", "settings": {"max_iterations": 7}},
        "mask": {"name": "random-1d", "acceleration": 6},
    }
    file = run_file(tmp_path, content)
    found = config(file=file, prior="other", solver="langevin", mask={"name": "poisson-2d"})
    assert found.prior and found.prior.model_dump() == {"name": "other", "settings": {}, "weights": None}
    assert found.solver.settings == {} and found.mask and found.mask.acceleration == 4.0
    kept = config(file=file, prior="deepen", solver="mm-cg", mask={"name": "random-1d"})
    assert kept.prior and kept.prior.settings == {"weight": 2.0} and kept.prior.weights == "some"
    assert kept.solver.settings == {"max_iterations": 7} and kept.mask and kept.mask.acceleration == 6


def test_weights_go_to_the_prior_of_the_recipe() -> None:
    found = config(prior={"weights": "none"}).prior
    assert found and (found.name, found.weights) == ("deepen", "none")


def test_a_solver_by_itself_brings_no_prior(tmp_path: Path) -> None:
    assert config(solver="langevin").prior is None
    assert config(file=run_file(tmp_path, "solver: langevin")).prior is None
    assert config(prior="deepen").solver.name == "mm-cg"


@pytest.mark.parametrize(
    ("prior", "solver"),
    [
        ("tv", Choice(name="fista")),
        ("mriinv:elder", Choice(name="end-to-end")),
        ("muse", Choice(name="mm-cg", settings={"robust": False})),
        ("deepinv-denoiser", Choice(name="mm-cg")),  # no recipe has it
        ("not-a-prior", Choice(name="mm-cg")),  # refused later, by name
    ],
)
def test_a_prior_by_itself_brings_the_solver_of_its_first_recipe(tmp_path: Path, prior: str, solver: Choice) -> None:
    assert config(prior=prior).solver == config(file=run_file(tmp_path, {"prior": prior})).solver == solver
    assert config(prior=prior, recipe="deepen-posterior").solver.name == "preconditioned-langevin"
    assert config("solver.max_iterations=3", prior=prior).solver.settings == {**solver.settings, "max_iterations": 3}


def test_a_prior_and_a_solver_that_a_recipe_combines_have_its_settings(tmp_path: Path) -> None:
    given = {"prior": "diffusion", "solver": "dps"}
    named = [config(**given), config(file=run_file(tmp_path, given)), config(recipe="dps")]
    assert [one.solver.settings for one in named] == [{"scale": 6.0}] * 3
    assert config("solver.scale=1", **given).solver.settings == {"scale": 1}
    assert config(prior="deepen", solver="dps").solver.settings == {}


def test_recipes_are_not_changed_by_use() -> None:
    config("solver.max_iterations=1", "prior.weight=3", recipe="deepen-map")
    assert config(recipe="deepen-map").solver.settings == {}


# The mask of the simulated scan


def test_only_the_simulated_scan_has_a_mask_by_default(tmp_path: Path) -> None:
    simulated = config().mask
    assert simulated and (simulated.name, simulated.acceleration) == ("poisson-2d", 4.0)
    assert config(**SCAN).mask is None
    assert config(file=run_file(tmp_path, {"input": "scan.h5", "recipe": "cg-sense"})).mask is None
    assert config(file=run_file(tmp_path, {"input": [], "recipe": "cg-sense"})).mask == simulated


def test_the_default_mask_can_be_changed_and_left_out(tmp_path: Path) -> None:
    assert config("mask.acceleration=3").mask.acceleration == 3
    assert config(mask={"acs": 0}).mask.acs == 0
    assert config(mask={"name": "random-1d"}).mask.name == "random-1d"
    assert config(file=run_file(tmp_path, "mask:\nrecipe: cg-sense")).mask is None


def test_a_name_stands_for_a_mask_and_one_path_for_inputs(tmp_path: Path) -> None:
    found = config(file=run_file(tmp_path, {"mask": "random-1d", "input": "a.h5", "recipe": "cg-sense"}))
    assert found.mask and found.mask.name == "random-1d" and found.input == (Path("a.h5"),)


def test_a_mask_may_be_said_in_short(tmp_path: Path) -> None:
    file = run_file(tmp_path, {"mask": {"name": "poisson-2d", "acceleration": 6, "acs": 8}, "solver": "cg-sense"})
    for mask in (config(file=file, mask={"name": "random-1d:2.5"}).mask, config("mask.name='random-1d:2.5'").mask):
        assert mask and (mask.name, mask.acceleration, mask.acs) == ("random-1d", 2.5, None)
    for bad, message in (("random-1d:fast", "mask.acceleration: found 'fast'"), ("random-1d:1", "greater than 1")):
        with pytest.raises(SettingsError, match=message):
            config(mask={"name": bad})
    with pytest.raises(SettingsError, match="random-1d:2 has its acceleration, and another one is given"):
        config(mask={"name": "random-1d:2", "acceleration": 3})


def test_a_run_file_may_say_one_slice_as_a_number(tmp_path: Path) -> None:
    assert config(file=run_file(tmp_path, {"slices": 3})).slices == "3"
    assert config(file=run_file(tmp_path, "slices: 3:5")).slices == "3:5"  # 185 in YAML 1.1


# Values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-6", 1e-6),
        ("3:5", "3:5"),
        ("010", "010"),
        ("0x1f", 31),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("a=b", "a=b"),
        ("", None),
    ],
)
def test_assigned_values_are_yaml(text: str, value: Any) -> None:
    assert config(f"solver.x={text}").solver.settings == {"x": value}


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["solver.max_iterations"], "expected <part>.<setting>=<value>, part one of operator, prior, solver, mask"),
        (["max_iterations=3"], "expected <part>.<setting>=<value>"),
        (["trainer.steps=3"], "part one of operator, prior, solver, mask"),
        (["=3"], "expected <part>.<setting>=<value>"),
        (["solver.x=["], "--set solver.x=["),
        (["solver.x=!!python/object/apply:os.system [true]"], "could not determine a constructor"),
        (["solver.x=2021-13-45"], "month must be in 1..12"),
        (["solver.x=!!timestamp never"], "valid YAML"),
        (["mask.acceleration=fast"], "mask.acceleration: found 'fast'; expected a valid number"),
        (["mask.acceleration=1"], "mask.acceleration: found 1; expected greater than 1"),
        (["mask.acceleration=nan"], "mask.acceleration: found 'nan'"),
        (["mask.acceleration=.nan"], "mask.acceleration: found nan"),
        (["mask.acs=-1"], "mask.acs: found -1"),
        (["mask.acelleration=3"], "mask has no setting 'acelleration'; did you mean 'acceleration'?"),
        (["mask.seed=99999999999999999999"], "mask.seed: found 99999999999999999999"),
    ],
)
def test_bad_assignments(assignments: list[str], message: str) -> None:
    with pytest.raises(MriinvError) as caught:
        config(*assignments)
    assert message in str(caught.value)


def test_an_assignment_needs_something_to_assign_to() -> None:
    with pytest.raises(SettingsError, match=r"--set prior\.weight=2: there is no prior in this run"):
        config("prior.weight=2", recipe="cg-sense")
    with pytest.raises(SettingsError, match="there is no mask in this run"):
        config("mask.seed=2", **SCAN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slices": "a"}, "slices: found 'a'"),
        ({"slices": "1:2:3"}, "slices: found '1:2:3'"),
        ({"slices": "-1"}, "slices: found '-1'"),
        ({"slices": "9999999999"}, "slices: found '9999999999'"),
        ({"seed": -1}, "seed: found -1"),
        ({"seed": 2**63}, "seed: found 9223372036854775808"),
        ({"mask": {"acceleration": 4.0}, **SCAN}, "--acceleration needs --mask"),
        (
            {"prior": {"weights": "none"}, "solver": "mm-cg"},
            "prior: found weights without a name; name one with --prior",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        config(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sede": 3}, "the configuration has no setting 'sede'; did you mean 'seed'?"),
        ({"solver": {"name": "mm-cg", "setings": {}}}, "solver has no setting 'setings'; did you mean 'settings'?"),
        ({"prior": {"name": "deepen", "wieghts": "x"}}, "prior has no setting 'wieghts'; did you mean 'weights'?"),
        ({"mask": {"name": "random-1d", "sed": 1}}, "mask has no setting 'sed'; did you mean 'seed'?"),
        ({"qqq": 3}, "the configuration has no setting 'qqq'; it has: operator, prior, solver, input, out"),
        ({"prior": 3}, "run.yaml: prior: found 3; expected a mapping, or a name"),
        ({"solver": ["mm-cg"]}, "run.yaml: solver: found ['mm-cg']; expected a mapping, or a name"),
        ({"mask": True}, "run.yaml: mask: found True; expected a mapping, or a name"),
        ({"solver": {"name": "mm-cg", "settings": 3}}, "run.yaml: solver.settings: found 3; expected a mapping"),
        ({"solver": {"name": "mm-cg", "settings": {1: 2}}}, "solver.settings.1"),
        ({"solver": {"name": 3}}, "run.yaml: solver.name: found 3; expected a name"),
        ({"prior": {1: 2}}, "run.yaml: prior: found {1: 2}; expected a mapping of fields by name"),
        ({"data": 5}, "run.yaml: data: found 5; expected a mapping"),
        ({"loop": {"clip": 1}}, "the configuration has no setting 'loop'"),
        ({"input": 3}, "input: found 3"),
        ({"slices": True}, "slices: found True; expected one slice, such as 3, or the first and the one after"),
        ({"slices": 3.5}, "slices: found 3.5; expected one slice"),
        ({"mask": {"acceleration": 3}, "input": "scan.h5"}, "mask.name: found nothing; expected a value"),
        ({"solver": {"name": "mm-cg", "weights": "x"}}, "solver has no setting 'weights'"),
        ({1: 2}, "1: found"),
        ("[1, 2]", "run.yaml: found list; expected a mapping of fields"),
        ({"recipe": ["tv"]}, "run.yaml: recipe: found ['tv']; expected a name"),
        (nested_aliases("slices"), "[[...], [...]], ...]; expected one slice"),
        (nested_aliases("recipe"), "[[...], [...]], ...]; expected a name"),
        (f"seed: 0x{'f' * 5000}", "run.yaml: found an integer of 20000 bits, more than 1024; expected valid YAML"),
        ("solver: [", "expected valid YAML"),
        ("a: !!python/name:os.system", "expected valid YAML"),
    ],
)
def test_bad_run_files_name_the_nearest_field(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(MriinvError) as caught:
        config(file=run_file(tmp_path, content))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_recipes_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown recipe 'deepen-mp'; did you mean deepen-map"):
        config(recipe="deepen-mp")
    with pytest.raises(UnknownNameError, match="unknown recipe '3'"):
        config(file=run_file(tmp_path, {"recipe": 3}))
    with pytest.raises(InputError, match="No such file"):
        config(file=tmp_path / "missing.yaml")


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        config("mask.acceleration=0", "mask.acs=-3", "preparation.coils=0", seed=-1)
    assert str(caught.value).count("; expected greater than ") == 4


# Trainings


def test_a_training_is_merged_in_the_same_order(tmp_path: Path) -> None:
    content = {"prior": "deepen", "out": "x", "data": {"coils": 5, "noise_std": 0.01}, "trainer": "maximum-likelihood"}
    file = run_file(tmp_path, content)
    options = {"out": Path("y"), "seed": None, "data": {"heads": Path("h")}, "validation": {"scans": (Path("s"),)}}
    found = build_train_config(file, options, ["data.coils=4", "trainer.steps=9"])
    assert (found.out, found.data.coils, found.data.noise_std, found.data.heads) == (Path("y"), 4, 0.01, Path("h"))
    assert found.trainer.settings == {"steps": 9} and found.validation.scans == (Path("s"),)
    assert found.operator.name == "sense"


def test_a_prior_is_trained_by_the_trainer_that_the_catalogue_names(tmp_path: Path) -> None:
    found = build_train_config(None, {"prior": "muse", "out": "x"}, ["trainer.steps=9"])
    assert found.trainer.name == "denoising"
    assert found.trainer.settings == {"levels": [0.0, 0.1], "spacing": "uniform", "relative": False, "steps": 9}
    assert build_train_config(None, {"prior": "deepen", "out": "x"}, []).trainer.name == "maximum-likelihood"
    other = build_train_config(None, {"prior": "muse", "out": "x", "trainer": "maximum-likelihood"}, [])
    assert (other.trainer.name, other.trainer.settings) == ("maximum-likelihood", {})


@pytest.mark.parametrize(
    ("content", "assignments", "message"),
    [
        ({"prior": "deepen", "out": "x", "data": {"coil": 5}}, [], "data has no setting 'coil'; did you mean 'coils'?"),
        ({"prior": "deepen", "out": "x", "data": 3}, [], "data: found 3; expected a mapping"),
        ({"prior": "deepen", "out": "x", "mask": 3}, [], "mask: found 3; expected a mapping"),
        ({"prior": "deepen", "out": "x"}, ["validation.evry=5"], "validation has no setting 'evry'; did you mean"),
        ({"prior": "deepen", "out": "x"}, ["solver.x=5"], "part one of operator, prior, trainer, data, validation"),
        ({"prior": "deepen"}, [], "out: found nothing; expected a value"),
        ({"out": "x"}, [], "prior: found nothing; expected a value"),
        ({"prior": "deepen", "out": "x", "trainer": {"name": "t", "weights": "x"}}, [], "trainer has no setting"),
    ],
)
def test_bad_trainings(tmp_path: Path, content: Any, assignments: list[str], message: str) -> None:
    with pytest.raises(MriinvError) as caught:
        build_train_config(run_file(tmp_path, content), {"data": {"heads": Path("h")}}, assignments)
    assert message in str(caught.value)


# Settings of components


class Levels(ComponentSettings):
    low: float = setting(0.1, "lowest level", gt=0)
    form: Literal["a", "b"] = setting("a", "which form")

    @model_validator(mode="after")
    def check(self) -> Levels:
        if self.low > 1:
            raise ValueError("the lowest level is above the highest")
        return self


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lwo": 1}, "x has no setting 'lwo'; did you mean 'low'?"),
        ({"zzz": 1}, "x has no setting 'zzz'; it has: low, form"),
        ({"low": 0}, "x.low: found 0; expected greater than 0"),
        ({"form": "c"}, "x.form: found 'c'; expected 'a' or 'b'"),
        ({"low": "z" * 1000}, "x.low: found 'zzz"),
        ({"low": 2}, "x: found {'low': 2}; the lowest level is above the highest"),
    ],
)
def test_bad_settings_of_a_component(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        validated(Levels, values, "x")
    assert message in str(caught.value) and len(str(caught.value)) < 300


def test_assignments_reach_into_settings_that_are_mappings() -> None:
    assignments = ["trainer.chain.step=0.6", "trainer.chain.epsilon=0.02", "trainer.steps=5"]
    found = build_train_config(None, {"out": Path("x"), "prior": "deepen"}, assignments)
    assert found.trainer.settings == {"chain": {"step": 0.6, "epsilon": 0.02}, "steps": 5}


@pytest.mark.parametrize("text", ["seed: 1\nseed: 2\n", "solver: {name: tv, name: tv}\n", "'': 1\n'': 2\n"])
def test_a_key_stands_once(text: str) -> None:
    with pytest.raises(InputError, match=r"run\.yaml: found the key '(seed|name|)' twice"):
        parse_yaml(text, "run.yaml")


def test_numbers_are_finite() -> None:
    with pytest.raises(SettingsError, match=r"cg-sense\.tolerance: found inf; expected a finite number"):
        make_solver("cg-sense", tolerance=float("inf"))


def test_a_pipe_is_no_run_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.yaml")
    with pytest.raises(InputError, match=r"run\.yaml: found a pipe or a device; expected a readable YAML file"):
        load_yaml(tmp_path / "run.yaml")
