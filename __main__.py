"""`python -m anyloom` is the command line."""

from anyloom.app.cli import main

if __name__ == "__main__":
    main()
