"""The order in which the back learns from what came, written down so that it can be repeated.

Of several edges that still send: ``mixing`` chooses the next frames, fairly (``share``), and notes them in the
``journal``; ``influence`` finds edges that do not fit the others, ``label_shares`` corrects for their labels. Of
complete logs: ``shuffled`` chooses the images of each step, ``supply`` makes them ready, ``ahead`` does so in other
threads.
"""
