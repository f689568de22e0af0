"""Images as bytes of one size: decoded once and kept, or streamed.

``readers`` give images by their index, ``images`` keeps them decoded, ``streaming`` decodes them each time, ``loader``
makes batches. ``repeated`` and ``shades`` warn of images that are there twice, or nearly black.
"""
