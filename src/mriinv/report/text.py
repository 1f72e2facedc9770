"""What the command line prints, as text: reports of runs and checks, plans, searches, components and recipes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from mriinv.calibration import Calibration
    from mriinv.check import CheckReport, SliceCheck
    from mriinv.registry import Registered
    from mriinv.run import InputReport
    from mriinv.tuning import Tuned

BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def plain(value: Any) -> Any:
    """Return `value` as JSON knows it: numbers that are not finite become null, what else it does not know its text."""
    return json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)


def report_text(report: InputReport) -> str:
    """Return what one input came to, a line per slice and per remark; "" when nothing was finished."""
    if report.result is None:
        return ""
    state = "" if report.complete else " (incomplete)"
    lines = [f"{report.source} -> {report.result}{state}" + (f", {report.figure}" if report.figure else "")]
    for row in report.slices:
        before = f" (zero-filled {row.zero_filled})" if row.zero_filled else ""
        quality = f"  {row.metrics}{before}" if row.metrics else ""
        state = "" if row.converged else " (not converged)"
        work = f"{row.iterations} iterations{state}, {row.seconds:.1f} s"
        lines.append(f"  slice {row.index}: acceleration {row.acceleration:.2f}, {work}{quality}")
        if row.sampling:
            lines.append(f"    {sampling_text(row.sampling)}")
    if metrics := next((row.metrics for row in report.slices if row.metrics), None):
        lines.append(f"  metrics: {metrics.region}; data range: {metrics.data_range}")
    if report.kept:
        all_kept = report.complete and len(report.kept) == len(report.slices)
        which = "all" if all_kept else ", ".join(map(str, report.kept))
        lines.append(f"  slices kept from an earlier run of the same: {which}; --restart computes them anew")
    lines += [f"  {path}" for path in report.exported]
    return "\n".join([*lines, *(f"  note: {remark}" for remark in report.remarks)])


def sampling_text(numbers: Mapping[str, float]) -> str:
    """Return `Samples.numbers` in words."""
    words = {
        "split_rhat": "split-R̂ at most {:.2f}",
        "effective_samples": "effective samples of means at least {:.0f}",
        "acceptance": "acceptance {:.2f}",
        "long_run_drift": "a longer chain moves by {:.1f} standard deviations at most",
    }
    known = [words[name].format(numbers[name]) for name in words if name in numbers]
    return ", ".join([f"{numbers['samples']:.0f} samples of {numbers['chains']:.0f} chains", *known])


def interruption_text(reports: Iterable[InputReport]) -> str:
    """Return what an interruption left."""
    kept = [str(report.result) for report in reports if report.result]
    return f"interrupted; finished until then: {', '.join(kept)}" if kept else "interrupted; nothing was finished"


def plan_text(plan: Mapping[str, Any]) -> str:
    """Return a plan as YAML."""
    import yaml

    return yaml.safe_dump(plain(plan), sort_keys=False, allow_unicode=True).rstrip()


def check_text(report: CheckReport) -> str:
    """Return a report as lines for the terminal."""
    import yaml

    found = {name: value for name, value in report.found.items() if value is not None and name != "remarks"}
    # YAML escapes what a terminal would obey
    text = yaml.safe_dump(plain(found), sort_keys=False, allow_unicode=True, default_flow_style=None)
    lines = [text.rstrip()] if found else []
    lines += [_slice_text(one) for one in report.slices]
    lines += [f"problem: {problem}" for problem in report.problems]
    lines += [f"note: {remark}" for remark in report.remarks]
    if report.is_result:
        lines.append("a result: nothing to reconstruct")
    else:
        lines.append("can be reconstructed" if report.reconstructible else "cannot be reconstructed")
    return "\n".join([*lines, *(f"  {command}" for command in report.commands)])


def _slice_text(checked: SliceCheck) -> str:
    y, x = checked.acquired
    if checked.sampling == "full":
        parts = [f"fully sampled {y}×{x}, zero-padded" if checked.zero_padded else "fully sampled"]
    else:
        parts = [f"{checked.sampling}, acceleration {checked.acceleration:.2f}"]
        lines = checked.sampling == "lines"
        parts.append(
            f"fully sampled centre {f'of {checked.centre} lines' if lines else f'{checked.centre}×{checked.centre}'}"
        )
    if checked.noise_std is None:
        parts.append("noise unknown")
    else:
        origin = "estimated" if checked.noise_estimated else "from the file"
        parts.append(f"noise_std {checked.noise_std:.3g} ({origin})")
    if checked.dynamic_range is not None:
        parts.append(f"peak {checked.dynamic_range:.0f} dB above it")
    return f"slice {checked.index}: {', '.join(parts)}"


def tuning_text(tuned: Tuned) -> str:
    """Return what a search found, a line per trial in the order of the values."""
    lines = [f"{value:10.4g}  {quality:.2f} dB" for value, quality in sorted(tuned.trials)]
    summary = f"{tuned.parameter} = {tuned.value:g}: mean PSNR {tuned.psnr:.2f} dB ({tuned.default:.2f} dB before)"
    end = ["  note: the best value is an end of the range"] if tuned.at_end else []
    end += [] if tuned.better else ["  note: no value of the range is better than the setting as it was: keep it"]
    return "\n".join([*lines, summary, f"  on {'; '.join(tuned.cases)}", *end])


def calibration_text(found: Calibration) -> str:
    """Return the coverage of each mask, before and after, and what was fitted."""
    levels = list(found.coverage[0].before)
    stages = ["before", "after", *(["conformal"] if found.scale else [])]
    width = max(len(row.mask) for row in found.coverage) + 7
    shown = "".join(f"{level:7.0%}" for level in levels)
    lines = [
        "coverage".ljust(width) + "".join(f"  {stage:<{len(shown)}}" for stage in stages),
        " " * width + f"  {shown}" * len(stages),
    ]
    for row in found.coverage:
        stored = (getattr(row, stage) for stage in stages)  # no scale was fitted for masks of another kind
        shares = ("".join(f"{one[level]:7.1%}" for level in levels) if one else f"{'none':>7}" for one in stored)
        lines.append(f"{row.mask}{'' if row.fitted else ' (test)'}".ljust(width) + "".join(f"  {s}" for s in shares))
    lines.append(f"temperature: {found.temperature:.4g} times that of the sampler")
    scales = ((f"scale κ, {sampling}", values, "") for sampling, values in (found.scale or {}).items())
    for name, values, unit in (*scales, ("margin of the PSNR", found.psnr_margin, " dB")):
        if values:
            lines.append(f"{name}: " + ", ".join(f"{level:.0%} {value:.3g}{unit}" for level, value in values.items()))
    return "\n".join([*lines, *(f"  note: {remark}" for remark in found.remarks)])


def describe_component(
    component: Registered, settings: Mapping[str, FieldInfo], stored: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is known of a component, its `settings` with defaults, types, bounds and units.

    `stored` are the settings that its default weights bring.
    """
    entry, plugin = component.entry, component.plugin
    return {
        entry.kind: entry.name,
        "summary": entry.summary,
        "reference": entry.reference,
        "provides": ", ".join(entry.provides),
        "requires": " or ".join(", ".join(one) for one in entry.requires),
        **({} if entry.trained_by is None else {"trained by": entry.trained_by.model_dump()}),
        "from": f"{plugin.distribution} {plugin.version} ({entry.target})",
        "weights": [weights.model_dump() for weights in entry.weights],
        "settings": [
            {
                "name": name,
                "default": field.default,
                **({"with_weights": stored[name]} if stored.get(name, field.default) != field.default else {}),
                "values": _values(field),
                "unit": (field.json_schema_extra or {}).get("unit", ""),  # type: ignore[union-attr]
                "help": field.description or "",
            }
            for name, field in settings.items()
        ],
    }


