"""`python -m lensfinder`."""

from lensfinder.cli import main

if __name__ == "__main__":
    main()
