"""``python -m subspect`` is ``subspect``."""

from subspect.cli import main

if __name__ == "__main__":
    main()
