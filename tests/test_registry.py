from __future__ import annotations

import ast
import inspect
import logging
import re
import sys
import textwrap
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest

import mriinv
from mriinv import CompatibilityError, InputError, MriinvError, hookspecs
from mriinv.compose import WeightFile, find_weights
from mriinv.core.capabilities import CAPABILITIES, Derivation, derive, match
from mriinv.discovery import GROUP, own_catalogue
from mriinv.errors import PluginError, UnknownNameError
from mriinv.manifest import KINDS, MAX_BYTES, ComponentEntry, load_manifest
from mriinv.registry import Registry, registry

ROOT = Path(__file__).resolve().parents[1]
CATALOGUE = load_manifest(own_catalogue())
HOOKS = [name for name, value in vars(hookspecs).items() if hasattr(value, "mriinv_spec")]
PACKAGES = {path.parent.name for path in ROOT.glob("plugins/*/__init__.py")}

ENERGY, GRADIENT = Derivation("energy", "gradient", "autograd"), Derivation("denoiser", "score", "Tweedie")


class Site:
    """A folder of distributions that are installed without any installer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.packages: set[str] = set()

    def add(self, distribution: str, files: dict[str, str], module: str) -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        information = self.folder / f"{distribution.replace('-', '_')}-2.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.0\n")
        (information / "entry_points.txt").write_text(f"[{GROUP}]\n{distribution}-entry = {module}\n")
        self.packages.add(module.partition(".")[0])

    def registry(self) -> Registry:
        """The registry of what is in this folder, and of nothing else."""
        points = [p for d in distributions(path=[str(self.folder)]) for p in d.entry_points.select(group=GROUP)]
        return Registry(points)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Site(tmp_path)
    yield made
    for module in [name for name in sys.modules if name.partition(".")[0] in made.packages]:
        del sys.modules[module]


def hook(components: dict[str, str] | str, *, readers: str = "") -> str:
    """The source of a plug-in."""
    source = f"""
from mriinv import hookimpl

@hookimpl
def mriinv_components():
    return {components}
"""
    return source + (f"\n@hookimpl\ndef mriinv_readers():\n    {readers}\n" if readers else "")


def solver(name: str, target: str, requires: str = "[]") -> str:
    return f"components: [{{kind: solver, name: {name}, target: '{target}', summary: s, requires: {requires}}}]\n"


def entries(kind: str) -> list[ComponentEntry]:
    return [entry for entry in CATALOGUE.components if entry.kind == kind]


# The catalogue, the hooks and the classes say the same


def test_hooks_offer_exactly_what_the_catalogue_says() -> None:
    found = Registry()
    built_in = [plugin for plugin in found.plugins if plugin.builtin]
    offered = {key: target for plugin in built_in for key, target in found.activate(plugin).items()}
    assert offered == {f"{entry.kind}:{entry.name}": entry.target for entry in CATALOGUE.components}
    assert sorted(offered) == sorted(key for plugin in built_in for key in plugin.components)


@pytest.mark.parametrize("entry", CATALOGUE.components, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_classes_are_what_the_catalogue_says(entry: ComponentEntry) -> None:
    cls = registry().load(entry.kind, entry.name)
    assert (cls.kind, cls.name) == (entry.kind, entry.name)
    assert set(entry.provides) == set(getattr(cls, "provides", ()))
    assert [set(one) for one in entry.requires] == [set(one) for one in getattr(cls, "requires", ())]
    assert inspect.getdoc(cls) and entry.summary and not inspect.isabstract(cls)


@pytest.mark.parametrize("name", CATALOGUE.recipes)
def test_recipes_name_components_and_settings_that_exist(name: str) -> None:
    recipe = registry().recipe(name)
    registry().match(recipe.prior.name if recipe.prior else None, recipe.solver.name)
    for kind in ("operator", "prior", "solver"):
        choice = getattr(recipe, kind)
        if choice is not None:
            registry().load(kind, choice.name).parse_settings(choice.settings)


def test_every_package_in_the_checkout_is_a_plugin() -> None:
    assert {plugin.module for plugin in registry().plugins if plugin.builtin} == PACKAGES


def test_settings_are_described() -> None:
    for entry in CATALOGUE.components:
        for name, field in registry().load(entry.kind, entry.name).Settings.model_fields.items():
            assert field.description, f"{entry.kind} {entry.name}: setting {name} has no description"


# Plug-ins use public names only


def private_uses(source: str, package: str) -> list[str]:
    """What a module of `package` imports beyond public names of mriinv, its own package and third parties."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for name in (alias.name for alias in node.names):
                top = name.partition(".")[0]
                if name.startswith("mriinv.") or (top in PACKAGES and top != package):
                    found.append(name)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            top = str(node.module).partition(".")[0]
            if node.module == "mriinv":
                found += [f"mriinv.{alias.name}" for alias in node.names if alias.name not in mriinv.__all__]
            elif top == "mriinv" or (top in PACKAGES and top != package):
                found.append(str(node.module))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mriinv":
            found += [f"mriinv.{node.attr}"] if node.attr not in mriinv.__all__ else []
    return found


