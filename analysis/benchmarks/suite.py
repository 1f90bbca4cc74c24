"""The suite: how many reference evaluations campaigns save, on systems whose reference costs nothing.

    python analysis/benchmarks/suite.py                       # every system, 10 seeds (20 of Si8): hours of two cores
    python analysis/benchmarks/suite.py si8 --seeds 3
    python analysis/benchmarks/suite.py si8 --set potential.members=5 --try "select.noise=0 relax.uncertainty=1"
    python analysis/benchmarks/suite.py hard-si16 --seeds 5 --control-size 20

Runs `csp-al benchmark` on the campaigns in `campaigns/suite/`, and prints one table: a row for each system, or for each
thing to `--try` with it; what is `--set` is so in all rows. What was run before, with the same settings, is not run
again, with whatever version it was run; other settings of a campaign share the random search on its pools. Systems in
`campaigns/hard/` are run where they are named; what they look for is in `lowest.csv` there, since random search seldom
finds it.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

SUITE = Path(__file__).parents[2] / "campaigns" / "suite"
HARD = SUITE.with_name("hard")
SEEDS = {"si8": 20}
USUAL_SEEDS = 10
COLUMNS = {
    "system": "",
    "target": "lowest (eV/atom)",
    "found": "found",
    "found_by_control": "by random search",
    "median": "evaluations",
    "in_all": "in all",
    "median_of_control": "of random search",
    "ratio": "ratio of medians",
    "ratio_of_expected": "of expectations",
    "soonest": "soonest",
    "lost": "led, and lost",
    "late": "labels after it led",
    "minima": "low minima found",
    "seconds": "s",
}


def main() -> None:
    arguments = parsed()
    names = arguments.systems or sorted(path.stem.removeprefix("suite-") for path in SUITE.glob("*.yaml"))
    results = []
    for name in names:
        for tried in arguments.tried or [[]]:
            settings = [*arguments.settings, *tried]
            file = variant(file_of(name), settings, arguments.directory)
            seeds = arguments.seeds or SEEDS.get(name, USUAL_SEEDS)
            options = target_of(name)
            if arguments.control_size:
                options += ["--control-size", str(arguments.control_size)]
            results.append(benchmark(file, seeds, arguments.directory / file.stem, options))
            print_table(results)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("systems", nargs="*", help="such as si8; default: all")
    parser.add_argument("--seeds", type=positive, help="of each system; default: 10, of si8 20")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", type=setting)
    parser.add_argument(
        "--try", dest="tried", action="append", default=[], metavar="'KEY=VALUE KEY=VALUE'", type=several
    )
    parser.add_argument("--control-size", type=positive, help="candidates that random search relaxes; default: all")
    parser.add_argument("--directory", type=Path, default=Path("benchmarks"))
    return parser.parse_args()


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 on")
    return int(text)


def setting(text: str) -> str:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r}: write KEY=VALUE, e.g. select.force_weight=0.5")
    return text


def several(text: str) -> list[str]:
    return [setting(part) for part in text.split()]


def variant(path: Path, settings: list[str], directory: Path) -> Path:
    """The campaign file with other settings and a name that tells them; the file itself where there are none."""
    if not settings:
        return path
    yaml = YAML()
    content = yaml.load(path)
    for setting in settings:
        key, value = setting.split("=", 1)
        *sections, name = key.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = YAML(typ="safe").load(value)
        content["name"] += "-" + re.sub(r"[^A-Za-z0-9._-]+", ".", f"{key}-{value.strip('[]{}')}")
    directory.mkdir(parents=True, exist_ok=True)
    written = directory / f"{content['name']}.yaml"
    yaml.dump(content, written)
    return written


def file_of(name: str) -> Path:
    """The campaign file of a system."""
    return HARD / f"{name}.yaml" if name.startswith(HARD.name) else SUITE / f"suite-{name}.yaml"


def target_of(name: str) -> list[str]:
    """What `csp-al benchmark` is told to look for: nothing, where somebody finds the ground state."""
    with (HARD / "lowest.csv").open(newline="") as file:
        energies = {row["campaign"]: row["energy_per_atom"] for row in csv.DictReader(file)}
    return ["--target-energy", energies[name]] if name in energies else []


def benchmark(file: Path, seeds: int, directory: Path, options: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "csp_al", "benchmark", str(file), "--seeds", str(seeds), *options]
    subprocess.run([*command, "--directory", str(directory)], check=True)
    result: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return result


def print_table(results: list[dict[str, Any]]) -> None:
    print("| " + " | ".join(COLUMNS.values()) + " |")
    print("|" + "---|" * len(COLUMNS))
    for result in results:
        print("| " + " | ".join(row(result)[column] for column in COLUMNS) + " |")
    print(flush=True)


def row(result: dict[str, Any]) -> dict[str, str]:
    campaign, control, stopping, minima = (result[key] for key in ("campaign", "control", "stopping", "minima"))
    return {
        "system": f"{result['name'].removeprefix('suite-')}: {result['formula']}, {campaign['of']} seeds",
        "target": f"{result['target']['energy']:.4f}",
        "found": f"{campaign['found']} of {campaign['of']}",
        "found_by_control": f"{control['found']} of {control['of']}",
        "median": number(campaign["median"]["value"]),
        "in_all": number(campaign["evaluations"]),
        "median_of_control": number(control["median"]["value"]),
        "ratio": ratio(result["ratio"]),
        "ratio_of_expected": ratio(result["ratio_of_expected"]),
        "soonest": number(stopping["early_median"]),
        "lost": str(stopping["lost_again"]),
        "late": "" if stopping["late_label_share"] is None else f"{stopping['late_label_share']:.0%}",
        "minima": f"{minima['found']} of {minima['known']}",
        "seconds": number(campaign["seconds"]),
    }


def ratio(interval: dict[str, Any]) -> str:
    value, low, high = (number(interval[key]) for key in ("value", "low", "high"))
    ends = "" if interval["low"] is None else f" [{low}, {high}]"
    return f"{'> ' if interval['bound'] else ''}{value}{ends}"


def number(value: float | None) -> str:
    """Three digits; what is infinite is null in the files."""
    if value is None:
        return "∞"
    return f"{value:.0f}" if value >= 100 or value == math.floor(value) else f"{value:.3g}"


if __name__ == "__main__":
    main()
