"""The order in which the back learns from what came, so that it can be repeated.

Of several edges that still send: ``share`` says whose turn it is, the ``journal`` keeps what was chosen, and
``influence`` finds edges that do not fit the others. Of complete logs: ``shuffled`` chooses the images of each step,
``supply`` makes them ready, ``ahead`` does so in other threads.
"""
