"""Several processes that train one back together.

``group`` joins them. ``shared_step`` is an update by all of them, and ``shared_sum`` adds up what those of one machine
have computed. ``launcher`` starts them, where it can by ``forking``.
"""
