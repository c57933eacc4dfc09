import sys

from tensorlm.proofs.declared import STUDIES
from tensorlm.studies import main

sys.exit(main(STUDIES))
