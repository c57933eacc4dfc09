"""The declared studies of what can be proven: `python -m tensorlm.proofs NAME --out FOLDER --release`."""

from tensorlm.proofs.certificate_runs import BOX, CERTIFIED, DEEP

STUDIES = {study.name: study for study in (CERTIFIED, BOX, DEEP)}
