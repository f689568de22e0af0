"""The layouts in which data sets lie on disk or are given in Python.

Images as files: ``folder``, ``tabled``, ``celeba`` and ``image_files``, with tables of labels read by ``tables`` and
``cells``. Images in tables: ``columnar``, read by ``stored``, or fetched by ``hub``; ``in_python`` keeps what is given
in Python as such a table. Others: ``webdataset``, ``cifar`` and ``medmnist``. ``listing`` finds the files of a data
set, ``foreign`` knows those of other programs.
"""
