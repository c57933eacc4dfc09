"""The declared studies of what can be proven: `python -m tensorlm.proofs NAME --out FOLDER --release`."""

from tensorlm.proofs.certificate_runs import BOX, CERTIFIED, DEEP
from tensorlm.proofs.compact_runs import COMPACT, RULES
from tensorlm.proofs.expectation_runs import EXPECTATIONS, REAL_INPUTS, TAILS

STUDIES = {study.name: study for study in (CERTIFIED, BOX, DEEP, EXPECTATIONS, TAILS, REAL_INPUTS, COMPACT, RULES)}
