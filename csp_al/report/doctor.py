"""What this machine has for a campaign: packages, reference programs, MPI, scheduler, cores, memory, disk.

for ok, what, remedy in examine(): ...
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from csp_al import kinds
from csp_al.campaign.machine import usable_cores
from csp_al.interfaces import Line

LEAST_PYTHON: Final = (3, 11)
PACKAGES: Final = ("csp_al", "ase", "pymatgen", "pyxtal", "spglib", "schnetpack")
REINSTALL: Final = "pip install --upgrade --force-reinstall csp_al"
FOUNDATIONS: Final = {"chgnet": "chgnet", "sevennet": "sevenn"}
"""Packages of universal potentials, by the extra that brings each."""
PROGRAMS: Final = {
    "CP2K": ("cp2k.psmp", "cp2k"),
    "ABINIT": ("abinit",),
}
MPI: Final = ("mpirun", "mpiexec")
SCHEDULERS: Final = {"sbatch": "Slurm", "qsub": "PBS or SGE", "bsub": "LSF"}
LEAST_MEMORY: Final = 4.0  # GiB; a pool of 1000 with an ensemble of five takes one to two
LEAST_DISK: Final = 1.0  # GiB; a campaign takes a few hundred MB


def examine() -> list[Line]:
    """One line for each thing that campaigns need or may use here. Never raises: what breaks is a line too."""
    return [
        _python(),
        *map(_package, PACKAGES),
        _torch(),
        *(_foundation(extra, package) for extra, package in FOUNDATIONS.items()),
        _gpaw(),
        _asked("Quantum ESPRESSO", "pw.x"),
        _asked("VASP", "vasp_std"),
        *(_program(name, commands) for name, commands in PROGRAMS.items()),
        _pseudopotentials(),
        _potcars(),
        _mpi(),
        _scheduler(),
        _cores(),
        _memory(),
        _folder(Path.cwd()),
        *(_kind(group, name) for group in kinds.OURS for name in kinds.installed(group)),
    ]


def _python() -> Line:
    least = ".".join(map(str, LEAST_PYTHON))
    remedy = f"Python {least} or newer is needed: make a new environment with it and install csp_al there"
    return sys.version_info >= LEAST_PYTHON, f"Python {sys.version.split()[0]}", remedy


def _package(name: str) -> Line:
    try:
        return True, f"{name} {version(name)}", ""
    except PackageNotFoundError:
        return False, f"{name}: not installed", REINSTALL


def _torch() -> Line:
    try:
        from csp_al.potential.devices import describe_device, resolve_device

        device = resolve_device("auto")
        what = f"torch {version('torch')}, potentials run on {describe_device(device)}"
    except (ImportError, OSError) as error:  # OSError: a shared library that it needs is missing
        return False, f"torch: cannot be imported ({_first_line(error)})", "pip install --force-reinstall torch"
    if device.type == "cuda":
        return True, f"{what}; SchNet by plain torch there, its compiled convolutions are for CPUs", ""
    return True, f"{what}; no CUDA GPU seen", ""


def _foundation(extra: str, package: str) -> Line:
    try:
        return True, f"foundation: {package} {version(package)}", ""
    except PackageNotFoundError:
        remedy = f"only for a campaign that begins with it: pip install 'csp_al[{extra}]'"
        return None, f"foundation: {package} is not installed", remedy


def _gpaw() -> Line:
    """GPAW and its datasets: the reference that pip installs."""
    from csp_al.reference.gpaw import INSTALL, Gpaw, GpawReference

    try:
        missing = Gpaw(GpawReference()).check()
        if not missing:
            from gpaw import setup_paths

            return True, f"GPAW {version('gpaw')}, PAW datasets in {setup_paths[0]}", ""
    except (ImportError, OSError, PackageNotFoundError) as error:
        return False, f"GPAW: cannot be imported ({_first_line(error)})", INSTALL
    what, _, remedy = missing[0][1].partition("; ")
    return None, f"{what} (needed by reference.kind: gpaw)", remedy


def _program(name: str, commands: tuple[str, ...]) -> Line:
    found = _first_on_path(commands)
    if found:
        return True, f"{name}: {found}", ""
    remedy = f"only if you want it as reference: put {' or '.join(commands)} on PATH (on clusters: module load)"
    return None, f"{name}: {' or '.join(commands)} not on PATH", remedy


def _asked(name: str, program: str) -> Line:
    """A program that is asked what it is: another may bear its name."""
    from csp_al.interfaces import ReferenceFailedError
    from csp_al.reference import pw_program, vasp_program

    line = _program(name, (program,))
    found = _first_on_path((program,))
    if not found:
        return line
    version_of = pw_program.version_of if program == pw_program.PROGRAM else vasp_program.version_of
    try:
        return True, f"{name} {version_of((found,))}: {found}", ""
    except ReferenceFailedError as error:
        return False, f"{name}: {error}", f"put the {program} of {name} on PATH (on clusters: module load)"


def _potcars() -> Line:
    from csp_al.reference.vasp import FOLDERS, Vasp, VaspReference

    names = " or ".join(FOLDERS)
    remedy = f"only for VASP: set {names} to the folder that holds potpaw_PBE or POT_GGA_PAW_PBE"
    folder = Vasp(VaspReference(kind="vasp")).folder
    if folder is None:
        return None, f"POTCARs of VASP: neither {' nor '.join(FOLDERS)} is set", remedy
    try:
        count = sum(1 for path in folder.glob("*/*") if path.name.startswith("POTCAR.") or path.is_dir())
    except OSError as error:
        return False, f"POTCARs of VASP: {folder} cannot be read ({error.strerror})", remedy
    return count > 0, f"POTCARs of VASP: {folder}, {count} datasets", remedy


def _pseudopotentials() -> Line:
    remedy = "only for Quantum ESPRESSO: set ESPRESSO_PSEUDO to the folder of your pseudopotentials"
    folder = os.environ.get("ESPRESSO_PSEUDO")
    if not folder:
        return None, "ESPRESSO_PSEUDO: not set", remedy
    try:
        files = sum(path.suffix.lower() == ".upf" for path in Path(folder).iterdir())
    except OSError as error:
        return False, f"ESPRESSO_PSEUDO: {folder} cannot be read ({error.strerror})", remedy
    return files > 0, f"ESPRESSO_PSEUDO: {folder}, {files} UPF files", remedy


def _mpi() -> Line:
    found = _first_on_path(MPI)
    if found:
        return True, f"MPI: {found}", ""
    return None, "MPI: neither mpirun nor mpiexec on PATH", "only for references that run in parallel: install an MPI"


def _scheduler() -> Line:
    for command, name in SCHEDULERS.items():
        found = shutil.which(command)
        if found:
            return True, f"scheduler: {name} ({found})", ""
    remedy = "none is needed on a single machine; on a cluster, run this on a login node"
    return None, f"scheduler: none of {', '.join(SCHEDULERS)} on PATH", remedy


def _cores() -> Line:
    return True, f"cores: {usable_cores()} usable by this process; as many labels run side by side", ""


def _memory() -> Line:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None, "memory: this system does not say", ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    remedy = f"below {LEAST_MEMORY:g} GiB: use a smaller pool, or a smaller relax.batch_atoms"
    return memory >= LEAST_MEMORY, f"memory: {memory:.0f} GiB", remedy


def _folder(folder: Path) -> Line:
    free = shutil.disk_usage(folder).free / 2**30
    what = f"current folder {folder}: {free:.0f} GiB free"
    if not os.access(folder, os.W_OK):
        return False, f"{what}, not writable", "run directories go below the current folder: change to one of yours"
    return free >= LEAST_DISK, f"{what}, writable", "a campaign takes a few hundred MB: free some space"


def _kind(group: str, name: str) -> Line:
    """What an installed package adds. Its code runs to find out whether it does."""
    point = kinds.installed(group)[name][0]
    what = f"{group}: {name}, of {kinds.package_of(point)}"
    if kinds.is_ours(group, name):
        path = point.value.replace(":", ".")
        return None, f"{what}, is not used: the name is ours", f"write its path instead, kind: {path}"
    try:
        kinds.find(group, name)
    except kinds.BrokenKindError as error:
        return False, f"{what}, does not work", f"{error}; mend or remove it"
    return True, what, ""


def _first_on_path(commands: tuple[str, ...]) -> str | None:
    return next((found for command in commands if (found := shutil.which(command))), None)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
