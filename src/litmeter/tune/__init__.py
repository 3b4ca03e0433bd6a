"""Finds the configuration that serves most on this machine: `make tune`.

What cannot run is left out (``space``); the costs of the parts predict the rate of every configuration
(``costs``); the best of them race in turn until what loses is known (``race``). ``search``, a schedule of the
one loop, does all that, and says what came out (``rows``).
"""
