"""`python -m chatglm` is the command `chatglm`."""

import sys

from chatglm.cli import main

if __name__ == "__main__":
    sys.exit(main())
