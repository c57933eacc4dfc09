"""`python -m tensorlm.data_attribution NAME --out FOLDER --release`: run a study of this room."""

import sys

from tensorlm.data_attribution.declared import STUDIES
from tensorlm.studies import main

if __name__ == "__main__":
    sys.exit(main(STUDIES))
