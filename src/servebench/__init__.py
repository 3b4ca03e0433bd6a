"""How fast can a classifier be served on this machine, with which LitServe configuration, and why.

The rooms follow the stages of dvc.yaml, and imports point one way::

    params, results <- data, model <- training, export, ceilings
                                   <- serving, load, measure <- benchmark <- report
                                               load, measure <- verify, bench
"""
