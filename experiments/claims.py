"""What reproduces, and what does not: every claim of the six works, held against the results files.

python experiments/claims.py              # one line for each claim
python experiments/claims.py --json
python experiments/claims.py --markdown   # refreshes the table of docs/studies/reproduction.md

Nothing is read but ``experiments/results/*.json``, and no figure is written by hand but the papers' own.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import claims_frankle_carbin
import claims_han
import claims_hinton
import claims_huang
import claims_lecun
import claims_zhu_gupta
from result_files import reports

from boxwood._internal.report.claims import Claim, Verdict, judge_all, records, refreshed, table

PAGE = Path(__file__).parent.parent / "docs" / "studies" / "reproduction.md"
PAPERS = (
    claims_frankle_carbin,
    claims_huang,
    claims_zhu_gupta,
    claims_han,
    claims_hinton,
    claims_lecun,
)


def claims() -> tuple[Claim, ...]:
    """All claims, in the order of the table."""
    return tuple(claim for paper in PAPERS for claim in paper.claims())


def verdicts() -> tuple[Verdict, ...]:
    """What the results files say about each."""
    return judge_all(claims(), reports())


def main() -> None:
    """Print the verdicts, or refresh the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print them as JSON")
    how.add_argument("--markdown", action="store_true", help=f"refresh the table of {PAGE.name}")
    given = parser.parse_args()
    found = verdicts()
    if given.json:
        print(json.dumps(records(found), indent=1, ensure_ascii=False))
    elif given.markdown:
        PAGE.write_text(refreshed(PAGE.read_text(), table(found)))
    else:
        for each in found:
            print(f"{each.word:9}  {each.claim.paper}: {each.claim.statement}\n{'':11}{each.ours}")
        print(dict(Counter(each.word for each in found)))


if __name__ == "__main__":
    main()
