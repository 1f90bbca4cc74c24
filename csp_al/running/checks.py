"""A campaign, checked against what is installed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from csp_al.campaign import Campaign, CampaignError, CampaignFile, open_campaign, size, species_counts
from csp_al.campaign.checks import LEAST_LABELS
from csp_al.campaign.errors import Finding, KeyPath, Misfit, Problem
from csp_al.campaign.machine import Machine, cores_of_this_process
from csp_al.campaign.open_section import Kept
from csp_al.campaign.read import sound_reference
from csp_al.foundation.universal import Universal, build_foundation
from csp_al.importing import ImportPathError, UnaskedError, beside, find_named, is_looking, which_of_several
from csp_al.interfaces import Reference
from csp_al.kinds import POTENTIALS, REFERENCES, SOURCES, STRATEGIES, BrokenKindError, find, is_ours
from csp_al.printing import say
from csp_al.reference.references import build_reference, places, reference_kind
from csp_al.store.run_directory import SETTINGS

STRATEGY: Final[KeyPath] = ("select", "strategy")


def to_standard_error(doubt: Problem) -> None:
    """Say what nothing stops for."""
    say(f"Warning: {doubt}", err=True)


def checked_campaign(path: Path, machine: Machine, tell: Callable[[Problem], None] = to_standard_error) -> CampaignFile:
    """Read a campaign file, and the labels and seeds that it names, and ask the reference whether it can run here.

    Doubts are told. Raises CampaignError. While nothing may be run that the file names
    (`csp_al.importing.looking_only`), what would be is told.
    """
    try:
        file = open_campaign(path)
    except CampaignError as error:
        raise CampaignError([*error.problems, *_of_reference(path, machine, error.problems)]) from None
    campaign = file.campaign
    doubts = list(_unknown_kinds(campaign, path.parent))
    reference = None if isinstance(campaign.reference, Kept) else reference_of(campaign, machine, path.parent)
    findings = [Finding(("reference", key), message) for key, message in (reference.check() if reference else ())]
    if not findings and reference:
        campaign = campaign.model_copy(update={"reference": reference.pinned()})
    # those of a run are told by the reference that is pinned, which one that lacks something is not
    if not findings or not any((path.parent / one.path / SETTINGS).exists() for one in campaign.labels):
        findings.extend(_labels(campaign, path.parent, doubts.append))
    findings.extend(_time(campaign, machine))
    findings.extend(_foundation(campaign, machine, path.parent, reference, doubts.append))
    findings.extend(_seeds(file.campaign, path.parent))
    findings.extend(_strategy(file.campaign, path.parent))
    wrong = [file.problem(finding.key, finding.message) for finding in findings]
    if wrong:
        raise CampaignError(wrong)
    doubts += [Finding(("reference", key), message) for key, message in (reference.warnings() if reference else ())]
    pools = zip(("pool", "search_pool"), campaign.pools, strict=False)
    doubts += [Finding((name, *found.key), found.message) for name, pool in pools for found in size.doubts(pool)]
    with beside(path.parent):
        doubts += _modules_in_several_places(file.campaign)
    for doubt in doubts:
        tell(file.problem(doubt.key, doubt.message))
    return file


def checked_again(campaign: Campaign, machine: Machine, base: Path) -> Campaign:
    """The campaign of a run directory, if its reference can still run here. Raises ValueError with what lacks."""
    section = campaign.reference
    # seen from a folder that is gone; checksums tell whether another place holds the same
    gone = {key: None for key, place in _places(campaign, base).items() if not place.exists()}
    campaign = campaign.model_copy(update={"reference": section.model_copy(update=gone)})
    wrong = reference_of(campaign, machine, base).check()
    if wrong:
        raise ValueError("\n".join(f"{campaign.name}: reference.{key}: {message}" for key, message in wrong))
    wrong_foundation = list(_foundation(campaign, machine, base, None, lambda _: None))
    if wrong_foundation:
        raise ValueError("\n".join(f"{campaign.name}: {finding}" for finding in wrong_foundation))
    if others := [*_strategy(campaign, base), *_time(campaign, machine)]:
        raise ValueError(f"{campaign.name}: {others[0]}")
    return campaign


def for_workers(machine: Machine, campaign: Campaign, base: Path) -> Machine:
    """The machine as workers are told of it: no file name depends on where they are."""
    given = {"modules": machine.modules or base, "pseudo_dir": machine.pseudo_dir}
    folders = {key: Path(folder).expanduser() for key, folder in given.items() if folder}
    folders |= _places(campaign, base)
    return machine.model_copy(update={key: str(folder.resolve()) for key, folder in folders.items()})


def _places(campaign: Campaign, base: Path) -> dict[str, Path]:
    """Where things are that the reference section names, by key."""
    named = {key: getattr(campaign.reference, key) for key in places(campaign.reference)}
    return {key: base / Path(place).expanduser() for key, place in named.items() if place is not None}


def reference_of(campaign: Campaign, machine: Machine, base: Path) -> Reference:
    """The reference method of a campaign here."""
    return build_reference(campaign.reference, list(species_counts(campaign.pool.formula)), machine, base)


def foundation_of(campaign: Campaign, machine: Machine, base: Path, device: str = "cpu") -> Universal | None:
    """The foundation of a campaign here, if it has one; whoever asks it something closes it."""
    if campaign.foundation is None:
        return None
    return build_foundation(campaign.foundation, machine, base, device, cores_of_this_process())


def _foundation(
    campaign: Campaign, machine: Machine, base: Path, reference: Reference | None, tell: Callable[[Finding], None]
) -> Iterator[Finding]:
    """What is wrong with the foundation here; doubts are told. One that is code of yours is not started in a look."""
    section = campaign.foundation
    if section is None:
        return
    if is_looking() and not section.is_ours:
        found = f"{section.model} was not started: it may run any code"
        return tell(Finding(("foundation", "model"), f"{found}; --trust does that, as csp-al run"))
    universal = build_foundation(section, machine, base)
    try:
        wrong = universal.check(list(species_counts(campaign.pool.formula)))
        yield from wrong
        if not wrong and reference is not None:
            _doubt_functional(campaign, reference, universal, tell)
    finally:
        universal.close()


def _doubt_functional(
    campaign: Campaign, reference: Reference, universal: Universal, tell: Callable[[Finding], None]
) -> None:
    ours, theirs = reference_kind(campaign.reference).functional(reference), universal.about.functional
    if ours and theirs and ours.casefold() != theirs.casefold():
        model = universal.section.model
        words = f"{model} learned {theirs}, and the reference is {ours}; where these differ, it chooses for another one"
        tell(Finding(("foundation", "model"), words))


def _of_reference(path: Path, machine: Machine, known: Sequence[Problem]) -> Iterator[Problem]:
    """What else is wrong with the reference of a file with these problems, and lacks here."""
    sound = sound_reference(path, known)
    if sound is None or isinstance(sound[1], Kept):
        return
    document, section, species = sound
    lacking = build_reference(section, species, machine, path.parent).check()
    found = [*section.senseless(), *(Finding((key,), message) for key, message in lacking)]
    told = {problem.key for problem in known}
    problems = [document.problem(replace(finding, key=("reference", *finding.key))) for finding in found]
    yield from (problem for problem in problems if problem.key not in told)


def _time(campaign: Campaign, machine: Machine) -> Iterator[Finding]:
    """Why an evaluation may take longer than there is time for it."""
    needed, there = campaign.reference.longest_evaluation, machine.longest_evaluation
    if needed > there:
        words = f"an evaluation may take {needed:g} s, and a pilot works for {there:g} s (walltime of the machine file)"
        yield Finding(("reference", "time_limit"), f"{words}: lower the one, or raise the other")


def _strategy(campaign: Campaign, folder: Path) -> Iterator[Finding]:
    """Why the strategy cannot be imported."""
    try:
        with beside(folder):
            find(STRATEGIES, campaign.select.strategy)
    except BrokenKindError as error:
        if not isinstance(error.__cause__, UnaskedError):
            yield Finding(STRATEGY, str(error))


def _seeds(campaign: Campaign, folder: Path) -> Iterator[Finding]:
    """What is wrong with the seeds of the pools."""
    from csp_al.campaign.constraints import resolve
    from csp_al.generate.seeds import find_seeds

    for name, pool in zip(("pool", "search_pool"), campaign.pools, strict=False):
        seeds, wrong = find_seeds(pool.seeds, resolve(pool), folder)
        yield from (Finding((name, "seeds", row), message) for row, message in wrong)
        if not wrong and not campaign.labels and pool.size + len(seeds) < LEAST_LABELS:
            yield Finding((name, "seeds"), f"one candidate in all; an ensemble needs labels of {LEAST_LABELS} at least")


def _unknown_kinds(campaign: Campaign, folder: Path) -> Iterator[Finding]:
    """Kinds that were not imported, since nobody asked for that, and where they are."""
    if not is_looking():
        return
    for key, path in _named_kinds(campaign):
        if "." in path:
            try:
                with beside(folder):
                    find_named(path)
            except ImportPathError as error:
                unchecked = "" if key == STRATEGY else ", so that its keys were not checked"
                yield Finding(key, f"{error}{unchecked}; --trust does that, as csp-al run")


def _named_kinds(campaign: Campaign) -> list[tuple[KeyPath, str]]:
    """Kinds that are not ours, and where they are named."""
    places: dict[str, KeyPath] = {
        REFERENCES: ("reference", "kind"),
        POTENTIALS: ("potential", "kind"),
        SOURCES: ("pool", "sources", "kind"),
        STRATEGIES: STRATEGY,
    }
    return [(places[group], kind) for group, kind in campaign.kinds if not is_ours(group, kind)]


def _modules_in_several_places(campaign: Campaign) -> Iterator[Finding]:
    """Import paths that could mean two modules, and which is taken."""
    for key, path in (
        *_named_kinds(campaign),
        (("reference", "calculator"), getattr(campaign.reference, "calculator", "")),
    ):
        if words := which_of_several(path) if "." in path else "":
            yield Finding(key, words)


def _labels(campaign: Campaign, folder: Path, tell: Callable[[Finding], None]) -> tuple[Finding, ...]:
    """What is wrong with the labels from elsewhere, as far as can be said without the reference method."""
    if not campaign.labels:
        return ()
    from csp_al.loop.label_set import read_labels

    try:
        read_labels(campaign, folder, tell)
    except Misfit as misfit:
        return misfit.findings
    return ()
