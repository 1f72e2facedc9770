"""What a run would do, without doing it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mriinv.compose import Reconstruction
from mriinv.config import RunConfig
from mriinv.jobs import find_jobs, result_files
from mriinv.registry import registry
from mriinv.setup import resolved, set_up, weights_record

PROBE_PIXELS = 2**18


def plan(config: RunConfig) -> dict[str, Any]:
    """Return what `execute` would do, without reading k-space: configuration, derivations, weights, memory."""
    run = set_up(config)
    config, reconstruction = run.config, run.reconstruction
    jobs = find_jobs(config)
    results = result_files(config.out, jobs)
    inputs = [
        {"input": job.source, "result": str(result), **job.found} for job, result in zip(jobs, results, strict=True)
    ]
    largest = max(inputs, key=lambda row: row["coils"] * row["matrix"][0] * row["matrix"][1])
    matrix = config.preparation.cropped(largest["matrix"])
    return {
        "configuration": resolved(run),
        "derivations": [str(d) for d in registry().check(config)],
        "weights": weights_record(run),
        "device": str(reconstruction.device),
        "inputs": inputs,
        "memory_estimate_MB": round(memory_estimate(reconstruction, matrix, largest["coils"]) / 1e6, 1),
    }


def memory_estimate(reconstruction: Reconstruction, matrix: tuple[int, int], coils: int) -> int:
    """Return bytes for one slice: data, maps and work space of the operator, images, parameters and activations."""
    y, x = matrix
    image = 8 * y * x
    total = (4 * coils + 16) * image
    prior = reconstruction.prior
    if prior is not None:
        parameters = {p.data_ptr(): p.nbytes for p in prior.parameters()}
        saved: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in parameters:
                saved[tensor.data_ptr()] = tensor.nbytes
            return tensor

        # an energy may be tied to its matrix size; one too large to try is estimated from a part of it
        rows, columns = (y, x) if y * x <= PROBE_PIXELS else (64, 64)
        probe = torch.zeros(1, rows, columns, dtype=torch.complex64, device=reconstruction.device)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            if "energy" in prior.provides:  # its gradient may do with less than autograd
                with torch.enable_grad():
                    prior.energy(probe.requires_grad_())
            elif "gradient" in prior.provides:
                prior.gradient(probe)
            elif "denoiser" in prior.provides:
                prior.denoise(probe, prior.noise_range[0] if prior.noise_range else 0.01)
        activations = 2 * sum(saved.values())  # what autograd keeps, and as much while it runs
        total += sum(parameters.values()) + activations * y * x // (rows * columns)
    return total
