"""Map the top-level folders to the import root `anyloom` (the root of the repository is the package)."""

from setuptools import find_packages, setup

folders = ["anygpt_model", "nodes", "storage", "graphs", "flows", "app"]
inside = [name for name in find_packages(".") if name.split(".")[0] in folders]
setup(packages=["anyloom", *(f"anyloom.{name}" for name in inside)], package_dir={"anyloom": "."})
