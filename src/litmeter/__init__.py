"""Train, serve and load-test an image classifier; explain what limits each LitServe configuration.

The packages in layers; each imports only from the layers below it (``make check`` tests that)::

    cli                           commands and their options
    stages                        a module per stage of dvc.yaml
    report    selftest            diagnosis, tables and plots of the results; checks of the measuring
    tune                          the search of the fastest configuration
    measure                       turns of subjects, schedules, the one loop, its log
    serve                         the server: LitAPI, launcher, direct transport
    training  ceilings  load      fine-tuning; FLOPs and roofline; the load generator
    data                          photographs and their index
    model                         image bytes -> probabilities, compiled models included
    stats     system              pure statistics; files, processes, the machine
    params    paths     errors
"""
