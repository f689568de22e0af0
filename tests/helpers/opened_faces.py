"""Opens the drawn faces once, so that processes forked afterwards do not draw the attributes of all of them again."""

from smartedge.data.drawn.faces import open_drawn

open_drawn(8)
