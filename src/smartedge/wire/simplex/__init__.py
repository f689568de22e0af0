"""The one-way link: datagrams that only ever go from the edge to the cloud.

Nothing comes back: no answer, no confirmation, no request to send again. So what the link may lose is made up for
before it is sent (``blocks``: forward error correction), and every datagram is encrypted and authenticated by itself
(``seal``). ``sender`` keeps to the rate of the link, ``receiver`` marks what is lost all the same.
"""