@pytest.mark.parametrize("path", sorted(ROOT.glob("plugins/*/**/*.py")), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_plugins_import_public_names_only(path: Path) -> None:
    package = path.relative_to(ROOT / "plugins").parts[0]
    assert private_uses(path.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize(
    "source",
    [
        "from mriinv.core.prior import Prior",
        "from mriinv import registry",
        "import mriinv.compose",
        "import mriinv\nmriinv.compose.make_prior('deepen')",
        "from mriinv_sense.operator import SenseOperator",
        "import mriinv_sense",
        "def f():\n    from mriinv.numerics import fft",
    ],
)
def test_private_imports_are_noticed(source: str) -> None:
    assert private_uses(source, "mriinv_mmcg")


@pytest.mark.parametrize(
    "source", ["from mriinv import Prior, hookimpl", "import mriinv\nmriinv.Prior", "import torch", "from . import x"]
)
def test_public_imports_are_allowed(source: str) -> None:
    assert private_uses(source, "mriinv_mmcg") == []


def test_every_public_name_exists() -> None:
    assert set(dir(mriinv)) == set(mriinv.__all__)
    tree = ast.parse(Path(mriinv.__file__).read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {f"{node.module}.{name.name}" for node in typed.body for name in node.names if name.asname == name.name}
    assert seen == {f"mriinv.{module}.{name}" for name, module in mriinv._HOME.items()}
    for name in mriinv.__all__:
        assert getattr(mriinv, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mriinv.nothing


# Hooks


@pytest.mark.parametrize("name", HOOKS)
def test_hooks_are_documented_and_implemented(name: str) -> None:
    assert inspect.getdoc(getattr(hookspecs, name))
    sources = [*ROOT.glob("plugins/*/__init__.py"), *ROOT.glob("tests/third_party/*/*/__init__.py")]
    assert any(f"def {name}(" in path.read_text() for path in sources)


def test_there_are_hooks() -> None:
    assert {"mriinv_components", "mriinv_readers"} <= set(HOOKS)


# Manifests

WITH_WEIGHTS = (
    "components: [{{kind: prior, name: p, target: 'm:P', summary: s, weights: [{{name: w, file: w, sha256: '"
    + "0" * 64
    + "', licence: l, trained_on: t, summary: s, fft: {}}}]}}]"
)


@pytest.mark.parametrize(
    ("text", "field", "found", "expected"),
    [
        ("components: [", "", "while parsing", "valid YAML"),
        ("[1, 2]", "", "list", "a mapping with components, recipes"),
        ("compnents: []", "compnents", "an unknown field", "'components'"),
        (solver("a", "m:C")[:-3] + ", require: 1}]", "components.0.require", "an unknown field", "'requires'"),
        (solver("a", "m:C", "[[enrgy]]"), "components.0.requires.0.0", "'enrgy'", "one of denoiser, energy, gradient"),
        (solver("Big Name", "m:C"), "components.0.name", "'Big Name'", "pattern"),
        (solver("a", "m.C"), "components.0.target", "'m.C'", "pattern"),
        ("components: [{kind: sampler}]", "components.0.kind", "'sampler'", "'operator', 'prior', 'solver'"),
        ("components: [{kind: solver, name: a}]", "components.0.target", "nothing", "a value"),
        (WITH_WEIGHTS.format("uncentred"), "weights.0.fft", "'uncentred'", "'centred, orthonormal'"),
        ("recipes: {a: {summary: s, solver: {name: x, setings: {}}}}", "setings", "an unknown field", "'settings'"),
        ("components: !!python/object/apply:os.system ['true']", "", "could not determine a constructor", "valid YAML"),
        ("a: !!python/name:os.system", "", "could not determine a constructor", "valid YAML"),
        ("a: !!timestamp x", "", "NoneType", "valid YAML"),
        ("a: 2021-13-45", "", "month must be in 1..12", "valid YAML"),
        ("[" * 200_000, "", "recursion", "valid YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "a", "an unknown field", "one of components, recipes"),
        ("#" * (MAX_BYTES + 1), "", f"{MAX_BYTES + 1} bytes", f"at most {MAX_BYTES}"),
    ],
    ids=lambda value: re.sub(r"\W+", " ", value)[:25] if isinstance(value, str) else None,
)
def test_manifest_errors_name_file_field_found_and_expected(
    tmp_path: Path, text: str, field: str, found: str, expected: str
) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_manifest(path)
    error = caught.value
    assert error.source == str(path) and error.field.endswith(field)
    assert found in error.found and expected in error.expected
    assert len(str(error)) < 500 + len(str(path))


def test_manifest_errors_of_files(tmp_path: Path) -> None:
    for path, found in ((tmp_path / "missing.yaml", "No such file"), (tmp_path, "directory")):
        with pytest.raises(InputError, match=found):
            load_manifest(path)
    (tmp_path / "latin.yaml").write_bytes("summary: ü".encode("latin-1"))
    with pytest.raises(InputError, match="expected UTF-8"):
        load_manifest(tmp_path / "latin.yaml")


def test_an_empty_manifest_offers_nothing(tmp_path: Path) -> None:
    (tmp_path / "registry.yaml").write_text("# nothing yet\n")
    assert load_manifest(tmp_path / "registry.yaml").components == ()


# Names


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_names_list_close_ones(kind: str) -> None:
    for entry in entries(kind):
        with pytest.raises(UnknownNameError, match=f"unknown {kind} '{entry.name}x'; did you mean .*{entry.name}"):
            registry().find(kind, f"{entry.name}x")
    with pytest.raises(UnknownNameError, match=rf"unknown {kind} '§'; known: .*{entries(kind)[0].name}"):
        registry().find(kind, "§")


def test_unknown_recipes_and_distributions_list_close_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean .*deepen-map"):
        registry().recipe("deepen-mpa")
    with pytest.raises(UnknownNameError, match="unknown solver 'nobody:mm-cg'"):
        registry().find("solver", "nobody:mm-cg")


def test_a_name_that_several_things_have_is_listed_once() -> None:
    assert str(UnknownNameError("thing", "x", ["one", "two", "one"])) == "unknown thing 'x'; known: one, two"


def test_a_qualified_name_reaches_a_built_in() -> None:
    assert registry().find("solver", "mriinv:mm-cg") is registry().find("solver", "mm-cg")


# Capabilities


@pytest.mark.parametrize(
    ("provided", "alternatives", "expected"),
    [
        (set(), [], []),
        ({"energy"}, [], []),
        (set(), [set()], []),
        (set(), [{"energy"}], None),
        ({"energy", "gradient"}, [{"energy", "gradient"}], []),
        ({"energy"}, [{"energy", "gradient"}], [ENERGY]),
        ({"gradient"}, [{"energy", "gradient"}], None),
        ({"denoiser"}, [{"score"}], [GRADIENT]),
        ({"denoiser"}, [{"energy"}], None),
        ({"denoiser"}, [{"gradient"}], None),
        ({"score"}, [{"denoiser"}], None),
        ({"denoiser"}, [{"energy"}, {"denoiser"}], []),
        ({"energy"}, [{"denoiser"}, {"gradient"}, {"energy"}], [ENERGY]),
        ({"energy", "denoiser"}, [{"gradient", "score"}], [ENERGY, GRADIENT]),
        ({"energy"}, [{"energy"}, set()], []),
        (set(), [{"energy"}, set()], []),
    ],
)
def test_match(provided: set[str], alternatives: list[set[str]], expected: list[Derivation] | None) -> None:
    assert match(provided, alternatives) == expected


def test_no_derivation_ends_in_an_energy() -> None:
    assert derive(CAPABILITIES - {"energy"}, ["energy"]) is None


def test_an_impossible_combination_says_what_would_work(site: Site) -> None:
    files = {
        "parts/__init__.py": hook({}),
        "parts/registry.yaml": """
            components:
            - {kind: prior, name: smooth, target: 'parts:A', summary: s, provides: [energy]}
            - {kind: prior, name: sharp, target: 'parts:B', summary: s, provides: [denoiser, noise-conditional]}
            - {kind: solver, name: descent, target: 'parts:C', summary: s, requires: [[energy, gradient]]}
            - {kind: solver, name: plug-and-play, target: 'parts:D', summary: s, requires: [[proximal], [denoiser]]}
            - {kind: solver, name: plain, target: 'parts:E', summary: s}
            """,
    }
    site.add("parts", files, "parts")
    found = site.registry()
    assert found.match("smooth", "descent") == [ENERGY]
    assert str(ENERGY) == "energy -> gradient (autograd)"
    assert found.match("sharp", "plug-and-play") == found.match(None, "plain") == []
    with pytest.raises(CompatibilityError) as caught:
        found.match("sharp", "descent")
    assert str(caught.value).splitlines() == [
        "cannot combine prior 'sharp' with solver 'descent'",
        "  descent requires:  energy, gradient",
        "  sharp provides:    denoiser, noise-conditional",
        "  priors for descent: smooth",
        "  solvers for sharp: plug-and-play",
    ]
    with pytest.raises(CompatibilityError) as caught:
        found.match(None, "plug-and-play")
    assert str(caught.value).splitlines() == [
        "cannot combine prior 'none' with solver 'plug-and-play'",
        "  plug-and-play requires:  proximal or denoiser",
        "  no prior provides:       nothing",
        "  priors for plug-and-play: sharp",
    ]


# Plug-ins that fail


FAILURES = {
    "raises": ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
    "exits": ("import sys; sys.exit('goodbye')", "SystemExit: goodbye"),
    "syntax": ("def f(:", "SyntaxError: "),
    "hook-raises": (hook("1 / 0"), "ZeroDivisionError: division by zero"),
    "hook-returns-list": (hook("['solver:a']"), "AttributeError: "),
    "misspelt-hook": (
        "from mriinv import hookimpl\n@hookimpl\ndef mriinv_component(): return {}",
        "pluggy._manager.PluginValidationError: unknown hook 'mriinv_component'",
    ),
}


@pytest.mark.parametrize(("source", "problem"), FAILURES.values(), ids=FAILURES)
def test_a_plugin_that_fails_is_data_and_the_others_work(site: Site, source: str, problem: str) -> None:
    site.add("bad", {"bad/__init__.py": source, "bad/registry.yaml": solver("a", "bad:A")}, "bad")
    good = {"good/__init__.py": hook({"solver:b": "good:B"}, readers="return [int]")}
    site.add("good", {**good, "good/registry.yaml": solver("b", "good:B")}, "good")
    found = site.registry()
    bad = next(plugin for plugin in found.plugins if plugin.distribution == "bad")
    for _ in range(2):  # the second time from memory
        with pytest.raises(PluginError, match=re.escape(problem)):
            found.load("solver", "a")
    assert bad.problem and bad.problem.startswith(problem)
    assert found.readers() == [int]
    (other,) = [plugin for plugin in found.plugins if plugin is not bad]
    assert found.activate(other) == {"solver:b": "good:B"} and other.problem is None


def test_a_reader_hook_that_fails_is_reported_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.add("bad", {"bad/__init__.py": hook({}, readers="1 / 0"), "bad/registry.yaml": ""}, "bad")
    site.add("good", {"good/__init__.py": hook({}, readers="return [int]"), "good/registry.yaml": ""}, "good")
    found = site.registry()
    with caplog.at_level(logging.WARNING, "mriinv"):
        assert found.readers() == found.readers() == [int]
    assert [record.getMessage() for record in caplog.records] == [
        "plug-in 'bad-entry' of bad 2.0 failed: ZeroDivisionError: division by zero"
    ]


@pytest.mark.parametrize(
    ("files", "module", "problem"),
    [
        ({"alone/__init__.py": ""}, "alone", "package 'alone' has no registry.yaml"),
        ({"alone.py": ""}, "alone", "'alone' is a module; a plug-in is a package"),
        ({}, "alone", "package 'alone' is not installed"),
        ({"alone/__init__.py": "", "alone/registry.yaml": "componets: []"}, "alone", "found an unknown field"),
    ],
)
def test_a_plugin_without_a_readable_catalogue_is_reported(
    site: Site, files: dict[str, str], module: str, problem: str
) -> None:
    site.add("alone", files, module)
    found = site.registry()
    assert [plugin.problem is not None and problem in plugin.problem for plugin in found.plugins] == [True]
    (remark,) = found.remarks
    assert remark.startswith("plug-in 'alone-entry' of alone: ") and problem in remark


CLASSES = """
class Solver:
    kind, name = "solver", "other"
def function(): pass
raised = None
class Nameless:
    kind = "solver"
class Claims:
    kind, name = "solver", "a"
    provides = frozenset({"energy"})
class Demands:
    kind, name = "solver", "a"
    requires = (frozenset({"energy", "gradient"}), frozenset({"denoiser"}))
"""


@pytest.mark.parametrize(
    ("offered", "target", "problem"),
    [
        (
            {"solver:a": "odd.c:Solver"},
            "odd.c:Solver",
            "odd.c:Solver is solver 'other'; the catalogue says",
        ),
        ({"solver:a": "odd.c:function"}, "odd.c:function", "odd.c:function is no component; the catalogue says"),
        ({"solver:a": "odd.c:Nameless"}, "odd.c:Nameless", "odd.c:Nameless is solver without a name; the catalogue"),
        ({"solver:a": "odd.c:Claims"}, "odd.c:Claims", "odd.c:Claims provides energy; the catalogue says nothing"),
        (
            {"solver:a": "odd.c:Demands"},
            "odd.c:Demands",
            "odd.c:Demands requires denoiser or energy, gradient; the catalogue says nothing",
        ),
        ({"solver:a": "odd.c:Missing"}, "odd.c:Missing", "odd:a: odd.c:Missing cannot be imported: AttributeError"),
        ({"solver:a": "odd.d:X"}, "odd.d:X", "odd:a: odd.d:X cannot be imported: ModuleNotFoundError"),
        ({"solver:a": "odd.c:Solver"}, "odd.c:Other", "the hook of plug-in 'odd-entry' says odd.c:Solver"),
        ({}, "odd.c:Solver", "the hook of plug-in 'odd-entry' says nothing"),
    ],
)
def test_a_class_that_is_not_what_the_catalogue_says_is_refused(
    site: Site, offered: dict[str, str], target: str, problem: str
) -> None:
    files = {"odd/__init__.py": hook(offered), "odd/c.py": CLASSES, "odd/registry.yaml": solver("a", target)}
    site.add("odd", files, "odd")
    with pytest.raises(PluginError, match=re.escape(problem)):
        site.registry().load("solver", "a")


def test_the_entry_point_may_name_a_module_inside_the_package(site: Site) -> None:
    target = "library.solvers:A"
    files = {
        "outer/__init__.py": "raise RuntimeError('not needed to list')",
        "outer/plugin.py": hook({"solver:a": target}),
        "outer/registry.yaml": solver("a", target),
    }
    site.add("outer", files, "outer.plugin")
    assert site.registry().find("solver", "a").entry.target == target


def test_names_claimed_twice(site: Site) -> None:
    for name in ("one", "two"):
        site.add(name, {f"{name}/__init__.py": "", f"{name}/registry.yaml": solver("same", f"{name}:A")}, name)
    found = site.registry()
    assert list(found.components("solver")) == ["one:same", "two:same"]
    assert found.remarks == ["solver 'same' is offered by one 2.0, two 2.0: write 'one:same' or 'two:same'"]
    with pytest.raises(PluginError, match="write 'one:same' or 'two:same'"):
        found.find("solver", "same")
    assert found.find("solver", "two:same").plugin.distribution == "two"


def test_a_recipe_means_the_components_of_its_own_distribution(site: Site) -> None:
    recipes = "recipes: {r: {summary: s, prior: deepen, solver: {name: same, settings: {a: 1}}}}\n"
    for name in ("one", "two"):
        catalogue = solver("same", f"{name}:A") + recipes
        site.add(name, {f"{name}/__init__.py": "", f"{name}/registry.yaml": catalogue}, name)
    recipe = site.registry().recipe("two:r")
    assert (recipe.prior.name, recipe.solver.name, recipe.solver.settings) == ("deepen", "two:same", {"a": 1})


def test_the_usual_recipe_of_a_prior_is_found_under_its_plain_and_its_full_name(site: Site) -> None:
    prior = "components: [{kind: prior, name: mine, target: 'one:P', summary: s}]\n"
    recipes = "recipes: {r: {summary: s, prior: mine, solver: fista}, again: {summary: s, prior: mine, solver: ista}}\n"
    site.add("one", {"one/__init__.py": "", "one/registry.yaml": prior + recipes}, "one")
    found = site.registry()
    assert found.usual_recipe("mine") is found.usual_recipe("one:mine") is found.recipe("one:r")
    assert found.usual_recipe("other:mine") is None and registry().usual_recipe("mriinv:tv") is registry().recipe("tv")


@pytest.mark.parametrize(
    ("value", "expected", "unknown"),
    [
        ("", [], ""),
        ("two", ["two"], ""),
        (" Two , o_n.E", ["O.n-e", "two"], ""),  # all spellings of a name are one
        ("two, three", ["two"], "MRIINV_PLUGINS names 'three', which has no plug-in here"),
    ],
)
def test_the_environment_chooses_the_distributions(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    value: str,
    expected: list[str],
    unknown: str,
) -> None:
    for name, module in (("O.n-e", "one"), ("two", "two")):
        site.add(name, {f"{module}/__init__.py": "", f"{module}/registry.yaml": ""}, module)
    monkeypatch.setenv("MRIINV_PLUGINS", value)
    assert [plugin.distribution for plugin in site.registry().plugins] == expected
    assert [record.getMessage() for record in caplog.records] == ([unknown] if unknown else [])
    assert any(plugin.builtin for plugin in Registry().plugins)


def test_errors_that_users_can_act_on_have_one_base() -> None:
    assert all(issubclass(error, MriinvError) for error in (InputError, PluginError, UnknownNameError))


def test_a_catalogue_belongs_to_one_entry_point(site: Site) -> None:
    files = {"lab/__init__.py": "", "lab/a.py": "", "lab/registry.yaml": solver("s", "lab.a:S")}
    site.add("lab", files, "lab.a")
    points = site.folder / "lab-2.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text() + "second = lab\n")
    found = site.registry()
    assert found.find("solver", "s").plugin.name == "lab-entry"
    assert "the catalogue of plug-in 'lab-entry' as well; expected one entry point for each" in found.remarks[0]


def test_a_catalogue_names_a_component_once(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    entry = "{kind: solver, name: a, target: 'm:A', summary: s}"
    path.write_text(f"components: [{entry}, {entry}]\n")
    with pytest.raises(InputError, match="components: found solver 'a' twice; expected each name once"):
        load_manifest(path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "odd.c:S does not implement solve"),
        ("    Settings, solve = dict, None\n", "odd.c:S.Settings is <class 'dict'>; expected a subclass of Component"),
    ],
)
def test_a_class_that_is_no_whole_solver_is_refused(site: Site, body: str, message: str) -> None:
    source = f"import mriinv\nclass S(mriinv.Solver):\n    name = 's'\n{body}"
    files = {"odd/__init__.py": hook({"solver:s": "odd.c:S"}), "odd/c.py": source}
    site.add("odd", {**files, "odd/registry.yaml": solver("s", "odd.c:S")}, "odd")
    with pytest.raises(PluginError, match=re.escape(message)):
        site.registry().load("solver", "s")


def test_an_object_is_used_whatever_plugins_call_theirs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = "components: [{{kind: prior, name: smooth, target: '{0}:P', summary: s}}]\n"
    for name in ("one", "two"):
        site.add(name, {f"{name}/__init__.py": "", f"{name}/registry.yaml": prior.format(name)}, name)
    found = site.registry()
    assert found.usual_recipe("smooth") is None
    with pytest.raises(PluginError, match="write 'one:smooth' or 'two:smooth'"):
        found.find("prior", "smooth")


def test_weights_lie_in_the_folder_of_the_catalogue(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = "{name: w, file: weights/w.safetensors, sha256: '" + "0" * 64 + "', licence: l, trained_on: t, summary: s}"
    catalogue = f"components: [{{kind: prior, name: p, target: 'lab.mri.p:P', summary: s, weights: [{entry}]}}]\n"
    files = {"lab/__init__.py": "", "lab/mri/__init__.py": "", "lab/mri/registry.yaml": catalogue}
    site.add("lab", files, "lab.mri")
    monkeypatch.setattr("mriinv.compose.registry", site.registry)
    assert find_weights("p", None) == WeightFile(site.folder / "lab" / "mri" / "weights" / "w.safetensors", "0" * 64)
