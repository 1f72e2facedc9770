"""``mriinv log-prior``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mriinv.cli.group import device_option, file_type, json_option, main, seed_option
from mriinv.report import text


@main.command("log-prior")
@click.argument("images", nargs=-1, required=True, type=file_type)
@click.option("--prior", default="diffusion", show_default=True, metavar="NAME")
@click.option("--weights", metavar="NAME|FILE", help="Weights of the prior  [default: the catalogue's first]")
@click.option("--probes", type=click.IntRange(min=2), default=10, show_default=True, help="Of the trace.")
@click.option("--steps", type=click.IntRange(min=2), default=32, show_default=True, help="Of the integration, even.")
@click.option("--slice", "only", type=click.IntRange(min=0), multiple=True, help="Only this slice; may be repeated.")
@device_option
@seed_option
@json_option
def log_prior(
    images: tuple[Path, ...],
    prior: str,
    weights: str | None,
    probes: int,
    steps: int,
    only: tuple[int, ...],
    device: str | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Print the log-probability that a diffusion prior gives to images (eq. 23).

    IMAGES are results of `mriinv run`, or complex arrays (.npy). Each image is divided by the 99th percentile of its
    magnitude first, the scale that priors are trained at: the density is that of the scaled image, so results in
    different units compare. Pixels outside the coil maps count as the zeros that the result holds.
    """
    import torch

    from mriinv.compose import make_prior, resolve_device
    from mriinv.core.problem import reference_scale
    from mriinv.errors import InputError
    from mriinv.log_prior import log_prior as evaluate
    from mriinv.log_prior import read_images
    from mriinv.numerics.images import per_image

    where = resolve_device(device or "auto")
    model = make_prior(prior, weights=weights).to(where)
    rows: list[dict[str, Any]] = []
    for path in images:
        found = read_images(path)
        if missing := sorted(set(only) - set(found)):
            raise InputError(path, "slices", ", ".join(map(str, found)), f"slice {missing[0]} among them")
        for index in only or found:
            image = found[index].to(where)
            image = image / per_image(reference_scale(image), image)
            generator = torch.Generator(where).manual_seed(seed or 0)
            value = evaluate(model, image, probes=probes, steps=steps, generator=generator)
            row = {"image": str(path), "slice": index, "bits_per_dimension": float(value.bits_per_dimension)}
            row |= {name: v if isinstance(v, int) else float(v) for name, v in asdict(value).items()}
            rows.append(row)
            if not as_json:
                click.echo(
                    f"{path} slice {index}: log p = {row['nats']:.1f} nats ± {row['standard_error']:.1f} (probes) "
                    f"± {row['integration_error']:.1f} (steps), {row['bits_per_dimension']:.4f} bits per dimension "
                    f"({row['dimension']})"
                )
    if as_json:
        click.echo(json.dumps(text.plain(rows), indent=2))
