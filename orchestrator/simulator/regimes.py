"""Loads in which one part of a policy matters: requests drawn from a workload, at chosen rates."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.planned import ControlPolicy
from orchestrator.simulator.faults import Fault
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.workload import PrefixBlocks, Workload
from stages.types import Stage

MINUTE_S = 60.0
KNOWN = 50
"""Sets of images, and prompts around them, that come again."""
BLOCK_TOKENS = 512
"""Of a prefix cache, as in the Mooncake trace."""

PerMinute = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests per second by minute.

    Attributes:
        text: Without images; shape [minutes].
        images: With images; shape [minutes].
        output: Factor on completion tokens; shape [minutes].
    """

    text: PerMinute
    images: PerMinute
    output: PerMinute


def flat(minutes: int, *, text: float, images: float) -> Load:
    """Return a load of constant rates, in requests per second."""
    each = np.ones(minutes)
    return Load(text=text * each, images=images * each, output=each)


def drawn(work: Workload, load: Load, seed: int, name: str) -> Workload:
    """Return Poisson arrivals at a load's rates whose requests are drawn from a workload's.

    Args:
        work: Has requests with images and without.
        load: The rates.
        seed: Of arrivals and draws.
        name: What results call it.
    """
    rng = np.random.default_rng(seed)
    rows, times_s = [], []
    for rates, pool in ((load.text, work.images == 0), (load.images, work.images > 0)):
        counts = rng.poisson(rates * MINUTE_S)
        minute = np.repeat(np.arange(len(rates)), counts)
        times_s.append((minute + rng.random(len(minute))) * MINUTE_S)
        rows.append(rng.choice(np.flatnonzero(pool), len(minute)))
    row, arrival_s = np.concatenate(rows), np.concatenate(times_s)
    order = np.argsort(arrival_s, kind="stable")
    row, arrival_s = row[order], arrival_s[order]
    factor = load.output[(arrival_s / MINUTE_S).astype(np.int64)]
    output = np.maximum(1, np.rint(work.output_tokens[row] * factor)).astype(np.int32)
    return Workload(
        name=name,
        label=f"requests of {work.name} ({work.label}) at rates of {name}",
        arrival_s=arrival_s,
        images=work.images[row],
        context_tokens=work.context_tokens[row],
        output_tokens=output,
        span_s=len(load.text) * MINUTE_S,
    )


def with_known_images(work: Workload, again: NDArray[np.bool_], rng: np.random.Generator) -> Workload:
    """Return a workload in which some requests carry one of `KNOWN` sets of images; the others' are new.

    Args:
        work: Of which the rest stays.
        again: Which requests; bool [requests].
        rng: Draws the sets.
    """
    new = 1_000 + np.arange(len(work))
    return replace(work, content_ids=np.where(again, rng.integers(0, KNOWN, len(work)), new))


def with_known_prompts(work: Workload) -> Workload:
    """Return a workload in which prompts around the same images are the same, as far as the shorter goes.

    Raises:
        ValueError: It says nothing of its images.
    """
    if work.content_ids is None:
        raise ValueError(f"{work.name} does not say which images are the same")
    lengths = -(-work.context_tokens.astype(np.int64) // BLOCK_TOKENS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    ids = np.repeat(work.content_ids * int(lengths.max(initial=1)), lengths) + within
    blocks = PrefixBlocks(offsets=offsets, ids=ids.astype(np.int32), block_tokens=BLOCK_TOKENS)
    return replace(work, prefix_blocks=blocks)


def with_least(control: ControlPolicy, least: int) -> ControlPolicy:
    """Return a policy by which every stage has so many replicas at least."""
    return replace(control, stages={s: replace(bounds, min=least) for s, bounds in control.stages.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """A load, and what else differs from the subject it is applied to.

    Attributes:
        what: For people, in a few words.
        load: Its rates.
        most: Replicas of a stage at most, where the regime has a quota.
        least: Replicas of every stage at least, where not the policy's.
        budget: Accelerators of all stages together at most, where not the policy's.
        known: Fraction of the requests whose images and prompts come again, one of `KNOWN`.
        slowdown: See `Scenario`.
        faults: What goes wrong.
        queue_s: Backlog that admission lets wait, and six times that until a request is given up, where not
            the policy's; seconds, above 0.
    """

    what: str
    load: Load
    most: Mapping[Stage, int] | None = None
    least: int | None = None
    budget: int | None = None
    known: float = 0.0
    slowdown: float = 1.0
    faults: tuple[Fault, ...] = ()
    queue_s: float | None = None

    def of(self, subject: Subject, name: str, seed: int) -> Subject:
        """Return the subject in this regime."""
        control, policy = subject.control, subject.policy
        for stage, most in (self.most or {}).items():
            bounds = replace(control.stages[stage], max=most)
            control = replace(control, stages={**control.stages, stage: bounds})
        if self.least is not None:
            control = with_least(control, self.least)
        if self.budget is not None:
            control = replace(control, budget=self.budget)
        if self.queue_s is not None:
            patient = replace(policy.admission, queue_s=self.queue_s, deadline_s=6.0 * self.queue_s)
            policy = replace(policy, admission=patient)
            control = replace(control, queue_s=self.queue_s)
        work = drawn(subject.workload, self.load, seed, name)
        if self.known:
            rng = np.random.default_rng((seed, 1))
            work = with_known_prompts(with_known_images(work, rng.random(len(work)) < self.known, rng))
        return replace(
            subject,
            policy=policy,
            control=control,
            workload=work,
            slowdown=self.slowdown,
        )
