"""Model cards: what the weights of a training are, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from mriinv.core.prior import Prior

LIMITS = """\
Trained on simulated measurements with the settings above: images at reference scale 1 (99th percentile of |Aᴴb|), this
matrix size, number of coils, noise and these masks. Other organs, contrast agents and non-Cartesian sampling were not
seen unless they are in the data named here. Scans that chose the checkpoint are no test of it. Not for diagnosis."""
GROUPS = {"psnr": "PSNR (dB)", "psnr_lost": "lost since the best iterate (dB)", "truth_gap": "C(reference)/C(MAP) − 1"}


def model_card(prior: Prior, card: Mapping[str, Any], rows: Sequence[Mapping[str, str]], *, curves: bool) -> str:
    """Return the model card of the weights in the same folder.

    Parameters
    ----------
    card : what the weight file says about itself: command, configuration, updates, hours, seed, hardware …
    rows : of the log, those with a validation that can be compared
    curves : whether ``curves.png`` is beside it
    """
    configuration = card["configuration"]
    facts = {
        "prior": f"`{prior.name}`, {sum(p.numel() for p in prior.parameters()):,} parameters",
        "settings": f"`{prior.settings.model_dump_json()}`",
        "trainer": _code(configuration.get("trainer")),
        "operator": _code(configuration.get("operator")),
        "start": _code((configuration.get("prior") or {}).get("weights") or "random weights"),
        **{name: str(card[name]) for name in ("updates", "hours", "seed", "hardware", "precision") if name in card},
        "made with": f"mriinv {card['mriinv']}, torch {card['torch']}",
    }
    parts = [
        f"# Model card: {prior.name}",
        "`weights.safetensors`: the averaged weights after the last update; `best.safetensors`, where there is one:\n"
        "those of the best validation.",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {_cell(text)} |" for name, text in facts.items())]),
        f"## Command\n\n```\n{card.get('command') or 'none: trained from Python'}\n```",
        f"## Data\n\n```\n{yaml.safe_dump(configuration.get('data'), sort_keys=False, allow_unicode=True)}```",
        f"## Validation\n\n{_validation(rows)}",
        f"## Curves\n\n{'![curves](curves.png)' if curves else 'Not drawn (`mriinv train --plot`)'}; "
        "the numbers are in [log.csv](log.csv).",
        f"## Limits\n\n{LIMITS}",
    ]
    return "\n\n".join(parts) + "\n"


def _validation(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the last and the best validation as a table."""
    if not rows:
        return "None."
    best, last = max(rows, key=lambda row: float(row["score"])), rows[-1]
    head = f"| | best, after {best['step']} | last, after {last['step']} |\n|---|---|---|\n"
    names = [name for name in last if name == "score" or name.partition("/")[0] in GROUPS]
    return head + "\n".join(f"| {_cell(_title(name))} | {best.get(name, '')} | {last[name]} |" for name in names)


def _title(name: str) -> str:
    group, _, case = name.partition("/")
    return "mean PSNR (dB) of the converged images" if name == "score" else f"{case}: {GROUPS[group]}"


def _code(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
