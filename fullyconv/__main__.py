"""`python -m fullyconv` is the command `fullyconv`."""

import sys

from fullyconv.cli import main

sys.exit(main())
