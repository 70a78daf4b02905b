"""The command line of the doctor."""

from __future__ import annotations

import sys
from pathlib import Path

from hiera_mm.doctor.checks import diagnose
from hiera_mm.doctor.facts import gather, probe
from hiera_mm.doctor.report import report


def main() -> int:
    """Print the report; return the exit status, 1 if something is broken."""
    if sys.argv[1:2] == ['--probe']:  # the doctor's own child process, see facts.gather
        probe(Path(sys.argv[2]))
        return 0
    facts = gather()
    problems = diagnose(facts)
    print(report(facts, problems))
    return int(any(not problem.harmless for problem in problems))


if __name__ == '__main__':
    sys.exit(main())
