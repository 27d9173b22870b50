"""What a dry run found, and the report of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmengine.dist import all_gather_object, get_world_size

from ..datasets.files import preview


class ProblemsFound(RuntimeError):
    """A dry run has found problems, and has reported them."""


@dataclass
class Findings:
    """What the checks found, each in words.

    Args:
        facts (list[str]): What was set up.
        warnings (list[str]): What may be meant, and may not.
        problems (list[str]): What the run would trip over.
        unchecked (list[str]): What cannot be checked on this machine.
        passed (set[str]): The names of the checks that found no problem.
        skipped (dict[str, str]): The checks that were left out, and the failed one that they need.
    """

    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)

    def gather(self) -> None:
        """Gather those of all ranks, and count a check as passed if it passed on all."""
        if get_world_size() == 1:
            return
        gathered = all_gather_object((self.problems, self.passed, self.warnings))
        self.warnings = [text for _, _, warnings in gathered for text in warnings]
        ranks: dict[str, list[int]] = {}
        for rank, (problems, *_) in enumerate(gathered):
            for problem in problems:
                ranks.setdefault(problem, []).append(rank)
        self.problems = [
            problem if len(at) == len(gathered) else f'{problem} (rank {preview(at)})'
            for problem, at in ranks.items()
        ]
        self.passed = set.intersection(*(passed for _, passed, _ in gathered))

    def report(self, title: str) -> str:
        """All of it, under a title."""
        warnings = dict.fromkeys(self.warnings)
        lines = [*self.facts, *(f'warning: {text}' for text in warnings)]
        lines += [f'not checked here: {text}' for text in self.unchecked]
        for cause in dict.fromkeys(self.skipped.values()):
            names = [name for name, reason in self.skipped.items() if reason == cause]
            lines.append(f'not checked, because of {cause}: {", ".join(names)}')
        verdict = 'All is well.'
        if self.problems:
            return '\n  '.join([title, *lines, self.list_problems()])
        if warnings:
            verdict = f'No problem found; {len(warnings)} warning(s) to read.'
        elif self.unchecked:
            verdict = 'No problem found in what was checked.'
        return '\n  '.join([title, *lines, verdict])

    def list_problems(self) -> str:
        """How many problems there are, and which."""
        problems = [
            f'{i}. ' + text.replace('\n', '\n     ') for i, text in enumerate(self.problems, 1)
        ]
        return '\n  '.join([f'{len(problems)} problem(s):', *problems])
