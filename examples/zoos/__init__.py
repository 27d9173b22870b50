"""The models that ``sweep_zoos.py`` goes through, one file per package that they come from."""
