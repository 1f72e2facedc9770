"""What there is: ``mriinv list``, ``info`` and ``plugins``."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from mriinv.cli.group import json_option, main
from mriinv.discovery import Plugin, last_line
from mriinv.errors import MriinvError, PluginError, UnknownNameError, shown
from mriinv.manifest import KINDS
from mriinv.registry import Registered, registry
from mriinv.report import text


@main.command("list")
@click.argument("kind", required=False, type=click.Choice([*KINDS, "recipe"]))
@json_option
def list_(kind: str | None, as_json: bool) -> None:
    """List components and recipes."""
    rows = [
        {"kind": one, "name": name, "summary": c.entry.summary, "from": c.plugin.distribution}
        for one in KINDS
        for name, c in registry().components(one).items()
    ]
    rows += [{"kind": "recipe", "name": n, "summary": r.summary, "from": ""} for n, r in registry().recipes.items()]
    rows = [row for row in rows if kind in (None, row["kind"])]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for heading in dict.fromkeys(row["kind"] for row in rows):
        click.secho(f"{heading}s", bold=True)
        for row in rows:
            if row["kind"] == heading:
                origin = "" if row["from"] in ("", "mriinv") else f"  [{row['from']}]"
                click.echo(f"  {row['name']:<{width}}  {row['summary']}{origin}")


@main.command()
@click.argument("name")
@json_option
def info(name: str, as_json: bool) -> None:
    """Show components and recipes of a name: settings with defaults and units, capabilities, reference, weights."""
    found = _find(name)
    if as_json:
        click.echo(json.dumps(found, indent=2, default=str))
        return
    click.echo("\n\n".join(text.description_text(one) for one in found))


def _find(name: str) -> list[dict[str, Any]]:
    """Return what is known of every component and recipe called `name`."""
    found = []
    for kind in KINDS:
        with suppress(UnknownNameError):
            component = registry().find(kind, name)
            cls = registry().load(kind, component.qualified)
            found.append(text.describe_component(component, cls.Settings.model_fields, _stored_settings(component)))
    if name in registry().recipes:
        found.append({"recipe": name, **registry().recipe(name).model_dump(exclude_none=True)})
    if not found:
        known = [n for kind in KINDS for n in registry().components(kind)]
        raise UnknownNameError("component or recipe", name, [*known, *registry().recipes], registry().missing)
    return found


def _stored_settings(component: Registered) -> dict[str, Any]:
    """Return the settings that the default weights of a prior bring; none where there are none that can be read."""
    from mriinv.compose import find_weights
    from mriinv.weights import read_metadata

    if component.entry.kind != "prior" or (weights := find_weights(component.qualified, None)) is None:
        return {}
    with suppress(MriinvError):
        cls = registry().load("prior", component.qualified)
        return dict(cls.parse_settings(read_metadata(weights.path)["settings"]))
    return {}


@main.command()
@click.option(
    "--check", is_flag=True, help="Import every component as well, load its weights, and compare it with its catalogue."
)
@json_option
def plugins(check: bool, as_json: bool) -> None:
    """Show installed plug-ins, and for one that fails, why; with --check the status is 1 where one does."""
    rows = []
    for plugin in registry().plugins:
        with suppress(MriinvError):  # the failure is in plugin.problem, which is shown
            registry().activate(plugin)
        if check and not plugin.problem:
            plugin.problem = _problems(plugin)
        rows.append(
            {
                "name": plugin.name,
                "distribution": f"{plugin.distribution} {plugin.version}",
                "status": "failed" if plugin.problem else "ok",
                "components": plugin.components,
                "problem": plugin.problem,
            }
        )
    if as_json:
        click.echo(json.dumps({"plugins": rows, "remarks": registry().remarks}, indent=2))
    else:
        for plugin, row in zip(registry().plugins, rows, strict=True):
            what = plugin.problem or ", ".join(plugin.components)
            click.echo(f"{row['status']:<7} {row['name']:<12} {row['distribution']:<24} {what}")
    if check and any(row["problem"] for row in rows):
        raise SystemExit(1)


def _problems(plugin: Plugin) -> str | None:
    """Return what is wrong with what a plug-in offers; None where all of it is there and is what the catalogue says."""
    extra = sorted((plugin.loaded or {}).keys() - set(plugin.components))
    found = [f"{key}: the hook names it, the catalogue does not" for key in extra]
    found += [problem for key in plugin.components if (problem := _refused(_check_component, plugin, key))]
    recipes = {name: registry().recipe(name) for name in _recipes(plugin)}
    found += [f"recipe {n}: {problem}" for n, r in recipes.items() if (problem := _refused(registry().check, r))]
    if problem := _refused(_check_readers, plugin):
        found.append(f"mriinv_readers: {problem}")
    return "; ".join(found) or None


def _check_readers(plugin: Plugin) -> None:
    """Call the hook for readers, and compare what it gives with the interface."""
    from mriinv.data.readers.base import Scan

    try:
        offered = [reader for one in plugin.hooks.mriinv_readers() for reader in one]
    except Exception as error:  # whatever a plug-in does
        raise PluginError(last_line(error)) from None
    for reader in offered:
        if not (isinstance(reader, type) and issubclass(reader, Scan)) or inspect.isabstract(reader):
            raise PluginError(f"found {shown(reader)}; expected classes that implement Scan")


def _refused(check: Callable[..., Any], *of: Any) -> str | None:
    """Return the error of a check in words; None where it passes."""
    try:
        check(*of)
    except MriinvError as error:
        return str(error)
    except Exception as error:  # whatever a plug-in does
        return last_line(error)
    return None


def _check_component(plugin: Plugin, key: str) -> None:
    """Import a component; load the weights and build the trainer that the catalogue names."""
    kind, _, plain = key.partition(":")
    name = f"{plugin.distribution}:{plain}"
    component = registry().find(kind, name)  # type: ignore[arg-type]
    registry().load(component.entry.kind, name)
    from mriinv.compose import make_prior, make_trainer

    for weights in component.entry.weights:
        make_prior(name, weights=weights.name)
    if trainer := component.entry.trained_by:
        make_trainer(trainer.name, **trainer.settings)


def _recipes(plugin: Plugin) -> list[str]:
    """Return the recipes of a distribution; of the built-in ones, those with a solver of the plug-in."""
    recipes = registry().recipes
    if not plugin.builtin:
        return [name for name in recipes if name.rpartition(":")[0] == plugin.distribution]
    solvers = {key.partition(":")[2] for key in plugin.components if key.startswith("solver:")}
    return [name for name, recipe in recipes.items() if ":" not in name and recipe.solver.name in solvers]
