"""The value of one setting that reconstructs fully sampled validation scans best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from mriinv.compose import Reconstruction
from mriinv.config import RunConfig
from mriinv.core.solver import Monitor
from mriinv.data.acquisition import Acquisition
from mriinv.errors import InputError, MriinvError, SettingsError, UnknownNameError
from mriinv.files import make_folder, write_text
from mriinv.jobs import Job, find_jobs, full_slices
from mriinv.manifest import Choice, Kind
from mriinv.registry import registry
from mriinv.setup import combine, settle
from mriinv.validation import Case, case_of

GRID = 7  # values tried before the golden section: it finds a local maximum only
GOLDEN = (3 - math.sqrt(5)) / 2
SIMULATED_SCANS = 3
MARK = "# tuned by mriinv: "

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes
    ----------
    parameter : such as ``prior.weight``
    value : the best one that was tried
    trials : pairs of value and mean PSNR (dB), in the order in which they were tried
    cases : names of the slices that the PSNR is the mean of
    default : mean PSNR with the setting as it was
    bounds : lowest and highest value of the search
    """

    parameter: str
    value: float
    trials: list[tuple[float, float]]
    cases: list[str]
    default: float
    bounds: Bounds

    @property
    def psnr(self) -> float:
        """Mean PSNR (dB) at the best value."""
        return dict(self.trials)[self.value]

    @property
    def better(self) -> bool:
        """Whether the best value is at least as good as the setting was."""
        return self.psnr >= self.default

    @property
    def at_end(self) -> bool:
        """Whether the best value is an end of the range, so that a better one may lie beyond."""
        return self.value in self.bounds

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, and the best PSNR."""
        return {**asdict(self), "psnr": self.psnr, "at_end": self.at_end}


def tune(
    config: RunConfig,
    parameter: str | None = None,
    bounds: Bounds | None = None,
    *,
    tolerance: float = 0.05,
    monitor: Monitor | None = None,
) -> Tuned:
    """Search the value of one setting of the prior or the solver that maximises the mean PSNR.

    A grid on a logarithmic scale, to which the value so far is added, and then golden section between the neighbours
    of its best point. The scans are those of ``config.input``, fully sampled (of each the middle slice, unless
    ``config.slices`` says otherwise), or a few simulated ones; ``config.mask`` undersamples them.

    Parameters
    ----------
    parameter : ``prior.<setting>`` or ``solver.<setting>``; None for the only one that declares a range to tune in, of
        the prior, else of the solver
    bounds : lowest and highest value, above 0; None for the declared ones
    tolerance : length of the last bracket in powers of ten: 0.05 is 12 %
    monitor : called as ``monitor(trial, {parameter: value, "psnr": dB})``

    Raises
    ------
    SettingsError : no such setting, no range, a value that the setting does not take, no mask
    InputError : a scan that cannot be read or is not fully sampled
    """
    config = settle(config)
    parameter, declared = _tunable(config, parameter)
    low, high = _checked(parameter, bounds or declared)
    if not tolerance > 0:
        raise SettingsError(f"tolerance: found {tolerance}; expected a number above 0")
    if config.mask is None:
        raise SettingsError("tuning needs a mask: it undersamples fully sampled scans")
    part, _, name = parameter.partition(".")
    so_far = combine(config)
    settings = getattr(so_far, part).settings
    grid = {_rounded(low * (high / low) ** (i / (GRID - 1)), (low, high)) for i in range(GRID)}
    for value in grid:
        getattr(so_far, part).parse_settings({**settings.model_dump(), name: value})  # refused before the work
    cases = [case_of(full, config.mask, config) for full in _slices(config)]
    default = _mean_psnr(so_far, cases, config.seed)
    found: dict[float, float] = {}
    before = getattr(settings, name)
    if isinstance(before, int | float) and low <= before <= high:
        found[float(before)] = default
        grid.add(float(before))

    def quality(exponent: float) -> float:
        value = _rounded(10**exponent, (low, high))
        if value not in found:
            found[value] = _mean_psnr(combine(_with(config, parameter, value)), cases, config.seed)
            if monitor is not None:
                monitor(len(found), {parameter: value, "psnr": found[value]})
        return found[value]

    maximise(quality, sorted(map(math.log10, grid)), tolerance)
    best = max(found, key=lambda value: found[value])
    if found[best] == -math.inf:
        raise MriinvError(f"{parameter}: no value from {low:g} to {high:g} gives a finite image")
    return Tuned(parameter, best, list(found.items()), [case.name for case in cases], default, (low, high))


def maximise(quality: Callable[[float], float], grid: list[float], tolerance: float) -> float:
    """Return where `quality` is largest near the best point of a sorted grid, by golden section.

    The best point stays inside the bracket; at an end of the grid it is also the end of the bracket.

    Source: Press et al., Numerical Recipes, 3rd ed., sec. 10.2.
    """
    k = max(range(len(grid)), key=lambda i: quality(grid[i]))
    low, best, high = grid[max(k - 1, 0)], grid[k], grid[min(k + 1, len(grid) - 1)]
    while high - low > tolerance:
        upper = high - best > best - low  # the longer part is divided
        point = best + GOLDEN * (high - best if upper else low - best)
        if quality(point) > quality(best):
            low, best, high = (best, point, high) if upper else (low, point, best)
        else:
            low, high = (low, point) if upper else (point, high)
    return best


def require_writable(path: Path) -> None:
    """Refuse a place for a run file, before the search, that cannot be written or holds something else."""
    make_folder(path.parent)
    if path.exists() and not (path.is_file() and path.read_bytes().startswith(MARK.encode())):
        raise InputError(path, "", "a file that no tuning made", "another name, or the file out of the way")


def write_run_file(path: Path, config: RunConfig, tuned: Tuned) -> None:
    """Write `tuned_run_file`, whole or not at all."""
    require_writable(path)
    write_text(path, tuned_run_file(config, tuned))


def tuned_run_file(config: RunConfig, tuned: Tuned) -> str:
    """Return the method with the tuned setting as a run file (YAML), for any input; its head says where it is from."""
    own = {"input": True, "out": True, "mask": True, "slices": True, "device": True, "seed": True}
    method = _with(config, tuned.parameter, tuned.value).model_dump(
        mode="json", exclude={**own, "preparation": {"maps"}}, exclude_none=True
    )
    lines = [f"{MARK}{tuned.parameter}: mean PSNR {tuned.psnr:.2f} dB, before {tuned.default:.2f} dB"]
    lines += [f"# tuned on {case!a}" for case in tuned.cases]
    return "\n".join([*lines, yaml.safe_dump(method, sort_keys=False, allow_unicode=True)])


def _tunable(config: RunConfig, parameter: str | None) -> tuple[str, Bounds | None]:
    """Return the full name of the setting to tune and the range that it declares."""
    settings: dict[str, Bounds | None] = {}
    choices: dict[Kind, Choice | None] = {"prior": config.prior, "solver": config.solver}
    for part, choice in choices.items():
        for name, field in registry().load(part, choice.name).Settings.model_fields.items() if choice else ():
            extra = field.json_schema_extra
            settings[f"{part}.{name}"] = extra.get("tune") if isinstance(extra, dict) else None
    if not settings:
        raise SettingsError("what to tune: neither prior nor solver has settings")
    if parameter is None:
        declaring = [name for name, declared in settings.items() if declared]
        declaring = [name for name in declaring if name.startswith("prior.")] or declaring
        if len(declaring) != 1:
            found = f"{' and '.join(declaring)} declare a range" if declaring else "no setting declares a range"
            raise SettingsError(f"what to tune: {found}; name one of: {', '.join(declaring or settings)}")
        parameter = declaring[0]
    if parameter not in settings:
        raise UnknownNameError("setting to tune", parameter, settings)
    return parameter, settings[parameter]


def _checked(parameter: str, bounds: Bounds | None) -> Bounds:
    if bounds is None:
        raise SettingsError(f"{parameter} declares no range to tune in; give a lowest and a highest value")
    if not 0 < bounds[0] < bounds[1] < math.inf:
        raise SettingsError(f"range of {parameter}: found {bounds[0]} to {bounds[1]}; expected 0 < lowest < highest")
    return float(bounds[0]), float(bounds[1])


def _rounded(value: float, bounds: Bounds) -> float:
    """Return `value` to four digits, as it will stand in the run file."""
    return min(max(float(f"{value:.4g}"), bounds[0]), bounds[1])


def _with(config: RunConfig, parameter: str, value: float) -> RunConfig:
    part, _, name = parameter.partition(".")
    choice: Any = getattr(config, part)
    changed = choice.model_copy(update={"settings": {**choice.settings, name: value}})
    return config.model_copy(update={part: changed})


def _mean_psnr(reconstruct: Reconstruction, cases: list[Case], seed: int) -> float:
    mean = sum(case.psnr(reconstruct, seed) for case in cases) / len(cases)
    return -math.inf if math.isnan(mean) else mean


def _slices(config: RunConfig) -> Iterator[Acquisition]:
    """Give the middle slice of each scan, or the slices that are asked for, or a few simulated ones."""

    def chosen(job: Job) -> list[int]:
        return job.slices if config.slices or not config.input else [job.middle]

    return full_slices(config, find_jobs(config, SIMULATED_SCANS), chosen)
