"""The command line of the declared studies."""

import sys

from tensorlm.proofs.declared import STUDIES
from tensorlm.studies import main

if __name__ == "__main__":
    sys.exit(main(STUDIES))
