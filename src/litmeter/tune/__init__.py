"""Search of the configuration that serves most on this machine: `make tune`.

What cannot run is left out (``space``); the costs of the parts predict every rate (``costs``); the best race
in turn until what loses is known (``race``). ``search``, a schedule of the one loop, does all that.
"""
