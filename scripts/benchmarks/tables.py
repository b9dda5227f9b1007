"""Texts of a benchmark around its figures: the device's name, and tables in Markdown."""

import os
import platform
from pathlib import Path

import torch

from scripts.benchmarks.timing import DEVICE


def device_name() -> str:
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    models = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ] if Path("/proc/cpuinfo").exists() else []  # fmt: skip
    name = models[0] if models else platform.processor()
    return f"{name}, {os.cpu_count()} cores"


def markdown(rows: list[dict], columns: dict[str, str]) -> str:
    """Return a table of those columns, {name: format}, that any row has."""
    columns = {name: form for name, form in columns.items() if any(row.get(name) for row in rows)}
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [format(row[name], form) if name in row else "" for name, form in columns.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
