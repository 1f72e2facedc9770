"""mriinv: name an operator, a prior and a solver; get the image or posterior samples from k-space.

The names below are the public interface. They are imported on first use, so that ``import mriinv`` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mriinv.hookspecs import hookimpl

if TYPE_CHECKING:
    from mriinv.compose import Reconstruction as Reconstruction
    from mriinv.compose import make_operator as make_operator
    from mriinv.compose import make_prior as make_prior
    from mriinv.compose import make_problem as make_problem
    from mriinv.compose import make_solver as make_solver
    from mriinv.compose import make_trainer as make_trainer
    from mriinv.core.component import ComponentSettings as ComponentSettings
    from mriinv.core.component import NoiseRange as NoiseRange
    from mriinv.core.component import setting as setting
    from mriinv.core.energy import NetworkEnergy as NetworkEnergy
    from mriinv.core.following import FollowsNoise as FollowsNoise
    from mriinv.core.following import NoiseSettings as NoiseSettings
    from mriinv.core.normal import normal_map as normal_map
    from mriinv.core.normal import regularised_inverse as regularised_inverse
    from mriinv.core.operator import Operator as Operator
    from mriinv.core.prior import Prior as Prior
    from mriinv.core.problem import InverseProblem as InverseProblem
    from mriinv.core.problem import Samples as Samples
    from mriinv.core.problem import Solution as Solution
    from mriinv.core.problem import reference_scale as reference_scale
    from mriinv.core.sampler import Chain as Chain
    from mriinv.core.sampler import Sampler as Sampler
    from mriinv.core.solver import Monitor as Monitor
    from mriinv.core.solver import Solver as Solver
    from mriinv.core.trainer import Loss as Loss
    from mriinv.core.trainer import ProblemSource as ProblemSource
    from mriinv.core.trainer import Trainer as Trainer
    from mriinv.core.types import CoilMaps as CoilMaps
    from mriinv.core.types import Image as Image
    from mriinv.core.types import KSpace as KSpace
    from mriinv.core.types import Mask as Mask
    from mriinv.core.types import PerImage as PerImage
    from mriinv.data.acquisition import Acquisition as Acquisition
    from mriinv.data.geometry import Geometry as Geometry
    from mriinv.data.masks import make_mask as make_mask
    from mriinv.data.preparation import Preparation as Preparation
    from mriinv.data.preparation import prepare_acquisition as prepare_acquisition
    from mriinv.data.readers import Scan as Scan
    from mriinv.data.readers import open_scan as open_scan
    from mriinv.data.results import Result as Result
    from mriinv.data.results import read_result as read_result
    from mriinv.data.simulate import simulate_acquisition as simulate_acquisition
    from mriinv.errors import CompatibilityError as CompatibilityError
    from mriinv.errors import InputError as InputError
    from mriinv.errors import MriinvError as MriinvError
    from mriinv.errors import SettingsError as SettingsError
    from mriinv.interop.deepinv import DenoiserPrior as DenoiserPrior
    from mriinv.interop.deepinv import PhysicsOperator as PhysicsOperator
    from mriinv.interop.deepinv import PotentialPrior as PotentialPrior
    from mriinv.interop.deepinv import as_denoiser as as_denoiser
    from mriinv.interop.deepinv import as_physics as as_physics
    from mriinv.interop.deepinv import as_prior as as_prior
    from mriinv.metrics import evaluate as evaluate
    from mriinv.metrics import nmse as nmse
    from mriinv.metrics import psnr as psnr
    from mriinv.metrics import ssim as ssim
    from mriinv.networks import EnergySettings as EnergySettings
    from mriinv.networks import FeatureNetwork as FeatureNetwork
    from mriinv.networks import ImageNetwork as ImageNetwork
    from mriinv.networks import NetworkSettings as NetworkSettings
    from mriinv.networks import PublishedNetwork as PublishedNetwork
    from mriinv.networks import energy_network as energy_network
    from mriinv.numerics.cg import CGResult as CGResult
    from mriinv.numerics.cg import conjugate_gradient as conjugate_gradient
    from mriinv.numerics.channels import from_channels as from_channels
    from mriinv.numerics.channels import to_channels as to_channels
    from mriinv.numerics.curvature import largest_curvature as largest_curvature
    from mriinv.numerics.fft import centring_phases as centring_phases
    from mriinv.numerics.fixed_point import Iterated as Iterated
    from mriinv.numerics.fixed_point import equilibrium as equilibrium
    from mriinv.numerics.fixed_point import unroll as unroll
    from mriinv.numerics.images import inner_product as inner_product
    from mriinv.numerics.images import per_image as per_image
    from mriinv.numerics.images import relative_norm as relative_norm
    from mriinv.numerics.noise import complex_noise as complex_noise
    from mriinv.training.losses import denoising_score_matching as denoising_score_matching
    from mriinv.training.losses import log_uniform as log_uniform
    from mriinv.training.schedule import warm_cosine as warm_cosine

__version__ = "0.1.0"

_HOME = {
    "Reconstruction": "compose",
    "make_operator": "compose",
    "make_prior": "compose",
    "make_problem": "compose",
    "make_solver": "compose",
    "make_trainer": "compose",
    "ComponentSettings": "core.component",
    "NoiseRange": "core.component",
    "setting": "core.component",
    "NetworkEnergy": "core.energy",
    "FollowsNoise": "core.following",
    "NoiseSettings": "core.following",
    "normal_map": "core.normal",
    "regularised_inverse": "core.normal",
    "Operator": "core.operator",
    "Prior": "core.prior",
    "InverseProblem": "core.problem",
    "Samples": "core.problem",
    "Solution": "core.problem",
    "reference_scale": "core.problem",
    "Chain": "core.sampler",
    "Sampler": "core.sampler",
    "Monitor": "core.solver",
    "Solver": "core.solver",
    "Loss": "core.trainer",
    "Trainer": "core.trainer",
    "ProblemSource": "core.trainer",
    "CoilMaps": "core.types",
    "Image": "core.types",
    "KSpace": "core.types",
    "Mask": "core.types",
    "PerImage": "core.types",
    "Acquisition": "data.acquisition",
    "Geometry": "data.geometry",
    "make_mask": "data.masks",
    "Preparation": "data.preparation",
    "prepare_acquisition": "data.preparation",
    "Scan": "data.readers",
    "open_scan": "data.readers",
    "Result": "data.results",
    "read_result": "data.results",
    "simulate_acquisition": "data.simulate",
    "CompatibilityError": "errors",
    "InputError": "errors",
    "MriinvError": "errors",
    "SettingsError": "errors",
    "DenoiserPrior": "interop.deepinv",
    "PhysicsOperator": "interop.deepinv",
    "PotentialPrior": "interop.deepinv",
    "as_denoiser": "interop.deepinv",
    "as_physics": "interop.deepinv",
    "as_prior": "interop.deepinv",
    "evaluate": "metrics",
    "nmse": "metrics",
    "psnr": "metrics",
    "ssim": "metrics",
    "EnergySettings": "networks",
    "FeatureNetwork": "networks",
    "ImageNetwork": "networks",
    "NetworkSettings": "networks",
    "PublishedNetwork": "networks",
    "energy_network": "networks",
    "CGResult": "numerics.cg",
    "conjugate_gradient": "numerics.cg",
    "from_channels": "numerics.channels",
    "to_channels": "numerics.channels",
    "largest_curvature": "numerics.curvature",
    "centring_phases": "numerics.fft",
    "Iterated": "numerics.fixed_point",
    "equilibrium": "numerics.fixed_point",
    "unroll": "numerics.fixed_point",
    "inner_product": "numerics.images",
    "per_image": "numerics.images",
    "relative_norm": "numerics.images",
    "complex_noise": "numerics.noise",
    "denoising_score_matching": "training.losses",
    "log_uniform": "training.losses",
    "warm_cosine": "training.schedule",
}
__all__ = ["__version__", "hookimpl", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mriinv' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"mriinv.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
