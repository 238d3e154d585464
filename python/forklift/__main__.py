"""`python -m forklift` is the `forklift` command."""

from forklift.cli import main

if __name__ == "__main__":
    main(prog_name="forklift")
