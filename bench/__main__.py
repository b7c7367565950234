"""`python -m bench` is `quantbench`."""

from bench.cli.main import console

if __name__ == "__main__":
    console()
