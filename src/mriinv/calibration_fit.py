"""Temperature and intervals of posterior samples, fitted on fully sampled slices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mriinv.calibration import UNRELATED, Calibration, MaskCoverage
from mriinv.compose import Reconstruction, find_weights
from mriinv.config import RunConfig
from mriinv.core.problem import Samples
from mriinv.core.sampler import Sampler
from mriinv.core.solver import Monitor, Observer
from mriinv.data.acquisition import Acquisition, Sampling
from mriinv.data.mask_choice import MaskChoice
from mriinv.data.scan_images import middle_slices
from mriinv.errors import MriinvError, SettingsError
from mriinv.jobs import Job, find_jobs, full_slices
from mriinv.numerics.images import centre_crop
from mriinv.registry import registry
from mriinv.setup import combine, settle
from mriinv.uncertainty import LEVELS, Deviations, coverage, deviations, pooled_quantile, predicted_psnr, quantile
from mriinv.validation import Case, case_of

TARGET, TOLERANCE, ROUNDS = 0.9, 0.005, 4  # coverage that the temperature is fitted for, and how often it is corrected

Cases = Mapping[str, Sequence[Case]]  # by mask: each slice as the mask leaves it, slices in the same order
Errors = dict[str, list[Deviations]]


class _Slice(NamedTuple):
    """What the samples of one slice came to; `shortfall` is predicted − true PSNR in dB."""

    deviations: Deviations
    shortfall: float
    mixed: bool | None  # None: not seen


@dataclass(frozen=True)
class Fit:
    """Result of `calibrate`.

    Attributes
    ----------
    temperature : factor, the sampler's setting of this name
    fitted : masks that it was fitted on
    sampling : of each mask, test masks included
    before, after : errors by mask, test masks included, at factor 1 and at `temperature`
    scale : κ by level for masks in 2D and of lines, as far as there were any; None unless asked for
    psnr_margin : dB by level, as far as there are slices enough; None unless asked for
    remarks : what the user should know
    """

    temperature: float
    fitted: tuple[str, ...]
    sampling: Mapping[str, Sampling]
    before: Errors
    after: Errors
    scale: dict[Sampling, dict[float, float]] | None
    psnr_margin: dict[float, float] | None
    remarks: tuple[str, ...]

    def coverage(self) -> tuple[MaskCoverage, ...]:
        """Return the coverage by mask and level, before and after."""

        def shares(slices: list[Deviations], limits: Mapping[float, float] | None = None) -> dict[float, float]:
            return {level: coverage(slices, level, limits[level] if limits else None) for level in LEVELS}

        rows = []
        for mask, after in self.after.items():
            scale = (self.scale or {}).get(self.sampling[mask])
            rows.append(
                MaskCoverage(
                    mask=mask,
                    fitted=mask in self.fitted,
                    before=shares(self.before[mask]),
                    after=shares(after),
                    conformal=shares(after, scale) if scale else None,
                )
            )
        return tuple(rows)


def calibrate(
    fit: Cases,
    test: Cases,
    reconstruct: Reconstruction,
    *,
    conformal: bool = False,
    keep_temperature: bool = False,
    seed: int = 0,
    observer: Observer | None = None,
) -> Fit:
    """Fit the temperature of a sampler, and with `conformal` intervals and a bound on the PSNR.

    The standard deviation goes with the root of the temperature: T ← T·(k/k₀)², with the pooled 90 % quantile k of
    |z| and the one k₀ of Gaussian magnitudes, until the pooled coverage is 0.900 ± 0.005, at most four times; the best
    T that was sampled is kept. At this temperature κ is the quantile of |z| for each level, one for masks in 2D and
    one for masks of lines; of fewer than p/(1 − p) slices never below k₀ of that level, which would narrow the
    intervals. Slices and masks weigh the same. The margin on the PSNR is the ⌈(n + 1)p⌉-th smallest of n, one value for
    each slice: the largest predicted − true PSNR over the masks of the fit. `docs/calibration.md` says what follows.

    Parameters
    ----------
    fit, test : slices under masks that are fitted on, and under others
    reconstruct : prior and sampler, whose own temperature is not used
    keep_temperature : stay at factor 1, and fit intervals alone
    seed : of the draws; each slice has its own, the same at each temperature

    Raises
    ------
    MriinvError : the draws do not differ, or a chain diverges

    References
    ----------
    Wen, Ahmad, Schniter, arXiv:2505.09528, on conformal bounds of image quality; Lee, Barber, Willett,
    arXiv:2306.06342, on data in groups.
    """

    def at(temperature: float, cases: Cases) -> dict[str, list[_Slice]]:
        tempered = reconstruct.changed(reconstruct.solver.changed(temperature=temperature))
        count, found = sum(map(len, cases.values())), dict[str, list[_Slice]]()
        for mask, slices in cases.items():
            found[mask] = []
            for number, case in enumerate(slices):
                done = sum(map(len, found.values()))
                monitor = observer(f"{mask} at {temperature:.3g} T,", done, count) if observer else None
                found[mask].append(_sampled(case, tempered, seed + number, monitor))
        return found

    tried = _temperatures(lambda temperature: at(temperature, fit), 0 if keep_temperature else ROUNDS)
    before = tried[1.0]
    temperature, now = min(tried.items(), key=lambda one: _distance(one[1]))
    remarks = []
    if not keep_temperature and (distance := _distance(now)) > TOLERANCE:
        remarks.append(f"after {ROUNDS} corrections the pooled coverage of 90 % intervals is off by {distance:.3f}")
    test_before = at(1.0, test)
    test_after = test_before if temperature == 1 else at(temperature, test)
    after = now | test_after
    seen = [one.mixed for slices in after.values() for one in slices]
    if unmixed := seen.count(False):
        remarks.append(f"{unmixed} of {len(seen)} times the chains have not mixed (split-R̂)")
    if unknown := seen.count(None):
        remarks.append(f"{unknown} of {len(seen)} times there were too few draws to see whether the chains have mixed")
    sampling = {mask: slices[0].sampling for mask, slices in {**fit, **test}.items()}
    errors = _errors(before | test_before), _errors(after)
    fitted = Fit(temperature, tuple(fit), sampling, *errors, None, None, tuple(remarks))
    return _with_intervals(fitted, now) if conformal else fitted


def _temperatures(
    sampled: Callable[[float], dict[str, list[_Slice]]], rounds: int
) -> dict[float, dict[str, list[_Slice]]]:
    """Return what was sampled at each temperature that was tried, 1 and at most `rounds` corrections of it."""
    temperature = 1.0
    tried = {temperature: sampled(temperature)}
    for _ in range(rounds):
        if _distance(tried[temperature]) <= TOLERANCE:
            break
        pooled = _pooled(tried[temperature])
        ratio = pooled_quantile(pooled, TARGET) / quantile(TARGET, pooled[0].draws)
        if not 0 < ratio < math.inf:
            raise MriinvError("the draws agree where they are wrong: no temperature can be fitted")
        temperature *= ratio**2
        tried[temperature] = sampled(temperature)
    return tried


def _sampled(case: Case, reconstruct: Reconstruction, seed: int, monitor: Monitor | None) -> _Slice:
    samples = reconstruct(case.problem, seed=seed, monitor=monitor)
    assert isinstance(samples, Samples)
    mixed = True if samples.converged.all() else (False if "split_rhat" in samples.numbers() else None)
    psnr = case.psnr_of(samples.image)
    image, reference, support = case.cropped(samples.image)
    samples = replace(samples, image=image, draws=centre_crop(samples.draws, case.crop))
    return _Slice(deviations(samples, reference, support), predicted_psnr(samples, support) - psnr, mixed)


def _errors(found: Mapping[str, list[_Slice]]) -> Errors:
    return {mask: [one.deviations for one in slices] for mask, slices in found.items()}


def _pooled(found: Mapping[str, list[_Slice]]) -> list[Deviations]:
    return [one for slices in _errors(found).values() for one in slices]


def _distance(found: Mapping[str, list[_Slice]]) -> float:
    """Return how far the pooled coverage is from the target."""
    return abs(coverage(_pooled(found), TARGET) - TARGET)


def _with_intervals(fit: Fit, found: Mapping[str, list[_Slice]]) -> Fit:
    """Add the scale and the margin, and remarks on levels for which there are too few slices."""
    worst = sorted(max(one.shortfall for one in slices) for slices in zip(*found.values(), strict=True))
    few = {level: need for level in LEVELS if (need := math.ceil(level / (1 - level) - 1e-9)) > len(worst)}
    scale, wide = {}, []
    for sampling in dict.fromkeys(fit.sampling[mask] for mask in found):
        pooled = _pooled({mask: slices for mask, slices in found.items() if fit.sampling[mask] == sampling})
        scale[sampling] = {level: pooled_quantile(pooled, level) for level in LEVELS}
        for level, need in few.items():
            if scale[sampling][level] < (exact := quantile(level, pooled[0].draws)):
                scale[sampling][level] = exact
                wide.append(f"narrower {level:g} intervals, {sampling}, need {need} slices, here are {len(worst)}")
    margin = {level: worst[math.ceil((len(worst) + 1) * level - 1e-9) - 1] for level in LEVELS if level not in few}
    if not all(map(math.isfinite, (*(kappa for one in scale.values() for kappa in one.values()), *margin.values()))):
        raise MriinvError("the draws agree where they are wrong: no interval can be fitted")
    missing = [
        f"a bound on the PSNR with probability {level:g} needs {need} slices, here are {len(worst)}"
        for level, need in few.items()
    ]
    return replace(fit, scale=scale, psnr_margin=margin, remarks=(*fit.remarks, *wide, *missing))


def calibrate_weights(
    config: RunConfig,
    masks: Sequence[MaskChoice],
    test_masks: Sequence[MaskChoice],
    *,
    slices: int,
    conformal: bool = False,
    keep_temperature: bool = False,
    observer: Observer | None = None,
) -> tuple[Calibration, Fit]:
    """Calibrate the sampler of `config` on its scans, fully sampled, or on simulated ones.

    Everything that cannot work is refused before the first draw. The reference of a slice is what all its samples show
    through the operator; the masks of each slice are drawn anew.

    Parameters
    ----------
    masks, test_masks : to fit on, and to evaluate on
    slices : of each scan, nearest to its middle; number of simulated scans, seeds ``seed``, ``seed + 1`` …

    Raises
    ------
    SettingsError : a solver that is no sampler, a prior without weights, a temperature that is set, masks in common
    InputError : a scan that cannot be read or is not fully sampled
    """
    config = _checked(config)
    if common := {mask.label for mask in masks} & {mask.label for mask in test_masks}:
        raise SettingsError(f"test masks: {', '.join(sorted(common))} is fitted on; expected other masks")
    reconstruct = combine(config)
    prior, sampler = reconstruct.prior, reconstruct.solver
    assert prior is not None and prior.loaded_weights is not None and isinstance(sampler, Sampler)
    if sampler.settings.samples < 2:
        raise SettingsError("solver.samples: found 1; a standard deviation needs at least 2")
    sampler.changed(temperature=2.0)  # what cannot be set is refused before the work

    def middle(job: Job) -> list[int]:
        return [job.slices[number] for number in middle_slices(len(job.slices), slices)]

    full = list(full_slices(config, find_jobs(config, slices), middle))
    fit, test = ({mask.label: _cases(mask, full, config) for mask in some} for some in (masks, test_masks))
    found = calibrate(
        fit,
        test,
        reconstruct,
        conformal=conformal,
        keep_temperature=keep_temperature,
        seed=config.seed,
        observer=observer,
    )
    settings = prior.settings.model_dump(mode="json")
    record = Calibration(
        prior=prior.name,
        prior_settings={name: settings[name] for name in sorted(prior.adjustable)},
        weights_sha256=prior.loaded_weights.sha256,
        operator=config.operator.name,
        solver=config.solver.name,
        solver_settings=sampler.settings.model_dump(mode="json", exclude=UNRELATED),
        draws=next(iter(found.after.values()))[0].draws,
        temperature=found.temperature,
        scale=found.scale,
        psnr_margin=found.psnr_margin,
        slices=len(full),
        source="; ".join(dict.fromkeys(one.source for one in full)),
        seed=config.seed,
        coverage=found.coverage(),
        remarks=found.remarks,
    )
    return record, found


def _checked(config: RunConfig) -> RunConfig:
    """Return a settled configuration whose sampler checks no long run, unless it is told to."""
    name = config.solver.name
    if not issubclass(registry().load("solver", name), Sampler):
        raise SettingsError(f"solver '{name}' has no temperature to fit; expected a sampler: preconditioned-langevin …")
    if "temperature" in config.solver.settings:
        raise SettingsError("solver.temperature: it is what is fitted: leave it out")
    config = settle(config.model_copy(update={"mask": None}))
    if config.prior is None or find_weights(config.prior.name, config.prior.weights) is None:
        raise SettingsError("a calibration belongs to a weight file: choose a prior with weights")
    solver = config.solver.model_copy(update={"settings": {"long_run": 0, **config.solver.settings}})
    return config.model_copy(update={"solver": solver})


def _cases(mask: MaskChoice, full: Sequence[Acquisition], config: RunConfig) -> list[Case]:
    """Return each slice as a mask of its own leaves it."""
    drawn = [mask.model_copy(update={"seed": config.seed + number}) for number in range(len(full))]
    return [case_of(one, own, config).against_truth() for one, own in zip(full, drawn, strict=True)]
