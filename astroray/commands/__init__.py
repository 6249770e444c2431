"""The verbs of the command line, a module a family; cli.py hangs them up."""
