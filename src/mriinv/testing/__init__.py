"""Checks and closed-form cases for authors of plug-ins."""

from mriinv.testing.operators import check_adjoint as check_adjoint
from mriinv.testing.operators import check_gram as check_gram
from mriinv.testing.operators import check_norm_bound as check_norm_bound
from mriinv.testing.priors import check_capabilities as check_capabilities
from mriinv.testing.priors import check_gradient as check_gradient
from mriinv.testing.priors import check_proximal as check_proximal
