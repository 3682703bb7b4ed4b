"""`python -m anyloom` is the command line."""

from anyloom.app.cli import main  # absolute: torch imports `__main__`, and mypy then reads this file under that name

if __name__ == "__main__":
    main()
