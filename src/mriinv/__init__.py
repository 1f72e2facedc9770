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
    from mriinv.core.iterations import Iterations as Iterations
    from mriinv.core.normal import normal_map as normal_map
    from mriinv.core.normal import regularised_inverse as regularised_inverse
    from mriinv.core.operator import Operator as Operator
    from mriinv.core.prior import Prior as Prior
    from mriinv.core.problem import InverseProblem as InverseProblem
    from mriinv.core.problem import Samples as Samples
    from mriinv.core.problem import Solution as Solution
    from mriinv.core.problem import reference_scale as reference_scale
    from mriinv.core.sampler import Chain as Chain
    from mriinv.core.sampler import Level as Level
    from mriinv.core.sampler import Sampler as Sampler
    from mriinv.core.sampler import Target as Target
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
    from mriinv.interop.deepinv import to_deepinv_denoiser as to_deepinv_denoiser
    from mriinv.interop.deepinv import to_deepinv_physics as to_deepinv_physics
    from mriinv.interop.deepinv import to_deepinv_prior as to_deepinv_prior
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

_HOMES = {  # of the names, module by module; the same as above
    "compose": "Reconstruction make_operator make_prior make_problem make_solver make_trainer",
    "core.component": "ComponentSettings NoiseRange setting",
    "core.energy": "NetworkEnergy",
    "core.following": "FollowsNoise NoiseSettings",
    "core.iterations": "Iterations",
    "core.normal": "normal_map regularised_inverse",
    "core.operator": "Operator",
    "core.prior": "Prior",
    "core.problem": "InverseProblem Samples Solution reference_scale",
    "core.sampler": "Chain Level Sampler Target",
    "core.solver": "Monitor Solver",
    "core.trainer": "Loss ProblemSource Trainer",
    "core.types": "CoilMaps Image KSpace Mask PerImage",
    "data.acquisition": "Acquisition",
    "data.geometry": "Geometry",
    "data.masks": "make_mask",
    "data.preparation": "Preparation prepare_acquisition",
    "data.readers": "Scan open_scan",
    "data.results": "Result read_result",
    "data.simulate": "simulate_acquisition",
    "errors": "CompatibilityError InputError MriinvError SettingsError",
    "interop.deepinv": "DenoiserPrior PhysicsOperator PotentialPrior "
    "to_deepinv_denoiser to_deepinv_physics to_deepinv_prior",
    "metrics": "evaluate nmse psnr ssim",
    "networks": "EnergySettings FeatureNetwork ImageNetwork NetworkSettings PublishedNetwork energy_network",
    "numerics.cg": "CGResult conjugate_gradient",
    "numerics.channels": "from_channels to_channels",
    "numerics.curvature": "largest_curvature",
    "numerics.fft": "centring_phases",
    "numerics.fixed_point": "Iterated equilibrium unroll",
    "numerics.images": "inner_product per_image relative_norm",
    "numerics.noise": "complex_noise",
    "training.losses": "denoising_score_matching log_uniform",
    "training.schedule": "warm_cosine",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = ["__version__", "hookimpl", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mriinv' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"mriinv.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