def description_text(found: Mapping[str, Any]) -> str:
    """Return what `describe_component` found, or a recipe, line by line."""
    lines = []
    for key, value in found.items():
        if key == "settings":
            lines.append(click.style("settings", bold=True))
            for row in value:
                unit = f" [{row['unit']}]" if row["unit"] else ""
                lines.append(f"  {row['name']} = {row['default']}{unit}  ({row['values']})\n      {row['help']}")
                if "with_weights" in row:
                    lines.append(f"      with the default weights: {row['with_weights']}")
        elif key == "weights" and value:
            lines.append(click.style("weights", bold=True))
            for number, row in enumerate(value):
                lines.append(f"  {row['name']}{'' if number else ' (default)'}: {row['summary']}")
                lines += [
                    f"      {name.replace('_', ' ')}: {row[name]}"
                    for name in ("trained_on", "licence", "sha256", "image_scale", "fft")
                ]
        elif isinstance(value, Mapping):  # a component of a recipe
            weights = {"weights": value["weights"]} if value.get("weights") else {}
            given = [f"{name} = {one}" for name, one in {**weights, **value["settings"]}.items()]
            lines.append(f"{key}: {value['name']}" + (f" ({', '.join(given)})" if given else ""))
        elif value:
            lines.append(f"{key}: {value}")
    return "\n".join(lines)


def _values(field: FieldInfo) -> str:
    """Return the type of a setting and its bounds, such as ``float, > 0``."""
    bounds = [
        f"{sign} {getattr(one, name):g}"
        for one in field.metadata
        for name, sign in BOUNDS.items()
        if hasattr(one, name)
    ]
    return ", ".join([_type(field.annotation), *bounds])


def _type(annotation: Any) -> str:
    """Return an annotation in words: the choices of a literal, ``none`` for None, else the names of the types."""
    if annotation is type(None):
        return "none"
    parts = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if isinstance(origin, type) and issubclass(origin, tuple | list | dict):
        return f"{origin.__name__} of {', '.join('…' if p is Ellipsis else _type(p) for p in parts)}"
    if parts and hasattr(annotation, "__metadata__"):
        return _type(parts[0])
    if parts:
        return " | ".join(_type(part) for part in parts)
    return str(getattr(annotation, "__name__", annotation))
