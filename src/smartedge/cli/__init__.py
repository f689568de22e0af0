"""The command line: :mod:`~smartedge.cli.app` wires, and every verb has a module of its own."""
