"""Finds the configuration that serves most on this machine: `make tune`.

What cannot run is left out (``space``); the costs of the parts, measured in-process (``costs``), predict the
rate of every configuration (``prediction``); the best of them race in turn until what loses is known
(``race``). What was measured is kept (``record``).
"""
