"""`python -m quantize …` is `quantbench quantize …`."""

import sys

from bench.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["quantize", *sys.argv[1:]]))
